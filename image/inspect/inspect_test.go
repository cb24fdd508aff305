package inspect

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// box is a small root file system without a fault.
func box(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range mounted() {
		makeDir(t, dir, d)
	}
	for name, text := range map[string]string{
		"/etc/passwd":                   "root:x:0:0:root:/:/nonexistent\nrelayd:x:903:903::/:/nonexistent\n",
		"/etc/group":                    "root:x:0:\nrelayd:x:903:\n",
		"/usr/lib/systemd/pforte":       "",
		"/etc/systemd/system.conf":      "[Manager]\n",
		unitDirs()[1] + "/basic.target": "[Unit]\nAfter=nothing.target\n",
		unitDirs()[1] + "/boot.target":  "[Unit]\nRequires=basic.target\nWants=relayd.service\nAfter=basic.target\n",
		unitDirs()[1] + "/relayd.service": "[Unit]\nRequires=relayd.socket\nAfter=relayd.socket\n[Service]\nUser=relayd\nExecStart=/usr/bin/relayd -v\n" +
			"ExecStartPre=-+helper\n",
		unitDirs()[1] + "/relayd.service.d/10-more.conf": "[Service]\nSupplementaryGroups=root\n",
		unitDirs()[1] + "/relayd.socket":                 "[Socket]\nListenStream=/run/relayd.sock\nSocketUser=relayd\nSocketGroup=relayd\nService=relayd.service\n",
	} {
		write(t, dir, name, 0o644, text)
	}
	write(t, dir, "/usr/lib64/ld.so", 0o755, string(program(object{})))
	write(t, dir, "/usr/lib/liba.so", 0o644, string(program(object{needs: []string{"libhidden.so"}})))
	write(t, dir, "/usr/lib/hidden/libhidden.so", 0o644, string(program(object{})))
	write(t, dir, "/usr/bin/bb", 0o755, string(program(object{interpreter: "/lib64/ld.so", needs: []string{"liba.so", "libhidden.so"}, dirs: []string{"$ORIGIN/../lib/hidden"}})))
	write(t, dir, "/usr/bin/helper", 0o755, string(program(object{})))
	for name, target := range map[string]string{
		"/lib64": "usr/lib64", "/usr/bin/relayd": "bb", "/etc/resolv.conf": "/run/netd/resolv.conf", "/etc/mtab": "../proc/self/mounts",
		unitDirs()[0] + "/default.target": unitDirs()[1] + "/boot.target",
	} {
		link(t, dir, name, target)
	}
	for _, name := range logins() {
		link(t, dir, path.Join(unitDirs()[0], name), "/dev/null")
	}
	return dir
}

func makeDir(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name string, perm fs.FileMode, text string) {
	t.Helper()
	makeDir(t, dir, path.Dir(name))
	host := filepath.Join(dir, name)
	if err := os.WriteFile(host, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(host, perm); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, dir, name, target string) {
	t.Helper()
	makeDir(t, dir, path.Dir(name))
	if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func TestAGoodBoxHasNoFault(t *testing.T) {
	found, err := Root(box(t))
	if err != nil || len(found) > 0 {
		t.Fatalf("found %v, %v", found, err)
	}
}

// broken is one change that makes the good box faulty in one way.
type broken struct {
	name   string
	change func(t *testing.T, dir string)
	rule   string
	want   string // in the fault's text
}

func file(name string, perm fs.FileMode, text string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { t.Helper(); write(t, dir, name, perm, text) }
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func leads(name, target string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { t.Helper(); link(t, dir, name, target) }
}

func elfFile(name string, o object) func(*testing.T, string) {
	return func(t *testing.T, dir string) { t.Helper(); write(t, dir, name, 0o755, string(program(o))) }
}

func brokenFiles() []broken {
	return []broken{
		{"set-user-id", file("/usr/bin/x", 0o755|fs.ModeSetuid, ""), "mode", "becomes somebody else"},
		{"set-group-id", file("/usr/bin/x", 0o755|fs.ModeSetgid, ""), "mode", "becomes somebody else"},
		{"writable for all", file("/etc/x", 0o646, ""), "mode", "writable"},
		{"writable for a group", file("/etc/x", 0o664, ""), "mode", "writable"},
		{"writable folder", func(t *testing.T, dir string) {
			makeDir(t, dir, "/opt")
			if err := os.Chmod(filepath.Join(dir, "opt"), 0o777|fs.ModeSticky); err != nil {
				t.Fatal(err)
			}
		}, "mode", "writable"},
		{"pipe", func(t *testing.T, dir string) {
			if err := unix.Mkfifo(filepath.Join(dir, "etc/pipe"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "mode", "made at boot"},
		{"attribute", func(t *testing.T, dir string) {
			if err := unix.Setxattr(filepath.Join(dir, "usr/bin/bb"), "user.pforte", []byte("x"), 0); err != nil {
				t.Fatalf("set an attribute: %v; the folder for temporary files must be on a file system that has user attributes", err)
			}
		}, "attributes", "user.pforte"},
		{"shell", file("/usr/bin/sh", 0o755, ""), "name", "a shell"},
		{"shell by a link", leads("/usr/bin/busybox", "bb"), "name", "a shell"},
		{"login", file("/usr/sbin/agetty", 0o755, ""), "name", "a login"},
		{"SSH", file("/usr/sbin/sshd", 0o755, ""), "name", "a login"},
		{"password file", file("/etc/shadow", 0o600, ""), "name", "no passwords"},
		{"mark of an initramfs", file("/etc/initrd-release", 0o644, ""), "name", "wait for another"},
		{"generator", file("/usr/lib/systemd/system-generators/x", 0o755, ""), "name", "unasked"},
		{"script", file("/usr/bin/x", 0o755, "#!/usr/bin/bb\n"), "content", "a script"},
		{"private key", file("/usr/share/x.pem", 0o644, "-----BEGIN EC PRIVATE KEY-----\n"), "content", "private key"},
		{"hidden shell", file("/usr/bin/x", 0o755, string(program(object{}))+"BusyBox v1.37.0"), "content", "BusyBox"},
		{"dangling link", leads("/usr/lib/x", "nothing"), "link", "/usr/lib/nothing, which does not exist"},
		{"link in a circle", leads("/usr/lib/x", "x"), "link", "does not exist"},
		{"link out of the image", leads("/etc/hostname", "/run/hostname"), "link", "others than the image"},
		{"link to null elsewhere", leads("/etc/x", "/dev/null"), "link", "others than the image"},
	}
}

func brokenPrograms() []broken {
	return []broken{
		{"missing library", remove("/usr/lib/liba.so"), "library", "library liba.so is missing"},
		{"missing library of a library", file("/usr/lib/liba.so", 0o644, string(program(object{needs: []string{"libb.so"}}))), "library", "libb.so is missing, which /usr/lib/liba.so needs"},
		{"library that nobody names", elfFile("/usr/lib/plugin.so", object{needs: []string{"libc.so"}}), "library", "library libc.so is missing"},
		{"missing interpreter", elfFile("/usr/bin/x", object{interpreter: "/lib/ld.so"}), "library", "interpreter /lib/ld.so is missing"},
		{"library outside /usr", elfFile("/usr/bin/x", object{dirs: []string{"/var/lib/x"}}), "library", "looks for libraries in /var/lib/x"},
		{"writable code", elfFile("/usr/bin/x", object{faults: []string{"wx"}}), "library", "writable and executable"},
		{"unknown program", remove("/usr/bin/helper"), "program", "starts helper"},
		{"program that cannot be run", file("/usr/bin/helper", 0o644, ""), "program", "starts helper"},
		{"program by a dangling link", remove("/usr/bin/bb"), "program", "starts /usr/bin/relayd"},
	}
}

func brokenUnits() []broken {
	unit := func(name, text string) func(*testing.T, string) {
		return file(path.Join(unitDirs()[1], name), 0o644, text)
	}
	const relayd = "relayd.service.d/20-x.conf"
	return []broken{
		{"unmasked login", remove(unitDirs()[0] + "/rescue.service"), "mask", "not masked"},
		{"login instead of a mask", func(t *testing.T, dir string) {
			remove(unitDirs()[0]+"/getty@.service")(t, dir)
			unit("getty@.service", "[Service]\nExecStart=/usr/bin/bb\n")(t, dir)
		}, "mask", "not masked"},
		{"unknown user", unit(relayd, "[Service]\nUser=mail\n"), "user", "mail is not in /etc/passwd"},
		{"unknown group", unit(relayd, "[Service]\nSupplementaryGroups=tss\n"), "user", "tss is not in /etc/group"},
		{"unknown group for all services", unit("service.d/x.conf", "[Service]\nGroup=mail\n"), "user", "mail is not in /etc/group"},
		{"unknown user of a socket", unit("relayd.socket.d/x.conf", "[Socket]\nSocketUser=mail\n"), "user", "mail is not in /etc/passwd"},
		{"wanted unit", unit("boot.target.d/x.conf", "[Unit]\nWants=apid.service\n"), "reference", "needs apid.service, which does not exist"},
		{"unit wanted by a link", leads(unitDirs()[1]+"/boot.target.wants/boot2.target", "../boot.target"), "reference", "needs boot2.target"},
		{"unit wanted further on", unit("basic.target.d/x.conf", "[Unit]\nRequires=sysinit.target\n"), "reference", "needs sysinit.target"},
		{"masked unit wanted", unit("basic.target.d/x.conf", "[Unit]\nRequires=rescue.service\n"), "reference", "masked"},
		{"order", unit(relayd, "[Unit]\nAfter=netd.service\n"), "reference", "order names netd.service"},
		{"missing socket", remove(unitDirs()[1] + "/relayd.socket"), "reference", "needs relayd.socket"},
		{"timer without its service", func(t *testing.T, dir string) {
			unit("boot.target.d/x.conf", "[Unit]\nWants=nightly.timer\n")(t, dir)
			unit("nightly.timer", "[Timer]\nOnActiveSec=1d\n")(t, dir)
		}, "reference", "needs nightly.service"},
		{"network port", unit("relayd.socket.d/x.conf", "[Socket]\nListenStream=25\n"), "listener", "listens on 25"},
		{"password", file("/etc/passwd", 0o644, "root::0:0::/:/nonexistent\nrelayd:x:903:903::/:/nonexistent\n"), "account", "root has a password"},
		{"login program", file("/etc/passwd", 0o644, "root:x:0:0::/:/usr/bin/bb\nrelayd:x:903:903::/:/nonexistent\n"), "account", "root has a login program"},
		{"second root", file("/etc/passwd", 0o644, "root:x:0:0::/:/x\nrelayd:x:0:903::/:/x\n"), "account", "relayd has the number of root"},
		{"torn account", file("/etc/group", 0o644, "root:x:0:\nrelayd:x:903\n"), "account", "4 fields"},
	}
}

// TestEveryRuleCanFail breaks the good box in one way after the other. A change
// may break more than one rule, but must break the one that it is about.
func TestEveryRuleCanFail(t *testing.T) {
	proven := map[string]bool{}
	for _, tests := range [][]broken{brokenFiles(), brokenPrograms(), brokenUnits()} {
		for _, tt := range tests {
			dir := box(t)
			tt.change(t, dir)
			found, err := Root(dir)
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
				continue
			}
			if !slices.ContainsFunc(found, func(f Fault) bool { return f.Rule == tt.rule && strings.Contains(f.Text, tt.want) }) {
				t.Errorf("%s: found %v, want a fault of rule %s with %q", tt.name, found, tt.rule, tt.want)
				continue
			}
			proven[tt.rule] = true
		}
	}
	for _, r := range rules() {
		if !proven[r.name] {
			t.Errorf("rule %s was never broken", r.name)
		}
	}
	if empty, err := Root(t.TempDir()); err != nil || len(empty) < 3 {
		t.Errorf("an empty box has the faults %v, %v", empty, err)
	}
}
