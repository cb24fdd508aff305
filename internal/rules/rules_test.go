package rules

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// TestTree is the law itself: the whole project breaks no rule.
func TestTree(t *testing.T) {
	found, err := Check(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		t.Error(v)
	}
}

const goMod = "module " + Module + "\n\ngo 1.26\n"

// TestEveryRuleCanFail proves each rule on a tree that breaks just that one.
func TestEveryRuleCanFail(t *testing.T) {
	long := "package p\n\nfunc f() {\n" + strings.Repeat("\t_ = 1\n", maxFunctionLines) + "}\n"
	imports := func(paths ...string) string {
		var b strings.Builder
		b.WriteString("// Package p is for the test.\npackage p\n\nimport (\n")
		for _, p := range paths {
			b.WriteString("\t_ \"" + p + "\"\n")
		}
		return b.String() + ")\n"
	}
	const doc = "// Package p is for the test.\npackage p\n"
	tests := []struct {
		name string
		tree map[string]string
		want string
	}{
		{"package comment", map[string]string{"internal/x/x.go": "package x\n"}, "no package comment"},
		{"two package comments", map[string]string{"internal/x/a.go": doc, "internal/x/b.go": doc}, "exactly one"},
		{"init", map[string]string{"internal/x/x.go": doc + "func init() {}\n"}, "func init"},
		{"long function", map[string]string{"internal/x/x.go": "// Package p is.\n" + long}, "lines: split it"},
		{"cgo", map[string]string{"hsm/tpm/x.go": imports("C")}, "cgo lives in hsm/pkcs11"},
		{"cgo in a test", map[string]string{"hsm/tpm/x_test.go": imports("C")}, "cgo lives in hsm/pkcs11"},
		{"os/exec", map[string]string{"internal/x/x.go": imports("os/exec")}, "the box runs no programs"},
		{"internal upwards", map[string]string{"internal/x/x.go": imports(Module + "/appliance/y"), "appliance/y/y.go": doc}, "lower layers"},
		{"simulator by a detour", map[string]string{
			"cmd/netd/main.go":   imports(Module + "/appliance/y"),
			"appliance/y/y.go":   imports(Module + "/hsm/hsmtest"),
			"hsm/hsmtest/sim.go": doc,
		}, "appliance/y → hsm/hsmtest"},
		{"signing on the box", map[string]string{"cmd/updated/main.go": imports(Module + "/internal/release/sign"), "internal/release/sign/s.go": doc}, "never signs"},
		{"relay and TPM", map[string]string{"cmd/relayd/main.go": imports(Module + "/hsm/tpm"), "hsm/tpm/t.go": doc}, "a broken parser"},
		{"keyd and relay", map[string]string{"cmd/keyd/main.go": imports(Module + "/internal/relay"), "internal/relay/r.go": doc}, "the key holder stays small"},
		{"keyd on TCP", map[string]string{"hsm/keyd/k.go": doc + "import \"net\"\nvar _, _ = net.Listen(\"tcp\", \"\")\n"}, "off the network"},
		{"release and os", map[string]string{"internal/release/r.go": imports("os")}, "bytes in, verdict out"},
		{"qemu in a command", map[string]string{"cmd/pforte/main.go": imports(Module + "/qemu/vm"), "qemu/vm/v.go": doc}, "only vmrun and tests"},
		{"netlink elsewhere", map[string]string{"appliance/boot/b.go": imports("github.com/google/nftables")}, "one place per power: the network"},
		{"TPM elsewhere", map[string]string{"appliance/apid/a.go": imports("github.com/google/go-tpm/tpm2")}, "one place per power: the TPM"},
		{"partitions elsewhere", map[string]string{"image/uki/u.go": imports("github.com/diskfs/go-diskfs")}, "one place per power: partitions"},
		{"folder without README", map[string]string{"README.md": "", "internal/x/x.go": doc}, "is missing"},
		{"package that no README names", map[string]string{"README.md": "", "internal/README.md": "`y`", "internal/x/y/y.go": doc}, "does not name `x`"},
		{"top level", map[string]string{"scripts/x.sh": ""}, "does not belong to the top level"},
		{"dependency without a reason", map[string]string{"go.mod": goMod + "\nrequire example.org/a v1.0.0\n"}, "no comment that says what it is for"},
		{"replace", map[string]string{"go.mod": goMod + "\nreplace example.org/a => ./a\n"}, "not patched"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := fstest.MapFS{"go.mod": {Data: []byte(goMod)}}
			for name, src := range tt.tree {
				tree[name] = &fstest.MapFile{Data: []byte(src)}
			}
			found, err := Check(tree)
			if err != nil {
				t.Fatal(err)
			}
			if len(found) != 1 || !strings.Contains(found[0].String(), tt.want) {
				t.Fatalf("found %v, want exactly one with %q", found, tt.want)
			}
		})
	}
}

// TestReasons are the allowed exceptions.
func TestReasons(t *testing.T) {
	long := "// Package p is.\npackage p\n\n// f does it.\n//\n// Long: one table of wire constants.\nfunc f() {\n" + strings.Repeat("\t_ = 1\n", maxFunctionLines) + "}\n"
	tree := fstest.MapFS{
		"go.mod":                   &fstest.MapFile{Data: []byte(goMod + "\nrequire example.org/a v1.0.0 // reads what only it can read\nrequire example.org/b v1.0.0 // indirect\n")},
		"internal/x/x.go":          &fstest.MapFile{Data: []byte(long)},
		"internal/x/x_test.go":     &fstest.MapFile{Data: []byte("package p\n\nimport _ \"os/exec\"\n")},
		"internal/x/testdata/a.go": &fstest.MapFile{Data: []byte("not Go")},
		"build/out.go":             &fstest.MapFile{Data: []byte("not Go")},
	}
	found, err := Check(tree)
	if err != nil || len(found) != 0 {
		t.Fatalf("found %v, %v", found, err)
	}
}
