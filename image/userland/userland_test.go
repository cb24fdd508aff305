package userland

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func tree(more fstest.MapFS) fstest.MapFS {
	out := fstest.MapFS{"go.mod": {}, "go.sum": {}}
	for _, d := range sourceDirs {
		out[d+"/x.go"] = &fstest.MapFile{Data: []byte("package x")}
	}
	for name, f := range more {
		out[name] = f
	}
	return out
}

func TestFingerprint(t *testing.T) {
	base, err := fingerprint(tree(nil), "go1.26.0")
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) fstest.MapFS { return fstest.MapFS{name: {Data: []byte("changed")}} }
	for _, tt := range []struct {
		name    string
		files   fstest.MapFS
		version string
		same    bool
	}{
		{"nothing", nil, "go1.26.0", true},
		{"a test", file("internal/x_test.go"), "go1.26.0", true},
		{"test data", file("internal/testdata/a"), "go1.26.0", true},
		{"build results", file("build/pforte.efi"), "go1.26.0", true},
		{"a source", file("internal/x.go"), "go1.26.0", false},
		{"an embedded file", file("appliance/console/help.txt"), "go1.26.0", false},
		{"a module's version", file("go.sum"), "go1.26.0", false},
		{"the toolchain", nil, "go1.26.1", false},
	} {
		got, err := fingerprint(tree(tt.files), tt.version)
		if err != nil {
			t.Fatal(err)
		}
		if (got == base) != tt.same {
			t.Errorf("after a change of %s: same fingerprint is %v, want %v", tt.name, got == base, tt.same)
		}
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for i := range keepCount + 3 {
		path := filepath.Join(dir, string(rune('a'+i)))
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(-time.Duration(i) * 10 * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != keepCount {
		t.Errorf("%d results left (%v), want the %d that were used last", len(left), err, keepCount)
	}
}

// TestCheck builds programs as one would by mistake, and shows that they are refused.
func TestCheck(t *testing.T) {
	goBinary, err := exec.LookPath("go")
	if err != nil {
		t.Fatal("go is missing")
	}
	build := func(env []string, flags ...string) string {
		t.Helper()
		dir := t.TempDir()
		src := filepath.Join(dir, "src", "x")
		if err := os.MkdirAll(src, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"main.go": "package main\n\nfunc main() {}\n", "go.mod": "module x.example/x\n\ngo 1.26\n"} {
			if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(goBinary, append(append([]string{"build"}, flags...), "-o", filepath.Join(dir, "out"), ".")...)
		cmd.Dir, cmd.Env = src, append(append(os.Environ(), "GOPATH="+dir, "GOFLAGS=", "GOMODCACHE="+filepath.Join(dir, "mod")), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v: %s", err, out)
		}
		return filepath.Join(dir, "out")
	}
	if err := check(build([]string{"CGO_ENABLED=0", "GO111MODULE=on"}, "-trimpath")); err != nil {
		t.Errorf("a proper program was refused: %v", err)
	}
	for want, program := range map[string]string{
		"older Go":      build([]string{"CGO_ENABLED=0", "GO111MODULE=off"}, "-trimpath"),
		"CGO_ENABLED=1": build([]string{"CGO_ENABLED=1", "GO111MODULE=on"}, "-trimpath"),
	} {
		if err := check(program); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one with %q", err, want)
		}
	}
}

func TestDecodeModules(t *testing.T) {
	got, err := decodeModules(strings.NewReader(`{"Module":{"Path":"a","Version":"v1","Dir":"/a"}}{}{"Module":{"Path":"a","Version":"v1","Dir":"/a"}}
		{"Module":{"Path":"me","Main":true}}{"Module":{"Path":"b","Version":"v1","Replace":{"Path":"c","Version":"v2","Dir":"/c"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Module{{"a", "v1", "/a"}, {"c", "v2", "/c"}}, got); d != "" {
		t.Error(d)
	}
}
