package debian

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeELF makes the least of an ELF file that has dynamic needs: a section table
// with .dynstr, .dynamic and, for programs, .interp.
func fakeELF(t *testing.T, program bool, runpath string, sonames ...string) []byte {
	t.Helper()
	strs := []byte{0}
	add := func(s string) uint64 {
		at := uint64(len(strs))
		strs = append(append(strs, s...), 0)
		return at
	}
	var dyn []elf.Dyn64
	for _, s := range sonames {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: add(s)})
	}
	if runpath != "" {
		dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: add(runpath)})
	}
	dyn = append(dyn, elf.Dyn64{Tag: int64(elf.DT_NULL)})
	var dynamic bytes.Buffer
	if err := binary.Write(&dynamic, binary.LittleEndian, dyn); err != nil {
		t.Fatal(err)
	}
	names := []byte("\x00.shstrtab\x00.dynstr\x00.dynamic\x00.interp\x00")
	at := func(name string) uint32 { return uint32(bytes.Index(names, []byte(name+"\x00"))) }
	const header = 64
	offset := uint64(header)
	sections := []elf.Section64{{}}
	var body []byte
	put := func(s elf.Section64, data []byte) {
		s.Off, s.Size = offset, uint64(len(data))
		sections = append(sections, s)
		body = append(body, data...)
		offset += uint64(len(data))
	}
	put(elf.Section64{Name: at(".shstrtab"), Type: uint32(elf.SHT_STRTAB)}, names)
	put(elf.Section64{Name: at(".dynstr"), Type: uint32(elf.SHT_STRTAB)}, strs)
	put(elf.Section64{Name: at(".dynamic"), Type: uint32(elf.SHT_DYNAMIC), Link: 2, Entsize: 16}, dynamic.Bytes())
	if program {
		put(elf.Section64{Name: at(".interp"), Type: uint32(elf.SHT_PROGBITS)}, []byte(Interpreter+"\x00"))
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: offset, Ehsize: header, Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	for _, part := range []any{h, body, sections} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// fakeSet lays out packages: name → path → content ("→ target" makes a link).
func fakeSet(t *testing.T, packages map[string]map[string][]byte) *Set {
	t.Helper()
	s := &Set{}
	for name, files := range packages {
		dir := t.TempDir()
		for p, data := range files {
			host := filepath.Join(dir, p)
			if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if target, ok := bytes.CutPrefix(data, []byte("→ ")); ok {
				err = os.Symlink(string(target), host)
			} else {
				err = os.WriteFile(host, data, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		s.Packages = append(s.Packages, Package{Entry: Entry{Request: name, Name: name, Source: name}, Root: dir})
	}
	if err := s.index(); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestClosure(t *testing.T) {
	const lib = "/usr/lib/x86_64-linux-gnu/"
	s := fakeSet(t, map[string]map[string][]byte{
		"prog": {
			"/usr/bin/prog": fakeELF(t, true, "$ORIGIN/../lib/private", "liba.so.1", "libprivate.so"),
			// found by the program's runpath, and needed by liba which has none
			"/usr/lib/private/libprivate.so": fakeELF(t, false, "", "libc.so.6"),
			"/usr/bin/broken":                fakeELF(t, true, "", "libmissing.so.1"),
			"/usr/bin/static":                fakeELF(t, false, ""),
		},
		"liba": {
			lib + "liba.so.1":      []byte("→ liba.so.1.2"),
			lib + "liba.so.1.2":    fakeELF(t, false, "", "libprivate.so", "libc.so.6"),
			lib + "libunused.so.9": fakeELF(t, false, ""),
		},
		"libc6": {
			lib + "libc.so.6":                 fakeELF(t, false, "", "ld-linux-x86-64.so.2"),
			lib + "ld-linux-x86-64.so.2":      fakeELF(t, false, ""),
			"/usr/lib64/ld-linux-x86-64.so.2": []byte("→ /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"),
		},
	})
	got, err := s.Closure([]string{"/usr/bin/prog"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/usr/lib/private/libprivate.so", lib + "liba.so.1", lib + "libc.so.6", Interpreter}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, err := s.Closure([]string{"/usr/bin/static"}); err != nil || len(got) != 0 {
		t.Errorf("static program needs %v (%v)", got, err)
	}
	if _, err := s.Closure([]string{"/usr/bin/broken"}); err == nil || !strings.Contains(err.Error(), "libmissing.so.1") {
		t.Errorf("error is %v, want one that names libmissing.so.1", err)
	}
	f, err := s.Lookup("/lib64/ld-linux-x86-64.so.2")
	if err != nil || f.Path != lib+"ld-linux-x86-64.so.2" || f.Package.Name != "libc6" {
		t.Errorf("Lookup through links = %+v, %v", f, err)
	}
}

func TestLookupFaults(t *testing.T) {
	s := fakeSet(t, map[string]map[string][]byte{"p": {"/a": []byte("→ b"), "/b": []byte("→ a")}})
	if _, err := s.Lookup("/a"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("circle of links: %v", err)
	}
	if _, err := s.Lookup("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// TestUnpack lets the real dpkg-deb make a package with what must not survive.
func TestUnpack(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Fatal("dpkg-deb is missing: install the package dpkg")
	}
	src := t.TempDir()
	for name, text := range map[string]string{
		"DEBIAN/control":  "Package: x\nVersion: 1\nArchitecture: amd64\nMaintainer: none <none@example.org>\nDescription: x\n",
		"DEBIAN/postinst": "#!/bin/sh\necho ran > /nowhere\n",
		"bin/tool":        "tool",
		"usr/lib/data":    "data",
	} {
		host := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(host), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(host, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(src, "bin/tool"), 0o755|fs.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../outside", filepath.Join(src, "usr/lib/up")); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(t.TempDir(), "x.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", src, deb).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	dir, err := unpack(context.Background(), deb, filepath.Join(t.TempDir(), "x"))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "usr/bin/tool"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("usr/bin/tool: %v (%v), want mode 0755 below /usr", info, err)
	}
	if target, err := os.Readlink(filepath.Join(dir, "usr/lib/up")); err != nil || target != "../../../outside" {
		t.Errorf("link: %q, %v", target, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "DEBIAN")); err == nil {
		t.Error("control files were unpacked")
	}
}

// TestFetchCached shows that a build whose packages are all in the cache asks
// neither a mirror nor apt, and that -locked refuses a foreign package.
func TestFetchCached(t *testing.T) {
	cache := t.TempDir()
	e := Entry{"p", "p", "1", hashA, "p"}
	for _, d := range []string{"debian/archives", "debian/unpacked/" + hashA + "/usr/bin", "debian/unpacked/.tmp-left"} {
		if err := os.MkdirAll(filepath.Join(cache, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"debian/archives/" + hashA + ".deb", "debian/unpacked/" + hashA + "/usr/bin/p"} {
		if err := os.WriteFile(filepath.Join(cache, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Cache: cache, Lock: &Lock{[]Entry{e}}, Locked: true, Mirror: func() (Mirror, error) { return Mirror{}, errors.New("asked for a mirror") }}
	set, err := Fetch(t.Context(), o, []Request{{Name: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := set.Lookup("/bin/p"); err != nil || len(set.Changes) != 0 {
		t.Errorf("Lookup: %v, changes %v", err, set.Changes)
	}
	if _, err := os.Stat(filepath.Join(cache, "debian/unpacked/.tmp-left")); err == nil {
		t.Error("what a killed build left is still there")
	}
	o.Lock = &Lock{[]Entry{e, {"q", "q", "1", hashB, "q"}}}
	if _, err := Fetch(t.Context(), o, []Request{{Name: "p"}}); !errors.Is(err, ErrLocked) {
		t.Errorf("error is %v, want ErrLocked", err)
	}
}

func TestParseRecords(t *testing.T) {
	got, err := parseRecords(strings.NewReader("Package: a\nSource: src (1.0)\nVersion: 2\nDepends: b (= 2), c\nDescription: x\n y\nSHA256: " + hashA + "\n\nPackage: a\nVersion: 1\nSHA256: " + hashB + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []record{{"a", "2", hashA, "src", "b (= 2), c"}, {"a", "1", hashB, "a", ""}}
	if d := cmp.Diff(want, got["a"], cmp.AllowUnexported(record{})); d != "" {
		t.Error(d)
	}
	if to := target(got["a"][0]); to != "b" {
		t.Errorf("target = %q", to)
	}
}

func TestParseLicences(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"machine-readable", "Files: *\nLicense: GPL-2+\n text\n\nFiles: x\nLicense: Expat\n\nLicense: GPL-2+\n", []string{"Expat", "GPL-2+"}},
		{"references", "see /usr/share/common-licenses/LGPL-2.1.\nand `/usr/share/common-licenses/GPL-3'", []string{"GPL-3", "LGPL-2.1"}},
		{"prose", "licensed under the GNU Lesser General Public\n License, version 2.1", []string{"LGPL"}},
		{"nothing", "who knows", nil},
	} {
		if d := cmp.Diff(tt.want, parseLicences(tt.text)); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}
