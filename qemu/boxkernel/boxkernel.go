// Package boxkernel runs the tests of a package on the box's own kernel with the
// box's own modules: the machine on which the tests run may have another kernel,
// without bonding say, and a rule set that loads there may need a module that
// the box does not bring.
//
// The test program itself, built static, becomes /init of a small virtual machine
// without disk, firmware or TPM:
//
//	func TestMain(m *testing.M) { boxkernel.Main(m) }
//
//	func TestOnTheBoxesKernel(t *testing.T) {
//		boxkernel.Run(t, boxkernel.Guest{Pattern: "^TestKernel", Modules: []string{"8021q", "bonding"}})
//	}
//
// As process 1, Main loads the modules, unpacks the files, runs the tests that
// Pattern names and switches the machine off. It takes some ten seconds without
// KVM; SHORT=1 skips it by name.
package boxkernel

import (
	"archive/zip"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/image/initramfs"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

const (
	memory   = 768              // MiB
	patience = 5 * time.Minute  // for the machine, from power-on to power-off
	slack    = 10 * time.Second // for QEMU to end after that

	// markDone ends the guest's output; its field "code" is the exit code.
	markDone = "boxkernel.done"
	// argFolder names the folder in which the tests run, for the guest's command line.
	argFolder = "boxkernel.folder="
)

// Guest says what runs in the machine.
type Guest struct {
	Pattern string   // of tests, as for go test -run
	Modules []string // that the tests need, of those that the box loads
	Extra   []string // that only the tests need
	Files   []string // that the tests read, relative to the package's folder
}

// Run builds the test program of the package in the working folder and runs it
// in a virtual machine. It fails when a test fails there.
func Run(t *testing.T, g Guest) {
	t.Helper()
	if os.Getenv("SHORT") == "1" {
		t.Skip("SHORT=1: no virtual machine")
	}
	if Here() {
		return // Pattern is too wide
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Fatal("there is no QEMU; install the Debian package qemu-system-x86, or set SHORT=1")
	}
	dir := t.TempDir()
	kernel, initrd, folder := g.build(t, dir)
	output := boot(t, kernel, initrd, argFolder+folder+" -- -test.v -test.count=1 -test.run="+g.Pattern)
	code, found := "", false
	for line := range strings.Lines(output) {
		if m, ok := milestone.Parse(line); ok && m.Name == markDone {
			code, found = m.Fields["code"], true
		}
	}
	switch {
	case !found:
		t.Fatalf("the machine did not come to an end:\n%s", output)
	case code != "0":
		t.Fatalf("on the box's kernel:\n%s", output)
	case !strings.Contains(output, "--- PASS"):
		t.Fatalf("no test ran on the box's kernel:\n%s", output)
	}
	t.Logf("on the box's kernel:\n%s", output)
}

// build makes the initramfs. It returns the kernel, the initramfs, and the
// package's folder in the source tree.
func (g Guest) build(t *testing.T, dir string) (kernel, initrd, folder string) {
	t.Helper()
	program := filepath.Join(dir, "init")
	command(t, "go", "test", "-c", "-o", program, ".")
	root := strings.TrimSpace(command(t, "go", "list", "-m", "-f", "{{.Dir}}"))
	here, err := os.Getwd()
	must(t, err)
	folder, err = filepath.Rel(root, here)
	must(t, err)
	files := filepath.Join(dir, "files.zip")
	must(t, os.WriteFile(files, g.archive(t, folder), 0o600))
	set, err := image.Packages(t.Context(), image.Options{OutDir: dir})
	must(t, err)
	names, err := set.Glob("/boot/vmlinuz-*")
	must(t, err)
	if len(names) != 1 {
		t.Fatalf("the box has %d kernels", len(names))
	}
	vmlinuz, err := set.Lookup(names[0])
	must(t, err)
	release := strings.TrimPrefix(filepath.Base(names[0]), "vmlinuz-")
	pkg, err := set.Package("linux-image-amd64")
	must(t, err)
	tree, err := initramfs.OpenKernel(os.DirFS(filepath.Join(pkg.Root, "usr/lib/modules", release)))
	must(t, err)
	for _, m := range g.Modules {
		if !slices.Contains(initramfs.Modules(), m) {
			t.Fatalf("the box does not load %s", m)
		}
	}
	modules, err := tree.Resolve(slices.Concat(g.Modules, g.Extra))
	must(t, err)
	var out bytes.Buffer
	must(t, initramfs.Write(&out, initramfs.Contents{Init: program, Root: files, Modules: modules}))
	initrd = filepath.Join(dir, "initrd")
	must(t, os.WriteFile(initrd, out.Bytes(), 0o600))
	return vmlinuz.Host, initrd, folder
}

// archive packs the files under their place in the source tree.
func (g Guest) archive(t *testing.T, folder string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, name := range g.Files {
		data, err := os.ReadFile(name)
		must(t, err)
		w, err := z.Create(filepath.ToSlash(filepath.Join(folder, name)))
		must(t, err)
		_, err = w.Write(data)
		must(t, err)
	}
	must(t, z.Close())
	return out.Bytes()
}

// alone waits until no other test of this kind runs a machine: two that start at
// once on two processors upset their timers.
func alone(t *testing.T) (release func()) {
	t.Helper()
	dir, err := image.CacheDir()
	must(t, err)
	must(t, os.MkdirAll(dir, 0o755))
	f, err := os.OpenFile(filepath.Join(dir, "boxkernel.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	return func() { _ = f.Close() }
}

// boot runs the machine to its end and returns what its serial port said.
func boot(t *testing.T, kernel, initrd, cmdline string) string {
	t.Helper()
	defer alone(t)()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	accel, cpu := "tcg", "max"
	if vm.ProbeKVM(ctx) {
		accel, cpu = "kvm", "host"
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", accel, "-cpu", cpu, "-smp", "1", "-m", strconv.Itoa(memory), "-device", "virtio-rng-pci",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0,115200 quiet panic=-1 "+cmdline, "-serial", "stdio")
	cmd.WaitDelay = slack
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("the machine ended with %v:\n%s", err, out.String())
	}
	return strings.ReplaceAll(out.String(), "\r", "")
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
