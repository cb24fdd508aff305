package image_test

import (
	"context"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/units"
	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// Exposure is what systemd-analyze security says of a unit: 0.0 can do nothing,
// 10.0 everything.
const (
	// maxServer bounds the services that listen on the network.
	maxServer = 1.5
	// maxService bounds the others, clients of the network among them.
	maxService = 2.5
)

// servers are the services that strangers can speak to.
func servers() []string { return []string{"relayd", "apid"} }

func TestHardening(t *testing.T) {
	if os.Getenv("SHORT") == "1" {
		t.Skip("SHORT=1: needs Debian's packages and the whole userland")
	}
	staged, err := image.Stage(t.Context(), image.Options{OutDir: t.TempDir()}) // inspects the root, too
	if err != nil {
		t.Fatal(err)
	}
	t.Run("exposure", func(t *testing.T) { testExposure(t, staged) })
	t.Run("verify", func(t *testing.T) { testVerify(t, staged) })
	t.Run("refused", testRefused)
}

// testRefused shows that a root with a shell never becomes an image.
func testRefused(t *testing.T) {
	overlay := t.TempDir()
	if err := os.MkdirAll(filepath.Join(overlay, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(overlay, "usr/bin/sh"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := image.Stage(t.Context(), image.Options{OutDir: t.TempDir(), Overlay: overlay})
	if err == nil || !strings.Contains(err.Error(), "/usr/bin/sh: a shell") {
		t.Errorf("a root with a shell: %v", err)
	}
}

// exposureLine is how systemd-analyze closes its report on a unit.
var exposureLine = regexp.MustCompile(`exposure level for (\S+): (\d+\.\d)`)

// exposure asks Debian 13's systemd-analyze about one unit of a root. ok is its
// own verdict on the limit.
func exposure(ctx context.Context, t *testing.T, set *debian.Set, root, unit string, limit float64) (value float64, ok bool) {
	t.Helper()
	cmd, err := set.Command(ctx, "/usr/bin/systemd-analyze", "security", "--offline=true", "--root="+root, "--no-pager",
		"--threshold="+strconv.Itoa(int(limit*10)), unit)
	if err != nil {
		t.Fatal(err)
	}
	out, runErr := cmd.CombinedOutput()
	found := exposureLine.FindSubmatch(out)
	if found == nil {
		t.Fatalf("systemd-analyze security %s: %v: %s", unit, runErr, out)
	}
	if value, err = strconv.ParseFloat(string(found[2]), 64); err != nil {
		t.Fatal(err)
	}
	return value, runErr == nil
}

// testExposure measures every service in the root, ours against their limits,
// and Debian's own to be seen.
func testExposure(t *testing.T, staged *image.Staged) {
	found, err := filepath.Glob(filepath.Join(staged.Root, "usr/lib/systemd/system/*.service"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := units.Files()
	if err != nil {
		t.Fatal(err)
	}
	const none = 10.0
	var sandboxed int
	for _, host := range found {
		unit := filepath.Base(host)
		name := strings.TrimSuffix(unit, ".service")
		limit, note := none, "Debian's"
		text, ours := files["/usr/lib/systemd/system/"+unit]
		switch {
		case ours && !strings.Contains(string(text), "\nExec"):
			note = "starts no program"
		case slices.Contains(servers(), name):
			limit, note = maxServer, "ours"
		case ours:
			limit, note = maxService, "ours"
		}
		if slices.Contains(units.Services(), name) {
			sandboxed++
		}
		value, ok := exposure(t.Context(), t, staged.Set, staged.Root, unit, limit)
		t.Logf("%-36s exposure %4.1f of at most %4.1f  %s", unit, value, limit, note)
		if !ok || value > limit {
			t.Errorf("%s: exposure %.1f is above %.1f; `systemd-analyze security --offline=true --root=build/root %s` says why", unit, value, limit, unit)
		}
	}
	if sandboxed != len(units.Services()) {
		t.Errorf("%d of our %d services are in the root", sandboxed, len(units.Services()))
	}
	// The test can fail: without a sandbox a service is over any limit.
	bare := t.TempDir()
	dir := filepath.Join(bare, "usr/lib/systemd/system")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bare.service"), []byte("[Service]\nExecStart=/bin/true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if value, ok := exposure(t.Context(), t, staged.Set, bare, "bare.service", maxService); ok || value < 9 {
		t.Errorf("a service without a sandbox has an exposure of %.1f and passes: %v", value, ok)
	}
}

// testVerify lets systemd itself read our units and those that the configuration
// makes: an unknown or misplaced setting is only a line in its log, on the box
// as here.
func testVerify(t *testing.T, staged *image.Staged) {
	dir := filepath.Join(staged.Root, "run/systemd/system")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	doc := &config.Document{Network: config.Network{Interfaces: []config.Interface{
		{Name: "t0", Role: config.RoleTenant, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24"), netip.MustParsePrefix("fd10:10::2/64")}},
		{Name: "p0", Role: config.RoleProvider, Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.0.2/24")}},
		{Name: "m0", Role: config.RoleManagement, Addresses: []netip.Prefix{netip.MustParsePrefix("10.30.0.2/24")}},
	}}}
	if err := units.WriteSockets(dir, doc); err != nil {
		t.Fatal(err)
	}
	files, err := units.Files()
	if err != nil {
		t.Fatal(err)
	}
	verify := func() string {
		args := []string{"verify", "--root=" + staged.Root, "--man=no", "--generators=no", "default.target"}
		for name := range files {
			if strings.HasPrefix(name, "/usr/lib/systemd/system/") && !strings.HasSuffix(name, ".conf") {
				args = append(args, path.Base(name))
			}
		}
		_, wants := units.Sockets(doc)
		cmd, err := staged.Set.Command(t.Context(), "/usr/bin/systemd-analyze", append(args, wants...)...)
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-analyze verify: %v: %s", err, out)
		}
		return string(out)
	}
	if said := verify(); said != "" {
		t.Errorf("systemd says of our units:\n%s", said)
	}
	// The test can fail: a slip of the pen is reported.
	if err := os.WriteFile(filepath.Join(dir, "smtp-25.socket"), []byte("[Socket]\nListenStraem=25\nListenStream=25\nService=relayd.service\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if said := verify(); !strings.Contains(said, "ListenStraem") {
		t.Errorf("systemd says of a slip of the pen: %q", said)
	}
}
