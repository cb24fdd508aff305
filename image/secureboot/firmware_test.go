package secureboot_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/image/disk"
	"gitlab.opencode.de/pforte/pforte/image/initramfs"
	"gitlab.opencode.de/pforte/pforte/image/secureboot"
	"gitlab.opencode.de/pforte/pforte/image/uki"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// firmwareTime bounds both boots together, on two slow cores without KVM.
const firmwareTime = 5 * time.Minute

// step is an update as testdata/init reads it.
type step struct {
	Variable, GUID string
	Auth           []byte
	Setup          bool
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Real firmware is the judge of packages uki, disk and secureboot together: OVMF in
// setup mode boots our image from our disk, takes our updates in our order, boots
// the same image again with Secure Boot on, and its TPM then holds the PCR 11
// that we predicted. A stranger's update of db is refused, the owner's newer one taken.
func TestFirmwareTakesImageAndKeys(t *testing.T) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skip("SHORT=1 and no QEMU: skipped")
		}
		t.Fatal("no QEMU: apt-get install qemu-system-x86 ovmf swtpm, or set SHORT=1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), firmwareTime)
	defer cancel()
	at := time.Date(2026, 11, 3, 0, 0, 0, 0, time.UTC)
	keys := must[*secureboot.Keys](t)(secureboot.NewKeys("Firmware test", at))
	parts := bootParts(t, ctx, steps(t, keys, at))
	signed := must[[]byte](t)(uki.Sign(must[[]byte](t)(uki.Build(parts)), keys.DB.Signer, keys.DB.Certificate))

	serial := boot(t, ctx, signed)
	want := map[string]string{"db": "none", "KEK": "none", "PK": "none"}
	for i := range 3 {
		m := must[vm.Mark](t)(serial.WaitAny(ctx, i, func(vm.Mark) bool { return true }, "an update in setup mode"))
		if m.Name != "test.update" || m.Fields["error"] != want[m.Fields["variable"]] {
			t.Errorf("in setup mode: %s %v", m.Name, m.Fields)
		}
	}
	first := must[vm.Mark](t)(serial.WaitAny(ctx, 3, func(vm.Mark) bool { return true }, "the first boot's end"))
	if first.Fields["setup"] != "true" || first.Fields["after"] != "false" {
		t.Errorf("first boot: %s %v: PK did not end setup mode", first.Name, first.Fields)
	}
	stranger := must[vm.Mark](t)(serial.WaitAny(ctx, 4, func(vm.Mark) bool { return true }, "the second boot"))
	if stranger.Fields["variable"] != "db" || stranger.Fields["error"] == "none" {
		t.Errorf("a stranger's update of db: %s %v", stranger.Name, stranger.Fields)
	}
	newer := must[vm.Mark](t)(serial.WaitAny(ctx, 5, func(vm.Mark) bool { return true }, "the second boot"))
	if newer.Fields["variable"] != "db" || newer.Fields["error"] != "none" {
		t.Errorf("the owner's newer update of db: %s %v", newer.Name, newer.Fields)
	}
	second := must[vm.Mark](t)(serial.WaitAny(ctx, 6, func(vm.Mark) bool { return true }, "the second boot's end"))
	if second.Fields["secureboot"] != "true" {
		t.Errorf("second boot: %v: Secure Boot is off", second.Fields)
	}
	if second.Fields["cmdline"] != parts.Cmdline {
		t.Errorf("command line %q, want %q", second.Fields["cmdline"], parts.Cmdline)
	}
	pcr := strings.ToUpper(hex.EncodeToString(must[[]byte](t)(uki.PCR11(parts))))
	for _, state := range []vm.Mark{first, second} {
		if state.Fields["pcr11"] != pcr {
			t.Errorf("PCR 11 is %s, predicted was %s", state.Fields["pcr11"], pcr)
		}
	}
}

// steps are what init tries: the enrolment, then two updates in user mode.
func steps(t *testing.T, keys *secureboot.Keys, at time.Time) []step {
	ours := must[*secureboot.Updates](t)(secureboot.Sign(keys, at))
	newer := must[*secureboot.Updates](t)(secureboot.Sign(keys, at.Add(time.Hour)))
	strangers := must[*secureboot.Keys](t)(secureboot.NewKeys("Stranger", at))
	theirs := must[*secureboot.Updates](t)(secureboot.Sign(strangers, at.Add(2*time.Hour)))
	db := secureboot.VendorGUID(secureboot.DB)
	return []step{
		{secureboot.DB, db, ours.DB, true},
		{secureboot.KEK, secureboot.VendorGUID(secureboot.KEK), ours.KEK, true},
		{secureboot.PK, secureboot.VendorGUID(secureboot.PK), ours.PK, true},
		{secureboot.DB, db, theirs.DB, false},
		{secureboot.DB, db, newer.DB, false},
	}
}

// bootParts are Debian's stub and kernel with testdata/init.
func bootParts(t *testing.T, ctx context.Context, s []step) uki.Parts {
	t.Helper()
	lock := must[*debian.Lock](t)(debian.ParseLock(bytes.NewReader(must[[]byte](t)(os.ReadFile("../debian.lock")))))
	cache := must[string](t)(os.UserCacheDir())
	set := must[*debian.Set](t)(debian.Fetch(ctx, debian.Options{
		Cache: filepath.Join(cache, "pforte"), Lock: lock, Log: t.Logf,
		Mirror: func() (debian.Mirror, error) { return debian.HostMirror(os.DirFS("/etc/apt")) },
	}, []debian.Request{{Name: "systemd-boot-efi"}, {Name: "linux-image-amd64", Follow: true}}))
	kernel := must[*debian.Package](t)(set.Package("linux-image-amd64"))
	release := strings.TrimPrefix(kernel.Name, "linux-image-")
	stub := must[debian.File](t)(set.Lookup("/usr/lib/systemd/boot/efi/linuxx64.efi.stub"))

	dir := t.TempDir()
	init, root := filepath.Join(dir, "init"), filepath.Join(dir, "root.img")
	build := exec.CommandContext(ctx, "go", "build", "-o", init, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build init: %v\n%s", err, out)
	}
	if err := os.WriteFile(root, must[[]byte](t)(json.Marshal(s)), 0o600); err != nil {
		t.Fatal(err)
	}
	modules := must[*initramfs.Kernel](t)(initramfs.OpenKernel(os.DirFS(filepath.Join(kernel.Root, "usr/lib/modules", release))))
	var initrd bytes.Buffer
	contents := initramfs.Contents{Init: init, Root: root, Modules: must[[]initramfs.Module](t)(modules.Resolve([]string{"efivarfs"}))}
	if err := initramfs.Write(&initrd, contents); err != nil {
		t.Fatal(err)
	}
	return uki.Parts{
		Stub: must[[]byte](t)(os.ReadFile(stub.Host)), Kernel: must[[]byte](t)(os.ReadFile(filepath.Join(kernel.Root, "boot/vmlinuz-"+release))),
		Initrd: initrd.Bytes(), OSRelease: []byte("ID=pforte\n"), Uname: release,
		Cmdline: "console=ttyS0,115200 panic=10 quiet", SBAT: []byte("pforte,1,Pforte,pforte,1,https://gitlab.opencode.de/pforte/pforte\n"),
	}
}

// boot starts a machine with the image in the fallback's place and returns its
// serial port. The machine ends with the test.
func boot(t *testing.T, ctx context.Context, image []byte) *vm.Serial {
	t.Helper()
	firmware := must[vm.Firmware](t)(vm.FindFirmware())
	dir := must[string](t)(os.MkdirTemp("", "sb")) // t.TempDir is too long for sockets
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file, path := filepath.Join(dir, "image.efi"), filepath.Join(dir, "disk.img")
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := disk.Build(path, disk.Options{Files: map[string]string{layout.FallbackSlot: file}}); err != nil {
		t.Fatal(err)
	}
	m := must[*vm.Machine](t)(vm.New(vm.Options{Dir: filepath.Join(dir, "m"), Disk: path, Firmware: firmware, Memory: 1024, KVM: vm.ProbeKVM(ctx)}))
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Cut(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("serial port:\n%s", m.Serial().Tail(60))
		}
	})
	return m.Serial()
}
