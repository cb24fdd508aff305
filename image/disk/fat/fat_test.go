package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tool runs a program of the host and fails the test, naming the package that
// has it, if it is missing or exits with an error.
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
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "MTOOLS_SKIP_CHECK=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// build writes a volume to a sparse file and lets fsck.vfat look at it.
func build(t *testing.T, v Volume) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "volume"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(v.Size); err != nil {
		t.Fatal(err)
	}
	if err := Write(f, v); err != nil {
		t.Fatal(err)
	}
	if out := tool(t, "dosfstools", "fsck.vfat", "-n", "-v", f.Name()); strings.Contains(out, "rong") || strings.Contains(out, "uninit") {
		t.Errorf("fsck.vfat:\n%s", out)
	}
	return f
}

// The sizes are those at which the clusters grow, the tables just fit, and the data
// begin off a multiple of 4 KiB without padding.
func TestVolumesOfManySizesPassFsck(t *testing.T) {
	for _, size := range []int64{
		MinSize, MinSize + 512, 35<<20 + 1536, 64 << 20, 100<<20 - 512, smallVolume, smallVolume + 512,
		512 << 20, 1<<30 + 4096 - 512, mediumVolume, mediumVolume + 512,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			content := bytes.Repeat([]byte("pforte"), 3000)
			f := build(t, Volume{Size: size, Label: "TEST", Files: []File{Bytes("a/b/c.txt", content)}})
			r, err := Open(f, size)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := r.ReadFile("a/b/c.txt", 1<<20); err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
			if g, err := newGeometry(size); err != nil || g.dataStart()%4096 != 0 {
				t.Errorf("data begin at %d, %v", g.dataStart(), err)
			}
		})
	}
}

// awkward are names that short names cannot hold as they are, or that clash there.
func awkward() []File {
	return []File{
		Bytes("UPPER.TXT", []byte("1")), Bytes("lower.txt", []byte("2")), Bytes("Mixed.Case", []byte("3")),
		Bytes("a long name with spaces.text", []byte("4")), Bytes("a long name with commas, too", []byte("5")),
		Bytes("thirteen.char", []byte("6")), Bytes("fourteen.chars", []byte("7")), Bytes("two.dots.txt", []byte("8")),
		Bytes("twodots.txt", []byte("9")), Bytes("plus+sign", nil), Bytes("plussign", nil), Bytes(strings.Repeat("n", 255), []byte("a")),
		Bytes("EFI/BOOT/BOOTX64.EFI", []byte("b")), Bytes("EFI/pforte/a.efi", []byte("c")), Bytes("noext.", nil),
	}
}

func TestNames(t *testing.T) {
	files := awkward()
	files = files[:len(files)-1] // the last is not allowed, see TestWriteRefuses
	f := build(t, Volume{Size: MinSize, Label: "NAMES", Files: files})
	r, err := Open(f, MinSize)
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]int64{}, map[string]int64{}
	for _, file := range files {
		want[file.Path] = file.Size
		out := filepath.Join(t.TempDir(), "out")
		tool(t, "mtools", "mcopy", "-n", "-i", f.Name(), "::"+file.Path, out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if mine, err := r.ReadFile(file.Path, 10); err != nil || !bytes.Equal(mine, b) || int64(len(b)) != file.Size {
			t.Errorf("%s: mcopy read %q, we read %q (%v)", file.Path, b, mine, err)
		}
	}
	for _, e := range r.Entries() {
		if !e.Dir {
			got[e.Path] = e.Size
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestFullFolder(t *testing.T) {
	var files []File
	for i := range 600 { // long names: three entries each, in many clusters
		files = append(files, Bytes(fmt.Sprintf("folder/a long file name %03d", i), []byte{byte(i)}))
	}
	f := build(t, Volume{Size: MinSize, Label: "FULL", Files: files})
	r, err := Open(f, MinSize)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Entries()); n != len(files)+1 {
		t.Errorf("%d entries, want %d and the folder", n, len(files))
	}
}

func TestTime(t *testing.T) {
	stamp := time.Date(2026, 11, 3, 4, 5, 6, 0, time.UTC)
	f := build(t, Volume{Size: MinSize, Label: "TIME", Time: stamp, Files: []File{Bytes("x", []byte("x"))}})
	if out := tool(t, "mtools", "mdir", "-i", f.Name(), "::x"); !strings.Contains(out, "2026-11-03   4:05") {
		t.Errorf("mdir:\n%s", out)
	}
	for want, at := range map[string]time.Time{"1980-01-01": {}, "2107-12-31": time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		date, _ := dosTime(at)
		if got := fmt.Sprintf("%d-%02d-%02d", 1980+date>>9, date>>5&15, date&31); got != want {
			t.Errorf("%v became %s, want %s", at, got, want)
		}
	}
}

// A volume that is written over another one must not show anything of it.
func TestWriteOverAnotherVolume(t *testing.T) {
	f := build(t, Volume{Size: MinSize, Label: "OLD", Files: awkward()[:12]})
	v := Volume{Size: MinSize, Label: "NEW", Files: []File{Bytes("d/only", []byte("one"))}}
	if err := Write(f, v); err != nil {
		t.Fatal(err)
	}
	tool(t, "dosfstools", "fsck.vfat", "-n", f.Name())
	r, err := Open(f, MinSize)
	if err != nil {
		t.Fatal(err)
	}
	if r.Label != "NEW" || len(r.Entries()) != 2 {
		t.Errorf("label %q, entries %v", r.Label, r.Entries())
	}
	fresh := build(t, v)
	e, err := r.Extents("d/only")
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer // up to and with the last cluster in use
	n := e[0].Offset + 512
	if _, err := io.CopyN(&a, io.NewSectionReader(f, 0, n), n); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(&b, io.NewSectionReader(fresh, 0, n), n); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the volume depends on what was there before")
	}
}

func TestWriteRefuses(t *testing.T) {
	broken := errors.New("broken")
	one := []File{Bytes("x", []byte("x"))}
	for name, tc := range map[string]struct {
		v    Volume
		want string
	}{
		"small":            {Volume{Size: 1 << 20, Label: "X"}, "is not a multiple"},
		"odd":              {Volume{Size: MinSize + 1, Label: "X"}, "is not a multiple"},
		"no label":         {Volume{Size: MinSize}, "label"},
		"small letters":    {Volume{Size: MinSize, Label: "label"}, "label"},
		"long label":       {Volume{Size: MinSize, Label: "TWELVE-CHARS"}, "label"},
		"empty name":       {Volume{Files: []File{Bytes("a//b", nil)}}, "0 characters"},
		"parent":           {Volume{Files: []File{Bytes("a/../b", nil)}}, "begins or ends"},
		"dot at the end":   {Volume{Files: awkward()}, "begins or ends"},
		"backslash":        {Volume{Files: []File{Bytes(`a\b`, nil)}}, "has the character"},
		"umlaut":           {Volume{Files: []File{Bytes("ä", nil)}}, "has the character"},
		"long name":        {Volume{Files: []File{Bytes(strings.Repeat("n", 256), nil)}}, "256 characters"},
		"deep":             {Volume{Files: []File{Bytes(strings.Repeat("d/", MaxDepth)+"f", nil)}}, "folders deep"},
		"twice":            {Volume{Files: append(one, one...)}, "stands against"},
		"folders in case":  {Volume{Files: []File{Bytes("a/b", nil), Bytes("A/c", nil)}}, "stands against"},
		"file over folder": {Volume{Files: []File{Bytes("a/b", nil), Bytes("a", nil)}}, "stands against"},
		"5 GiB":            {Volume{Files: []File{{Path: "x", Size: 5 << 30}}}, "FAT allows"},
		"full":             {Volume{Files: []File{{Path: "x", Size: MinSize}}}, "do not fit"},
		"shorter": {Volume{Files: []File{{"x", 2, func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("x")), nil
		}}}}, "not 2 bytes long"},
		"longer": {Volume{Files: []File{{"x", 2, func() (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("xxx")), nil
		}}}}, "not 2 bytes long"},
		"does not open": {Volume{Files: []File{{"x", 2, func() (io.ReadCloser, error) { return nil, broken }}}}, "broken"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.v.Files != nil {
				tc.v.Size, tc.v.Label = MinSize, "X"
			}
			f, err := os.Create(filepath.Join(t.TempDir(), "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := Write(f, tc.v); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// holed is a volume of which only the first bytes are given; the rest is zero.
type holed struct{ head []byte }

func (h holed) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(h.head)) {
		copy(p, h.head[off:])
	}
	return len(p), nil
}

// head returns a volume's bytes up to the end of its first clusters.
func head(t testing.TB, v Volume) []byte {
	t.Helper()
	g, err := newGeometry(v.Size)
	if err != nil {
		t.Fatal(err)
	}
	b := &memory{make([]byte, g.dataStart()+64<<10)}
	if err := Write(b, v); err != nil {
		t.Fatal(err)
	}
	return b.b
}

type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) { return copy(m.b[off:], p), nil }

func TestOpenRefuses(t *testing.T) {
	good := head(t, Volume{Size: MinSize, Label: "X", Files: []File{Bytes("d/x", bytes.Repeat([]byte("x"), 2000))}})
	g, err := newGeometry(MinSize)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(b []byte, cluster uint32) []byte { return b[int(g.reserved)*sectorSize+4*int(cluster):] }
	for name, tc := range map[string]struct {
		bend func([]byte)
		want string
	}{
		"no boot sector":     {func(b []byte) { b[510] = 0 }, "no boot sector"},
		"sector size":        {func(b []byte) { b[12] = 3 }, "sectors of"},
		"FAT16":              {func(b []byte) { b[22] = 1 }, "not FAT32"},
		"cluster size":       {func(b []byte) { b[13] = 3 }, "clusters of 3"},
		"one table":          {func(b []byte) { b[16] = 1 }, "1 allocation tables"},
		"larger than file":   {func(b []byte) { b[35] = 1 }, "in a volume of"},
		"tables only":        {func(b []byte) { b[36], b[37], b[38] = 0, 0xff, 0 }, "tables of"},
		"huge table":         {func(b []byte) { b[39] = 0x7f }, "allocation table of"},
		"short table":        {func(b []byte) { b[36], b[37] = 1, 0 }, "shorter than the volume"},
		"root outside":       {func(b []byte) { b[44], b[47] = 0, 0x0f }, "outside the volume"},
		"root leads to zero": {func(b []byte) { copy(entry(b, 2), "\x00\x00\x00\x00") }, "outside the volume"},
		"folder loops":       {func(b []byte) { copy(entry(b, 3), "\x03\x00\x00\x00") }, "longer than"},
		"folder within itself": {func(b []byte) {
			short := b[g.offset(3)+96:] // after ".", ".." and the long name
			short[11], short[26] = attrDirectory, 3
		}, "deep"},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(good)
			tc.bend(b)
			if _, err := Open(holed{b}, MinSize); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	for name, bend := range map[string]func([]byte){
		"chain too short": func(b []byte) { copy(entry(b, 5), "\xff\xff\xff\x0f") },
		"chain outside":   func(b []byte) { copy(entry(b, 5), "\xff\xff\xff\x00") },
	} {
		b := bytes.Clone(good)
		bend(b)
		r, err := Open(holed{b}, MinSize)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.ReadFile("d/x", 1<<20); err == nil {
			t.Errorf("%s: the file was read", name)
		}
	}
	r, err := Open(holed{good}, MinSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReadFile("d/x", 1999); err == nil {
		t.Error("a file beyond the limit was read")
	}
	if _, err := r.ReadFile("d", 10); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder was read as a file: %v", err)
	}
}

// FuzzOpen: nothing makes it panic or loop, and no file lies outside the volume.
func FuzzOpen(f *testing.F) {
	small := head(f, Volume{Size: MinSize, Label: "X", Files: awkward()[:12]})
	g, err := newGeometry(MinSize)
	if err != nil {
		f.Fatal(err)
	}
	// What a fuzzer changes is the boot sector, the first of the table and the first
	// clusters; the seed leaves out the long run of zeros between.
	const tableHead, dataHead = 256, 8192
	seed := append(bytes.Clone(small[:sectorSize]), small[int(g.reserved)*sectorSize:][:tableHead]...)
	f.Add(append(seed, small[g.dataStart():][:dataHead]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != sectorSize+tableHead+dataHead {
			return
		}
		volume := make([]byte, len(small))
		copy(volume, b[:sectorSize])
		copy(volume[int(g.reserved)*sectorSize:], b[sectorSize:][:tableHead])
		copy(volume[g.dataStart():], b[sectorSize+tableHead:])
		r, err := Open(holed{volume}, MinSize)
		if err != nil {
			return
		}
		for _, e := range r.Entries() {
			if e.Dir {
				continue
			}
			extents, err := r.Extents(e.Path)
			if err != nil {
				continue
			}
			for _, x := range extents {
				if x.Offset < 0 || x.Length <= 0 || x.Offset+x.Length > MinSize {
					t.Errorf("%s lies at %d with %d bytes", e.Path, x.Offset, x.Length)
				}
			}
		}
	})
}
