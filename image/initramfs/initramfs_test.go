package initramfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"
	"github.com/ulikunitz/xz"
)

// fakeModule is an ELF file with nothing but .modinfo.
func fakeModule(t *testing.T, info ...string) []byte {
	t.Helper()
	names := []byte("\x00.shstrtab\x00.modinfo\x00")
	text := []byte(strings.Join(info, "\x00") + "\x00")
	const header = 64
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: header + uint64(len(names)+len(text)), Ehsize: header, Shentsize: 64, Shnum: 3, Shstrndx: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	sections := []elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: header, Size: uint64(len(names))},
		{Name: 11, Type: uint32(elf.SHT_PROGBITS), Off: header + uint64(len(names)), Size: uint64(len(text))}}
	var out bytes.Buffer
	for _, part := range []any{h, names, text, sections} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

func compressed(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func fakeKernel(t *testing.T) *Kernel {
	t.Helper()
	files := fstest.MapFS{"modules.builtin": {Data: []byte("kernel/drivers/virtio/virtio_pci.ko\nkernel/lib/built-in.ko\n")}}
	for name, info := range map[string][]string{
		"kernel/fs/ext4.ko":          {"license=GPL", "depends=mbcache,jbd2", "softdep=pre: crc32c post: never"},
		"kernel/fs/jbd2.ko":          {"depends=mbcache,built_in"},
		"kernel/fs/mbcache.ko":       {"depends="},
		"kernel/crypto/crc32c.ko":    {"depends=libcrc"},
		"kernel/lib/libcrc.ko":       {"softdep=pre: crc32c"}, // a soft circle is harmless
		"kernel/fs/nls_iso8859-1.ko": {"depends="},
		"kernel/bad/a.ko":            {"depends=b"},
		"kernel/bad/b.ko":            {"depends=a"},
		"kernel/bad/orphan.ko":       {"depends=nowhere"},
		"kernel/soft/soft.ko":        {"softdep=pre: nowhere"},
	} {
		files[name+".xz"] = &fstest.MapFile{Data: compressed(t, fakeModule(t, info...))}
	}
	files["kernel/plain/plain.ko"] = &fstest.MapFile{Data: fakeModule(t, "depends=mbcache")}
	files["kernel/bad/text.ko"] = &fstest.MapFile{Data: []byte("no ELF")}
	k, err := OpenKernel(files)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestResolve(t *testing.T) {
	k := fakeKernel(t)
	tests := []struct {
		name string
		ask  []string
		want string
	}{
		{"needs first, each once", []string{"ext4", "jbd2"}, "mbcache jbd2 libcrc crc32c ext4"},
		{"order of wishes kept", []string{"plain", "nls_iso8859-1", "crc32c"}, "mbcache plain nls_iso8859_1 libcrc crc32c"},
		{"built in left out", []string{"virtio_pci", "built-in"}, ""},
		{"missing soft need", []string{"soft"}, "soft"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := k.Resolve(tt.ask)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, m := range got {
				names = append(names, m.Name)
			}
			if d := cmp.Diff(tt.want, strings.Join(names, " ")); d != "" {
				t.Error(d)
			}
		})
	}
	for ask, want := range map[string]string{"a": "a → b → a", "orphan": "orphan → nowhere", "none": "none", "text": "text"} {
		if _, err := k.Resolve([]string{ask}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Resolve(%s): error is %v, want one with %q", ask, err, want)
		}
	}
}

func contents(t *testing.T) Contents {
	t.Helper()
	dir := t.TempDir()
	c := Contents{Init: filepath.Join(dir, "init"), Root: filepath.Join(dir, "root.img"), Modules: []Module{{Name: "b", Data: []byte("bbb")}, {Name: "a", Data: []byte("a")}}}
	for host, text := range map[string]string{c.Init: "the init", c.Root: strings.Repeat("root", 1000)} {
		if err := os.WriteFile(host, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestWriteIsReproducible(t *testing.T) {
	var one, two bytes.Buffer
	if err := Write(&one, contents(t)); err != nil {
		t.Fatal(err)
	}
	if err := Write(&two, contents(t)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("two archives of the same contents differ")
	}
}

func TestWriteReadsBack(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, contents(t)); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(&out, zstd.WithDecoderMaxWindow(windowSize))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]cpio.Record{}
	inodes := map[uint64]bool{}
	r := cpio.EOFReader{RecordReader: cpio.Newc.Reader(bytes.NewReader(raw))}
	for {
		rec, err := r.ReadRecord()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if rec.UID != 0 || rec.GID != 0 || rec.MTime != 0 || inodes[rec.Ino] {
			t.Errorf("%s: owner %d:%d, time %d, inode %d (unique: %v)", rec.Name, rec.UID, rec.GID, rec.MTime, rec.Ino, !inodes[rec.Ino])
		}
		inodes[rec.Ino] = true
		if dir := filepath.Dir(rec.Name); dir != "." && got[dir].Mode&cpio.S_IFMT != cpio.S_IFDIR {
			t.Errorf("%s stands before its folder", rec.Name)
		}
		got[rec.Name] = rec
	}
	for name, want := range map[string]string{"init": "the init", "modules/list": "/modules/b.ko\n/modules/a.ko\n", "modules/b.ko": "bbb", "root.img": strings.Repeat("root", 1000)} {
		rec, ok := got[name]
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		data, err := io.ReadAll(io.NewSectionReader(rec, 0, int64(rec.FileSize)))
		if err != nil || string(data) != want {
			t.Errorf("%s holds %d bytes (%v)", name, len(data), err)
		}
	}
	if fs.FileMode(got["init"].Mode).Perm() != 0o755 {
		t.Errorf("init has mode %o", got["init"].Mode)
	}
}
