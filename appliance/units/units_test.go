package units

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestReadSockets(t *testing.T) {
	dir := t.TempDir()
	if files, err := ReadSockets(dir); err != nil || len(files) != 0 {
		t.Errorf("nothing written: %v, %v", files, err)
	}
	if err := WriteSockets(dir, document()); err != nil {
		t.Fatal(err)
	}
	want, _ := Sockets(document())
	got, err := ReadSockets(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name := range want {
		if service := DynamicSockets()[name]; !strings.Contains(string(want[name]), "\nService="+service+"\n") {
			t.Errorf("%s belongs to %q", name, service)
		}
	}
}

// TestTrialGuard: the guard works without any program, stands in nobody's way in
// an ordinary boot, and starts before anything that a release may have broken.
func TestTrialGuard(t *testing.T) {
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	timer, guard := string(files[unitDir+"/"+trialGuard+".timer"]), string(files[unitDir+"/"+trialGuard+".service"])
	for _, line := range []string{"DefaultDependencies=no", "ConditionPathExists=" + layout.TrialMark} {
		if !strings.Contains(timer, "\n"+line+"\n") || !strings.Contains(guard, "\n"+line+"\n") {
			t.Errorf("timer and service must both say %s", line)
		}
	}
	for _, line := range []string{"ConditionPathExists=!" + layout.BlessedMark, "SuccessAction=reboot-force", "FailureAction=reboot-force", "Type=oneshot"} {
		if !strings.Contains(guard, "\n"+line+"\n") {
			t.Errorf("the service must say %s", line)
		}
	}
	if strings.Contains(guard, "Exec") {
		t.Error("the service starts a program, which may be what is broken")
	}
	_, after, _ := strings.Cut(timer, "\nOnActiveSec=")
	text, _, _ := strings.Cut(after, "\n")
	wait, err := time.ParseDuration(strings.TrimSuffix(text, "in"))
	if err != nil || wait < 6*time.Minute || wait > 15*time.Minute {
		t.Errorf("the timer waits for %q; the health gate needs 4 minutes and the boot before it", text)
	}
	link := unitDir + "/sysinit.target.wants/" + trialGuard + ".timer"
	if target := Symlinks()[link]; target != "../"+trialGuard+".timer" {
		t.Errorf("%s → %q", link, target)
	}
}
