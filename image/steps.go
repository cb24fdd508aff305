package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"

	"gitlab.opencode.de/pforte/pforte/appliance/units"
	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/image/disk"
	"gitlab.opencode.de/pforte/pforte/image/initramfs"
	"gitlab.opencode.de/pforte/pforte/image/inspect"
	"gitlab.opencode.de/pforte/pforte/image/manifest"
	"gitlab.opencode.de/pforte/pforte/image/root"
	"gitlab.opencode.de/pforte/pforte/image/uki"
	"gitlab.opencode.de/pforte/pforte/image/userland"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	kernelPackage = "linux-image-amd64" // a metapackage
	stubPackage   = "systemd-boot-efi"
	stubPath      = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
)

// requests are all packages that a build takes files from or runs.
func requests() []debian.Request {
	out := []debian.Request{{Name: kernelPackage, Follow: true}, {Name: stubPackage}}
	seen := map[string]bool{}
	for _, names := range [][]string{root.Packages(), root.Tools()} {
		for _, name := range names {
			if !seen[name] {
				seen[name] = true
				out = append(out, debian.Request{Name: name})
			}
		}
	}
	return out
}

func (b *builder) stepDebian(ctx context.Context) (string, error) {
	lock, err := debian.ParseLock(bytes.NewReader(lockFile))
	if err != nil {
		return "", err
	}
	b.set, err = debian.Fetch(ctx, debian.Options{
		Cache: b.CacheDir, Mirror: b.mirror, Lock: lock, Locked: b.Locked, Update: b.Update, Log: b.progress.note,
	}, requests())
	if err != nil {
		return "", err
	}
	for _, c := range b.set.Changes {
		b.result.Changes = append(b.result.Changes, c.String())
		b.progress.note("%s", c)
	}
	if b.Update {
		if err := b.writeLock(); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d packages of Debian %s, %d differ from the lock", len(b.set.Packages), debian.Release, len(b.set.Changes)), nil
}

func (b *builder) mirror() (debian.Mirror, error) {
	if b.Mirror != "" {
		return debian.ParseMirror(b.Mirror)
	}
	return debian.HostMirror(os.DirFS("/etc/apt"))
}

// writeLock records what was taken in the source tree.
func (b *builder) writeLock() error {
	var l debian.Lock
	for _, p := range b.set.Packages {
		l.Entries = append(l.Entries, p.Entry)
	}
	var text bytes.Buffer
	if _, err := l.WriteTo(&text); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.Source, "image", "debian.lock"), text.Bytes(), 0o644)
}

func (b *builder) stepUserland(ctx context.Context) (string, error) {
	var err error
	b.programs, err = userland.Build(ctx, b.Source, b.CacheDir)
	if err != nil {
		return "", err
	}
	var total int64
	for _, host := range b.programs.Files {
		info, err := os.Stat(host)
		if err != nil {
			return "", err
		}
		total += info.Size()
	}
	return fmt.Sprintf("%d commands, %s", len(userland.Commands()), mib(total)), nil
}

// OSRelease is the os-release(5) file of an image, the same in root and UKI.
func OSRelease(version, variant string, epoch uint32) []byte {
	return fmt.Appendf(nil, `NAME=Pforte
ID=pforte
PRETTY_NAME="Pforte %[1]s"
VERSION_ID=%[1]s
VARIANT_ID=%[2]s
PFORTE_EPOCH=%[3]d
`, version, variant, epoch)
}

func (b *builder) stepRoot(ctx context.Context) (string, error) {
	files, err := units.Files()
	if err != nil {
		return "", err
	}
	maps.Copy(files, b.Trust.files())
	links := units.Symlinks()
	maps.Copy(links, b.programs.Links)
	b.tree, err = root.Compose(b.set, root.Options{
		Programs:  b.programs.Files,
		Files:     files,
		Symlinks:  links,
		OSRelease: OSRelease(b.Version, b.Variant, b.Epoch),
		Overlay:   b.Overlay,
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d entries", len(b.tree.Paths())), b.tree.Write(ctx, b.result.Root)
}

// stepInspect looks at the staged root with fresh eyes: a root that breaks one
// of its rules never becomes an image.
func (b *builder) stepInspect(context.Context) (string, error) {
	found, err := inspect.Root(b.result.Root)
	if err != nil {
		return "", err
	}
	var faults []error
	for _, f := range found {
		faults = append(faults, errors.New(f.String()))
	}
	return "no fault", errors.Join(faults...)
}

// files are the trust anchors by their path in the root.
func (t Trust) files() map[string][]byte {
	out := map[string][]byte{}
	for name, data := range map[string][]byte{layout.OwnerKey: t.OwnerKey, layout.VendorRoot: t.VendorRoot, layout.OwnerRoot: t.OwnerRoot} {
		if len(data) > 0 {
			out[name] = data
		}
	}
	for name, data := range t.SecureBoot {
		out[path.Join(layout.SecureBootDir, name)] = data
	}
	return out
}

func (b *builder) rootImage() string {
	return filepath.Join(b.work, "root.img")
}

func (b *builder) stepSquash(ctx context.Context) (string, error) {
	if err := root.Squash(ctx, b.set, b.result.Root, b.rootImage()); err != nil {
		return "", err
	}
	info, err := os.Stat(b.rootImage())
	if err != nil {
		return "", err
	}
	b.result.Parts = append(b.result.Parts, Part{"root", info.Size()})
	return mib(info.Size()), nil
}

func (b *builder) stepInitramfs(context.Context) (string, error) {
	kernel, err := b.set.Package(kernelPackage)
	if err != nil {
		return "", err
	}
	b.parts.Uname = strings.TrimPrefix(kernel.Name, "linux-image-")
	modules, err := initramfs.OpenKernel(os.DirFS(filepath.Join(kernel.Root, "usr/lib/modules", b.parts.Uname)))
	if err != nil {
		return "", err
	}
	if b.modules, err = modules.Resolve(initramfs.Modules()); err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := initramfs.Write(&out, initramfs.Contents{Init: b.programs.Init, Root: b.rootImage(), Modules: b.modules, Cmdline: cmdline}); err != nil {
		return "", err
	}
	b.initrd = out.Bytes()
	b.result.Parts = append(b.result.Parts, Part{"init and modules", int64(out.Len()) - b.result.Parts[0].Size})
	return fmt.Sprintf("%d modules, %s", len(b.modules), mib(int64(out.Len()))), nil
}

// cmdline is the kernel's command line, and the only one: the stub ignores what
// the firmware passes once Secure Boot is on, and init compares.
const cmdline = "console=tty0 console=ttyS0,115200 quiet loglevel=4 consoleblank=0" +
	// A box that hangs or crashes comes back by itself.
	" panic=10 oops=panic" +
	// Nobody, root included, changes the running kernel or reads its memory.
	" lockdown=integrity module.sig_enforce=1 debugfs=off ia32_emulation=0 vsyscall=none" +
	// Harder to exploit memory faults, at little cost; DMA only where a driver allows it.
	" init_on_alloc=1 slab_nomerge page_alloc.shuffle=1 randomize_kstack_offset=on intel_iommu=on" +
	// Nothing from SMBIOS, fw_cfg or the ESP becomes a credential of systemd.
	" systemd.import_credentials=no systemd.condition_first_boot=no systemd.show_status=no"

func (b *builder) stepUKI(context.Context) (string, error) {
	if err := b.gather(); err != nil {
		return "", err
	}
	var err error
	if b.parts.PCRPublicKey, err = uki.PublicKeyPEM(b.PCRSigner.Public()); err != nil {
		return "", err
	}
	if b.parts.PCRSignature, err = uki.PCRSignature(b.parts, b.PCRSigner, []string{uki.PhaseEnterInitrd}); err != nil {
		return "", err
	}
	if b.unsigned, err = uki.Build(b.parts); err != nil {
		return "", err
	}
	for _, phases := range [][]string{{}, {uki.PhaseEnterInitrd}, {uki.PhaseEnterInitrd, uki.PhaseLeaveInitrd}} {
		value, err := uki.PCR11(b.parts, phases...)
		if err != nil {
			return "", err
		}
		b.result.PCR11[strings.Join(phases, ":")] = hex.EncodeToString(value)
	}
	signed, err := uki.Sign(b.unsigned, b.SecureBootSigner, b.SecureBootCert)
	if err != nil {
		return "", err
	}
	b.result.UKI = filepath.Join(b.OutDir, "pforte.efi")
	b.result.UnsignedUKI = filepath.Join(b.OutDir, "pforte.unsigned.efi")
	b.result.Size = int64(len(signed))
	b.result.SHA256, b.result.Unsigned = sha(signed), sha(b.unsigned)
	b.result.Parts = append(b.result.Parts, Part{"kernel", int64(len(b.parts.Kernel))})
	b.result.Parts = append(b.result.Parts, Part{"stub, texts and signatures", b.result.Size - int64(len(b.parts.Kernel)+len(b.parts.Initrd))})
	if b.result.Size > MaxUKI {
		return "", fmt.Errorf("the image has %s, more than the %s that it may have: %s", mib(b.result.Size), mib(MaxUKI), b.sizes())
	}
	err = errors.Join(os.WriteFile(b.result.UnsignedUKI, b.unsigned, 0o644), os.WriteFile(b.result.UKI, signed, 0o644))
	return fmt.Sprintf("%s (%s), sha256 %s", mib(b.result.Size), b.sizes(), b.result.SHA256), err
}

// gather reads what goes into the UKI besides the initramfs.
func (b *builder) gather() error {
	kernel, err := b.set.Lookup("/boot/vmlinuz-" + b.parts.Uname)
	if err != nil {
		return err
	}
	stub, err := b.set.Lookup(stubPath)
	if err != nil {
		return err
	}
	if b.parts.Kernel, err = os.ReadFile(kernel.Host); err != nil {
		return err
	}
	if b.parts.Stub, err = os.ReadFile(stub.Host); err != nil {
		return err
	}
	b.parts.Initrd = b.initrd
	b.parts.OSRelease = OSRelease(b.Version, b.Variant, b.Epoch)
	b.parts.Cmdline = cmdline
	b.parts.SBAT = fmt.Appendf(nil, "pforte,1,Pforte,pforte,%s,https://%s\n", b.Version, userland.ModulePath)
	return nil
}

func (b *builder) sizes() string {
	var out []string
	for _, p := range b.result.Parts {
		out = append(out, fmt.Sprintf("%s %s", p.Name, mib(p.Size)))
	}
	return strings.Join(out, ", ")
}

func sha(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func mib(n int64) string {
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func (b *builder) stepDisk(context.Context) (string, error) {
	b.result.Disk = filepath.Join(b.OutDir, "pforte.img")
	err := disk.Build(b.result.Disk, disk.Options{
		DataSize: b.DataSize,
		Files:    map[string]string{layout.SlotA: b.result.UKI, layout.FallbackSlot: b.result.UKI},
	})
	return "slot A and the fallback hold the image", err
}

func (b *builder) stepManifest(ctx context.Context) (string, error) {
	modules, goVersion, err := userland.Modules(ctx, b.Source)
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(b.Source, "go.sum"))
	if err != nil {
		return "", err
	}
	data, err := manifest.Build(manifest.Inputs{
		Version: b.Version, Variant: b.Variant, Epoch: b.Epoch, Cmdline: cmdline,
		SHA256: b.result.SHA256, UnsignedSHA256: b.result.Unsigned, PCR11: b.result.PCR11,
		Set: b.set, Shipped: append(b.tree.Owners(), b.bootPackages()...),
		Modules: modules, GoVersion: goVersion, GoSum: sum,
	})
	if err != nil {
		return "", err
	}
	b.result.Manifest = filepath.Join(b.OutDir, "manifest.json")
	if err := os.RemoveAll(b.work); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return fmt.Sprintf("%d Debian packages, %d Go modules", len(b.set.Packages), len(modules)), os.WriteFile(b.result.Manifest, data, 0o644)
}

// bootPackages ship outside the root: kernel with modules, and stub.
func (b *builder) bootPackages() []string {
	return []string{"linux-image-" + b.parts.Uname, stubPackage}
}
