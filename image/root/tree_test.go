package root

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTreeFaults(t *testing.T) {
	for _, tt := range []struct {
		name string
		add  func(*Tree) error
		want string
	}{
		{"twice", func(x *Tree) error { return x.File("/etc/a", nil, 0o644) }, "two lists"},
		{"below a file", func(x *Tree) error { return x.File("/etc/a/b", nil, 0o644) }, "no folder"},
		{"below a link", func(x *Tree) error { return x.File("/bin/sh", nil, 0o755) }, "no folder"},
		{"relative", func(x *Tree) error { return x.File("etc/b", nil, 0o644) }, "absolute"},
		{"not clean", func(x *Tree) error { return x.Link("/etc/../b", "c") }, "absolute"},
		{"set-user-id", func(x *Tree) error { return x.File("/usr/bin/su", nil, 0o755|fs.ModeSetuid) }, "set-user-id"},
		{"set-group-id", func(x *Tree) error { return x.Copy("/usr/bin/wall", "x", 0o755|fs.ModeSetgid) }, "set-user-id"},
		{"folder over a file", func(x *Tree) error { return x.Dir("/etc/a", 0o755) }, "two lists"},
	} {
		x := NewTree()
		if err := x.File("/etc/a", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := x.Link("/bin", "usr/bin"); err != nil {
			t.Fatal(err)
		}
		if err := tt.add(x); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error is %v, want one with %q", tt.name, err, tt.want)
		}
	}
}

func TestWriteAndOverlay(t *testing.T) {
	over := t.TempDir()
	for name, text := range map[string]string{"etc/a": "new", "etc/new/b": "b"} {
		host := filepath.Join(over, name)
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(host, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("elsewhere", filepath.Join(over, "etc/link")); err != nil {
		t.Fatal(err)
	}
	x := NewTree()
	for name, text := range map[string]string{"/etc/a": "old", "/etc/link": "file", "/usr/lib/deep/x": "x"} {
		if err := x.File(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := x.overlay(over); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "root")
	if err := x.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"etc/a": "new", "etc/new/b": "b", "usr/lib/deep/x": "x"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s = %q (%v), want %q", name, got, err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "etc/link")); err != nil || to != "elsewhere" {
		t.Errorf("etc/link → %q (%v)", to, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "etc/a")); err != nil || info.Mode() != 0o644 {
		t.Errorf("etc/a: %v (%v), want mode 0644", info.Mode(), err)
	}
}
