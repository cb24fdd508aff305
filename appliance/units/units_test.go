package units

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

func document() *config.Document {
	return &config.Document{Network: config.Network{Interfaces: []config.Interface{
		{Name: "t0", Role: config.RoleTenant, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24"), netip.MustParsePrefix("fd10:10::2/64")}},
		{Name: "p0", Role: config.RoleProvider, Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.0.2/24")}},
		{Name: "m0", Role: config.RoleManagement, Addresses: []netip.Prefix{netip.MustParsePrefix("10.30.0.2/24")}},
	}}}
}

func TestSocketsListenOnlyWhereTheRoleIs(t *testing.T) {
	files, wants := Sockets(document())
	want := map[string][]string{
		"smtp-25.socket":    {"10.10.0.2:25", "[fd10:10::2]:25"},
		"smtp-465.socket":   {"10.10.0.2:465", "[fd10:10::2]:465"},
		"smtp-1465.socket":  {"10.20.0.2:1465"},
		"apid-https.socket": {"10.30.0.2:8443"},
	}
	got := map[string][]string{}
	for name, data := range files {
		for line := range strings.Lines(string(data)) {
			if addr, ok := strings.CutPrefix(strings.TrimSpace(line), "ListenStream="); ok {
				got[name] = append(got[name], addr)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(wants) != len(want) {
		t.Errorf("sockets.target wants %v", wants)
	}
}

func TestMailSocketsStayShutOnALockedBox(t *testing.T) {
	files, _ := Sockets(document())
	for name, data := range files {
		locked := strings.Contains(string(data), "ConditionPathExists=!"+layout.LockedMark)
		if mail := strings.HasPrefix(name, "smtp-"); locked != mail {
			t.Errorf("%s: closed on a locked box: %v, want %v", name, locked, mail)
		}
	}
}

func TestWriteSocketsReplaces(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "foreign.socket"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteSockets(dir, document()); err != nil {
		t.Fatal(err)
	}
	doc := document()
	doc.Network.Interfaces = doc.Network.Interfaces[1:] // the tenant network is gone
	if err := WriteSockets(dir, doc); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"apid-https.socket", "foreign.socket", "smtp-1465.socket", "sockets.target.wants"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func TestEveryServiceHasItsUser(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	passwd := string(files["/etc/passwd"])
	for _, s := range Services() {
		unit := string(files[unitDir+"/"+s+".service"])
		_, rest, ok := strings.Cut(unit, "\nUser=")
		if !ok {
			if s != "updated" { // root, see layout.UIDUpdated
				t.Errorf("%s.service runs as root", s)
			}
			continue
		}
		user, _, _ := strings.Cut(rest, "\n")
		if !strings.Contains(passwd, "\n"+user+":x:") {
			t.Errorf("%s.service: user %s is not in /etc/passwd", s, user)
		}
	}
}

// lists are the settings that add up over several lines and files.
func lists() []string {
	return []string{"SystemCallFilter", "DeviceAllow", "ReadWritePaths", "ConditionPathExists", "Before", "After", "Conflicts"}
}

// settings counts how often a unit file sets what.
func settings(text []byte) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(string(text)) {
		if key, _, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			out[key]++
		}
	}
	return out
}

// TestNoSettingIsOverridden: the drop-in is read last, so whatever it sets would
// win over the service's own unit without a word.
func TestNoSettingIsOverridden(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	common := settings(hardening)
	for _, s := range Services() {
		own := settings(files[unitDir+"/"+s+".service"])
		for key, n := range own {
			if slices.Contains(lists(), key) {
				continue
			}
			if n > 1 || common[key] > 0 {
				t.Errorf("%s.service: %s is set %d times there and %d times in hardening.conf; it must stand once", s, key, n, common[key])
			}
		}
		for _, key := range []string{"UMask", "StandardOutput", "CapabilityBoundingSet", "RestrictAddressFamilies", "ProcSubset", "MemoryMax", "TasksMax"} {
			if own[key] != 1 {
				t.Errorf("%s.service does not set %s; each service has to say it for itself", s, key)
			}
		}
	}
	if len(common) < 20 || settings([]byte("# A=1\nB=2\nB=3\n"))["B"] != 2 {
		t.Error("the settings were not read")
	}
}
