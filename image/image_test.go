package image

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"

	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/image/devkeys"
	"gitlab.opencode.de/pforte/pforte/image/root"
	"gitlab.opencode.de/pforte/pforte/image/uki"
	"gitlab.opencode.de/pforte/pforte/image/userland"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// TestImage builds this source tree's image, and looks at what came out with the
// programs of those who will read it.
func TestImage(t *testing.T) {
	if os.Getenv("SHORT") == "1" {
		t.Skip("SHORT=1: building an image takes minutes and needs Debian's packages")
	}
	keys, err := devkeys.Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	o := Options{OutDir: t.TempDir(), Version: "1.2.3", Epoch: 7, Progress: os.Stderr}
	if err := o.DevKeys(keys); err != nil {
		t.Fatal(err)
	}
	r, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	set, err := Packages(t.Context(), Options{OutDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("same bytes in another folder", func(t *testing.T) { testReproducible(t, o, r) })
	t.Run("signature", func(t *testing.T) { testSigned(t, o, r) })
	t.Run("initramfs", func(t *testing.T) { testInitramfs(t, r, set) })
	t.Run("manifest", func(t *testing.T) { testManifest(t, r) })
	t.Run("no machine's path", func(t *testing.T) { testNoPaths(t, o, r) })
}

// testReproducible builds a copy of the source tree in another folder, in an
// environment that misleads. Only the sources, the packages and the compiler's
// cache are shared; with COLD=1 not even that one, which takes minutes more.
func testReproducible(t *testing.T, o Options, first *Result) {
	source, err := findSource()
	if err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	o.Source = filepath.Join(base, "another", "much", "longer", "path")
	for _, name := range []string{"go.mod", "go.sum", "appliance", "cmd", "hsm", "image", "internal"} {
		copyTree(t, filepath.Join(source, name), filepath.Join(o.Source, name))
	}
	cache, err := CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	o.CacheDir = filepath.Join(base, "cache")
	if err := os.Mkdir(o.CacheDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(cache, "debian"), filepath.Join(o.CacheDir, "debian")); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("COLD") == "1" {
		t.Setenv("GOCACHE", filepath.Join(base, "gocache"))
	}
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("SOURCE_DATE_EPOCH", "1234567890")
	t.Setenv("TZ", "Pacific/Kiritimati")
	o.OutDir = ""
	second, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.Unsigned != second.Unsigned {
		t.Errorf("unsigned image is %s here and %s there", first.Unsigned, second.Unsigned)
	}
	if want := filepath.Join(o.Source, "build", "pforte.unsigned.efi"); second.UnsignedUKI != want {
		t.Errorf("built %s, want %s", second.UnsignedUKI, want)
	}
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(host string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(host, from)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		data, err := os.ReadFile(host)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testSigned(t *testing.T, o Options, r *Result) {
	signed, err := os.ReadFile(r.UKI)
	if err != nil {
		t.Fatal(err)
	}
	if err := uki.Verify(signed, o.SecureBootCert); err != nil {
		t.Error(err)
	}
	if len(signed) > MaxUKI || int64(len(signed)) != r.Size {
		t.Errorf("image has %d bytes, result says %d, at most %d", len(signed), r.Size, MaxUKI)
	}
	var sum int64
	for _, p := range r.Parts {
		sum += p.Size
	}
	if sum != r.Size {
		t.Errorf("parts make %d bytes, the image has %d", sum, r.Size)
	}
	value, err := uki.PCR11Of(signed, uki.PhaseEnterInitrd)
	if err != nil {
		t.Fatal(err)
	}
	if want := r.PCR11[uki.PhaseEnterInitrd]; want == "" || want != hex.EncodeToString(value) {
		t.Errorf("PCR 11 of the signed file is %x, promised was %s", value, want)
	}
	osrel := string(OSRelease("1.2.3", Dev, 7))
	if !bytes.Contains(signed, []byte(osrel)) || !strings.Contains(osrel, "\nVARIANT_ID=dev\n") || !strings.Contains(osrel, "\nPFORTE_EPOCH=7\n") {
		t.Errorf("the image does not carry its os-release:\n%s", osrel)
	}
}

func testInitramfs(t *testing.T, r *Result, set *debian.Set) {
	image, err := os.ReadFile(r.UnsignedUKI)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	z, err := zstd.NewReader(bytes.NewReader(section(t, image, uki.SectionInitrd)))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	reader := cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(raw))}
	for {
		rec, err := reader.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if rec.FileSize > 0 {
			if files["/"+rec.Name], err = io.ReadAll(io.NewSectionReader(rec, 0, int64(rec.FileSize))); err != nil {
				t.Fatal(err)
			}
		}
	}
	list := strings.Fields(string(files[layout.ModulesDir+"/list"]))
	for _, m := range list {
		// Debian's signature ends each module; without it lockdown refuses to load it.
		if !bytes.HasSuffix(files[m], []byte("~Module signature appended~\n")) {
			t.Errorf("%s has no signature", m)
		}
	}
	if len(list) < 60 || !slices.Contains(list, layout.ModulesDir+"/dm_crypt.ko") {
		t.Errorf("module list has %d entries", len(list))
	}
	squashfs := filepath.Join(t.TempDir(), "root.img")
	if err := os.WriteFile(squashfs, files[layout.RootImage], 0o644); err != nil {
		t.Fatal(err)
	}
	testRoot(t, squashfs, set)
}

// testRoot lists the root file system with Debian 13's own unsquashfs.
func testRoot(t *testing.T, squashfs string, set *debian.Set) {
	cmd, err := set.Command(t.Context(), "/usr/bin/unsquashfs", "-lls", "-d", "", squashfs)
	if err != nil {
		t.Fatal(err)
	}
	listing, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for line := range strings.Lines(string(listing)) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasPrefix(f[5], "/") && f[5] != "" {
			continue
		}
		mode, owner, name := f[0], f[1], f[5]
		seen[name] = mode
		if owner != "root/root" {
			t.Errorf("%s belongs to %s", name, owner)
		}
		if strings.ContainsAny(mode, "sS") {
			t.Errorf("%s is set-user-id or set-group-id: %s", name, mode)
		}
		if mode[0] == '-' && mode[8] == 'w' {
			t.Errorf("%s is writable for everyone: %s", name, mode)
		}
		if strings.ContainsAny(mode[:1], "bcps") {
			t.Errorf("%s is a device, pipe or socket", name)
		}
	}
	for _, shell := range []string{"sh", "bash", "dash", "ash", "busybox", "zsh", "perl", "python3", "apt-get", "dpkg", "su", "sudo", "login", "agetty", "sshd", "systemctl"} {
		for name := range seen {
			if path.Base(name) == shell {
				t.Errorf("%s has no business on the box", name)
			}
		}
	}
	for _, name := range append([]string{"init"}, userland.Commands()...) {
		if _, ok := seen["/usr/bin/"+name]; ok == (name == "init") {
			t.Errorf("/usr/bin/%s: there is %v", name, ok)
		}
	}
	for _, must := range []string{"/usr/lib/systemd/systemd", "/etc/os-release", layout.OwnerKey, layout.VendorRoot, layout.OwnerRoot, layout.SecureBootDir + "/db.auth", "/var", "/efi", "/run"} {
		if _, ok := seen[must]; !ok {
			t.Errorf("%s is missing", must)
		}
	}
}

func testManifest(t *testing.T, r *Result) {
	data, err := os.ReadFile(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	scopes := map[string]cdx.Scope{}
	for _, c := range *bom.Components {
		scopes[c.Name] = c.Scope
		if c.Version == "" || c.Licenses == nil || len(*c.Licenses) == 0 || c.Hashes == nil && c.Name != "stdlib" {
			t.Errorf("%s: version, licence or hash is missing", c.Name)
		}
	}
	for name, want := range map[string]cdx.Scope{
		"systemd": cdx.ScopeRequired, "libc6": cdx.ScopeRequired, stubPackage: cdx.ScopeRequired,
		"squashfs-tools": cdx.ScopeExcluded, "golang.org/x/sys": cdx.ScopeRequired, "stdlib": cdx.ScopeRequired,
	} {
		if scopes[name] != want {
			t.Errorf("%s has scope %q, want %q", name, scopes[name], want)
		}
	}
}

// testNoPaths looks for the folders of this host in the programs.
func testNoPaths(t *testing.T, o Options, r *Result) {
	source, err := findSource()
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"bb", "keyd"} {
		data, err := os.ReadFile(filepath.Join(r.Root, "usr/bin", program))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{source + "/", filepath.Join(home, "go"), o.OutDir} {
			if bytes.Contains(data, []byte(dir)) {
				t.Errorf("%s contains the path %s", program, dir)
			}
		}
	}
}

func section(t *testing.T, image []byte, name string) []byte {
	t.Helper()
	sections, err := uki.Sections(image)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sections {
		if s.Name == name {
			return s.Data
		}
	}
	t.Fatalf("image has no section %s", name)
	return nil
}

// TestStaged shows what Stage is for: Debian 13's own systemd-analyze reads the root.
func TestStaged(t *testing.T) {
	if os.Getenv("SHORT") == "1" {
		t.Skip("SHORT=1: needs Debian's packages")
	}
	staged, err := Stage(t.Context(), Options{OutDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := staged.Set.Command(t.Context(), "/usr/bin/systemd-analyze", "--root="+staged.Root, "cat-config", "systemd/system.conf")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("systemd-analyze: %v: %s", err, exit.Stderr)
	}
	if err != nil || !bytes.Contains(out, []byte("RuntimeWatchdogSec")) {
		t.Errorf("systemd-analyze shows %q (%v)", out, err)
	}
}

func TestCheck(t *testing.T) {
	good := Options{Variant: Dev, Version: "1.0.0~rc1+x"}
	if err := good.check(); err != nil {
		t.Errorf("refused: %v", err)
	}
	for want, o := range map[string]Options{
		"variant": {Variant: "test", Version: "1"},
		"overlay": {Variant: Release, Version: "1", Overlay: "x"},
		"version": {Variant: Dev, Version: "1\nID=debian"},
		"exclude": {Variant: Dev, Version: "1", Locked: true, Update: true},
	} {
		if err := o.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want one about the %s", err, want)
		}
	}
	bare := Options{Variant: Release}
	if err := bare.checkKeys(); err == nil || !strings.Contains(err.Error(), "PCR signer") || !strings.Contains(err.Error(), "Secure Boot certificate") {
		t.Errorf("error is %v, want one that names every missing key", err)
	}
}

// TestRequests checks the committed lock against the lists: a build of what is
// committed must work with -locked.
func TestRequests(t *testing.T) {
	lock, err := debian.ParseLock(bytes.NewReader(lockFile))
	if err != nil {
		t.Fatal(err)
	}
	asked := map[string]bool{}
	for _, r := range requests() {
		asked[r.Name] = true
		if _, ok := lock.Find(r.Name); !ok {
			t.Errorf("%s is not in debian.lock; run mkimage -update", r.Name)
		}
	}
	for _, e := range lock.Entries {
		if !asked[e.Request] {
			t.Errorf("%s is in debian.lock but nobody asks for it; run mkimage -update", e.Request)
		}
	}
	if len(root.Packages()) == 0 {
		t.Error("no packages")
	}
}
