package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/image/disk/fat"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// tool runs a program of the host and fails the test, naming the package that has it, if it
// is missing or exits with an error.
func tool(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name)
	}
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skipf("SHORT=1: %s is missing", name)
		}
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// noise returns n bytes that depend on seed alone.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte(bytes.Repeat([]byte(strconv.FormatUint(seed%10, 10)), 32))).Read(b)
	return b
}

// testDisk builds a disk with three images and returns its path and the contents.
func testDisk(t *testing.T, o Options) (string, map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	contents := map[string][]byte{
		layout.SlotA:        noise(1, 3<<20+17),
		layout.SlotB:        noise(2, 4096),
		layout.FallbackSlot: noise(3, 1<<20),
	}
	o.Files = map[string]string{}
	for name, content := range contents {
		host := filepath.Join(dir, strings.ReplaceAll(name, "/", "_"))
		if err := os.WriteFile(host, content, 0o600); err != nil {
			t.Fatal(err)
		}
		o.Files[name] = host
	}
	path := filepath.Join(dir, "disk.img")
	if err := Build(path, o); err != nil {
		t.Fatal(err)
	}
	return path, contents
}

// checkVolume lets fsck.vfat look at the FAT volume in an image.
func checkVolume(t *testing.T, path string) {
	t.Helper()
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	volume := filepath.Join(t.TempDir(), "volume")
	tool(t, "coreutils", "dd", "if="+path, "of="+volume, "bs=512", "conv=sparse", "status=none",
		"skip="+strconv.FormatInt(m.at/512, 10), "count="+strconv.FormatInt(m.size/512, 10))
	out := tool(t, "dosfstools", "fsck.vfat", "-n", "-v", volume)
	for _, bad := range []string{"uninitialized", "Fixing", "wrong", "rong"} {
		if strings.Contains(out, bad) {
			t.Errorf("fsck.vfat says:\n%s", out)
		}
	}
}

func TestDiskPassesSgdiskAndFsck(t *testing.T) {
	path, _ := testDisk(t, Options{})
	out := tool(t, "gdisk", "sgdisk", "-v", path)
	if !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	if info := tool(t, "gdisk", "sgdisk", "-i", "1", path); !strings.Contains(info, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B") ||
		!strings.Contains(info, "'"+layout.ESPLabel+"'") || !strings.Contains(info, "First sector: 2048") {
		t.Errorf("sgdisk -i 1:\n%s", info)
	}
	if info := tool(t, "gdisk", "sgdisk", "-i", "2", path); !strings.Contains(info, layout.DataType) ||
		!strings.Contains(info, "'"+layout.DataLabel+"'") || !strings.Contains(info, "(2.0 GiB)") {
		t.Errorf("sgdisk -i 2:\n%s", info)
	}
	checkVolume(t, path)
}

func TestDiskIsSparse(t *testing.T) {
	path, _ := testDisk(t, Options{})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(DefaultESPSize + DefaultDataSize + 2<<20); info.Size() != want {
		t.Errorf("size %d, want %d", info.Size(), want)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 16<<20 {
		t.Errorf("%d bytes in use for 4 MiB of files", used)
	}
}

func TestMtoolsReadWhatWasWritten(t *testing.T) {
	path, contents := testDisk(t, Options{ESPSize: 64 << 20, DataSize: 1 << 20})
	for name, want := range contents {
		got := filepath.Join(t.TempDir(), "got")
		tool(t, "mtools", "mcopy", "-n", "-i", path+"@@1M", "::"+name, got)
		if b, err := os.ReadFile(got); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: mcopy read %d bytes, %v; want %d", name, len(b), err, len(want))
		}
	}
	if out := tool(t, "mtools", "mdir", "-b", "-/", "-i", path+"@@1M", "::"); !strings.Contains(out, "::/EFI/pforte/a.efi") {
		t.Errorf("mdir:\n%s", out)
	}
}

func TestIdentityMakesDisksEqual(t *testing.T) {
	sum := func(identity string) [32]byte {
		path, _ := testDisk(t, Options{Identity: identity, ESPSize: 34 << 20, DataSize: 1 << 20})
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	one := sum("one")
	if sum("one") != one {
		t.Error("the same identity gives another disk")
	}
	random := sum("")
	if sum("two") == one || random == one || random == sum("") {
		t.Error("two identities give the same disk")
	}
}

func TestBuildRefuses(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(big, make([]byte, 40<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		o    Options
		want error
	}{
		"files do not fit":     {Options{ESPSize: 34 << 20, Files: map[string]string{"a": big}}, fat.ErrFull},
		"no such file":         {Options{Files: map[string]string{"a": big + "-"}}, os.ErrNotExist},
		"ESP too small":        {Options{ESPSize: 1 << 20}, nil},
		"ESP not aligned":      {Options{ESPSize: 64<<20 + 512}, nil},
		"data not aligned":     {Options{DataSize: 1000}, nil},
		"paths differ in case": {Options{Files: map[string]string{"a": big, "A": big}}, nil},
		"file is a folder too": {Options{Files: map[string]string{"a": big, "a/b": big}}, nil},
		"parent folder":        {Options{Files: map[string]string{"../a": big}}, nil},
		"absolute":             {Options{Files: map[string]string{"/a": big}}, nil},
		"folder":               {Options{Files: map[string]string{"a": filepath.Dir(big)}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.img")
			err := Build(path, tc.o)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestSeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed.img")
	files := map[string][]byte{layout.SeedConfig: []byte(`{"payload":"x"}`), "docs/empty.txt": {}}
	if err := Seed(path, files); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "dosfstools", "fsck.vfat", "-n", "-v", path); strings.Contains(out, "rong") {
		t.Errorf("fsck.vfat:\n%s", out)
	}
	if out := tool(t, "mtools", "mlabel", "-s", "-i", path, "::"); !strings.Contains(out, layout.SeedVolume) {
		t.Errorf("mlabel: %s", out)
	}
	if out := tool(t, "util-linux", "blkid", "-p", "-o", "export", path); !strings.Contains(out, "LABEL="+layout.SeedVolume) ||
		!strings.Contains(out, "TYPE=vfat") {
		t.Errorf("blkid:\n%s", out)
	}
	if out := tool(t, "mtools", "mtype", "-i", path, "::"+layout.SeedConfig); out != `{"payload":"x"}` {
		t.Errorf("mtype: %q", out)
	}
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if diff := cmp.Diff(map[string]int64{layout.SeedConfig: 15, "docs/empty.txt": 0}, m.Files()); diff != "" {
		t.Error(diff)
	}
}

func TestPatchChangesNothingElse(t *testing.T) {
	path, contents := testDisk(t, Options{ESPSize: 34 << 20, DataSize: 1 << 20})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Flip("efi/PFORTE/A.EFI", 123456); err != nil {
		t.Fatal(err)
	}
	got, err := m.ReadFile(layout.SlotA)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(contents[layout.SlotA])
	want[123456] ^= 0xff
	if !bytes.Equal(got, want) {
		t.Error("the file is not what it was with one byte flipped")
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for i := range before {
		if before[i] != after[i] {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("%d bytes of the disk changed", changed)
	}
	if err := m.Patch(layout.SlotB, 4090, make([]byte, 7)); err == nil {
		t.Error("a patch beyond the end was written")
	}
}

func TestReplace(t *testing.T) {
	path, contents := testDisk(t, Options{ESPSize: 34 << 20, DataSize: 1 << 20})
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	larger := noise(4, 5<<20)
	if err := m.Replace(map[string][]byte{"efi/pforte/A.EFI": larger, layout.SlotB: nil, "loader/new": []byte("n")}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int64{layout.SlotA: 5 << 20, layout.FallbackSlot: 1 << 20, "loader/new": 1}
	if diff := cmp.Diff(want, m.Files()); diff != "" {
		t.Error(diff)
	}
	if b, err := m.ReadFile(layout.SlotA); err != nil || !bytes.Equal(b, larger) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if b, err := m.ReadFile(layout.FallbackSlot); err != nil || !bytes.Equal(b, contents[layout.FallbackSlot]) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if _, err := m.ReadFile(layout.SlotB); !errors.Is(err, fat.ErrNotFound) {
		t.Errorf("removed file: %v", err)
	}
	checkVolume(t, path)
}

func TestOpenReadsWhatOthersWrote(t *testing.T) {
	path, contents := testDisk(t, Options{ESPSize: 34 << 20, DataSize: 1 << 20})
	dir := t.TempDir()
	host := filepath.Join(dir, "big")
	content := noise(5, 6<<20)
	if err := os.WriteFile(host, content, 0o600); err != nil {
		t.Fatal(err)
	}
	at := path + "@@1M"
	tool(t, "mtools", "mdel", "-i", at, "::"+layout.SlotB) // a hole, so that what follows is in pieces
	tool(t, "mtools", "mmd", "-i", at, "::A folder with a long name")
	tool(t, "mtools", "mcopy", "-i", at, host, "::A folder with a long name/And a file.with.dots")
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if b, err := m.ReadFile("A folder with a long name/And a file.with.dots"); err != nil || !bytes.Equal(b, content) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if b, err := m.ReadFile(layout.SlotA); err != nil || !bytes.Equal(b, contents[layout.SlotA]) {
		t.Errorf("read %d bytes, %v", len(b), err)
	}
	if _, ok := m.Files()[layout.SlotB]; ok {
		t.Error("the deleted file is still listed")
	}
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	for name, size := range map[string]int64{"empty": 0, "zeros": 1 << 20} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := Open(path); err == nil {
			m.Close()
			t.Errorf("%s: opened", name)
		}
	}
}
