package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// stubHeaders are the parts of a small made-up stub that a test may bend.
type stubHeaders struct {
	file     pe.FileHeader
	opt      pe.OptionalHeader64
	sections []pe.SectionHeader32
	contents []string
	magic    string // in place of "PE\0\0"
}

// testStub encodes a stub of three sections with room for nine more.
func testStub(bend func(*stubHeaders)) []byte {
	const headers = 1024
	h := stubHeaders{
		file: pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 3, SizeOfOptionalHeader: sizeOptional64},
		opt: pe.OptionalHeader64{
			Magic: 0x20b, SectionAlignment: 4096, FileAlignment: 512, SizeOfHeaders: headers, SizeOfImage: 4 * 4096,
			Subsystem: subsystemEFIApplication, DllCharacteristics: pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT, NumberOfRvaAndSizes: 16,
		},
		contents: []string{"\xf4\xeb\xfd", "sbat,1,SBAT Version,sbat,1,x\n", "#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####"},
		magic:    "PE\x00\x00",
	}
	for i, name := range []string{".text", SectionSBAT, magicSection} {
		s := pe.SectionHeader32{
			VirtualSize: uint32(len(h.contents[i])), VirtualAddress: uint32(i+1) * 4096,
			SizeOfRawData: 512, PointerToRawData: uint32(headers + 512*i),
		}
		copy(s.Name[:], name)
		h.sections = append(h.sections, s)
	}
	if bend != nil {
		bend(&h)
	}
	var b bytes.Buffer
	dos := make([]byte, 128)
	copy(dos, "MZ")
	binary.LittleEndian.PutUint32(dos[offPEPointer:], 128)
	b.Write(dos)
	b.WriteString(h.magic)
	for _, part := range []any{h.file, h.opt, h.sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	for i, content := range h.contents {
		b.Write(make([]byte, max(0, headers+512*i-b.Len())))
		b.WriteString(content)
	}
	b.Write(make([]byte, max(0, headers+512*len(h.contents)-b.Len())))
	return b.Bytes()
}

func TestReadStub(t *testing.T) {
	s, err := ReadStub(testStub(nil))
	if err != nil {
		t.Fatal(err)
	}
	if s.Version != "257.13-1~deb13u1" || !strings.HasPrefix(string(s.SBAT), "sbat,1,") {
		t.Errorf("version %q, SBAT %q", s.Version, s.SBAT)
	}
	real := must[*Stub](t)(ReadStub(realStub(t)))
	if !strings.HasPrefix(real.Version, "257.") {
		t.Errorf("Debian's stub calls itself %q, this package knows 257", real.Version)
	}
}

func TestReadStubRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		bend func(*stubHeaders)
		want string
	}{
		"other machine":      {func(h *stubHeaders) { h.file.Machine = pe.IMAGE_FILE_MACHINE_ARM64 }, "not x86-64"},
		"no PE":              {func(h *stubHeaders) { h.magic = "NE\x00\x00" }, "invalid PE file signature"},
		"boot driver":        {func(h *stubHeaders) { h.opt.Subsystem = 11 }, "not EFI application"},
		"symbols":            {func(h *stubHeaders) { h.file.NumberOfSymbols = 1 }, "symbol table"},
		"signed":             {func(h *stubHeaders) { h.opt.DataDirectory[dirSecurity].Size = 8 }, "signed already"},
		"debug directory":    {func(h *stubHeaders) { h.opt.DataDirectory[dirDebug].Size = 8 }, "debug directory"},
		"section alignment":  {func(h *stubHeaders) { h.opt.SectionAlignment = 512 }, "section alignment"},
		"file alignment":     {func(h *stubHeaders) { h.opt.FileAlignment = 513 }, "file alignment"},
		"no headers":         {func(h *stubHeaders) { h.opt.SizeOfHeaders = 0 }, "size of headers"},
		"long headers":       {func(h *stubHeaders) { h.opt.SizeOfHeaders = 1 << 20 }, "in a file of"},
		"many sections":      {func(h *stubHeaders) { h.opt.SizeOfHeaders = 512; h.file.NumberOfSections = 4 }, "section table ends"},
		"image size":         {func(h *stubHeaders) { h.opt.SizeOfImage = 4096 }, "SizeOfImage"},
		"overlap":            {func(h *stubHeaders) { h.sections[1].VirtualAddress = 4096 }, "overlaps"},
		"not on a page":      {func(h *stubHeaders) { h.sections[2].VirtualAddress++ }, "page-aligned"},
		"empty section":      {func(h *stubHeaders) { h.sections[0].VirtualSize = 0 }, "0x0 bytes"},
		"huge section":       {func(h *stubHeaders) { h.sections[2].VirtualSize = 1<<32 - 1 }, "bytes in memory"},
		"beyond the end":     {func(h *stubHeaders) { h.sections[2].SizeOfRawData = 4096 }, "beyond the end"},
		"nobody's stub":      {func(h *stubHeaders) { h.contents[2] = "#### LoaderInfo: other 1 ####" }, "does not name systemd-stub"},
		"no SBAT":            {func(h *stubHeaders) { copy(h.sections[1].Name[:], ".xbat") }, ".sbat is missing"},
		"an image":           {func(h *stubHeaders) { copy(h.sections[0].Name[:], ".linux") }, "not a stub"},
		"a device tree":      {func(h *stubHeaders) { copy(h.sections[0].Name[:], ".dtb\x00") }, "not a stub"},
		"object relocations": {func(h *stubHeaders) { h.sections[0].NumberOfRelocations = 1 }, "relocations"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ReadStub(testStub(tc.bend)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := ReadStub(make([]byte, MaxStub+1)); err == nil {
		t.Error("took a stub beyond the limit")
	}
}

// FuzzReadStub: whatever is taken for a stub can be made into an image whose
// sections read back, and nothing makes it panic.
func FuzzReadStub(f *testing.F) {
	f.Add(testStub(nil))
	f.Add(testStub(func(h *stubHeaders) { h.sections[2].VirtualSize = 8192; h.opt.SizeOfImage = 5 * 4096 }))
	f.Add(testStub(func(h *stubHeaders) { h.sections[0].SizeOfRawData = 0; h.sections[0].PointerToRawData = 0 }))
	f.Add(testStub(nil)[:700])
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ReadStub(b); err != nil {
			return
		}
		p := Parts{Stub: b, Kernel: []byte("kernel"), Initrd: []byte("initrd"), OSRelease: []byte("ID=x\n"), Cmdline: "quiet"}
		image, err := Build(p)
		if err != nil {
			return // no room for the sections
		}
		sections, err := Sections(image)
		if err != nil {
			t.Fatalf("the image cannot be read: %v", err)
		}
		got := map[string]string{}
		for _, s := range sections {
			got[s.Name] = string(s.Data)
		}
		if got[SectionLinux] != "kernel" || got[SectionInitrd] != "initrd" || got[SectionCmdline] != "quiet" {
			t.Errorf("read back %q", got)
		}
		want, err := PCR11(p)
		if err != nil {
			t.Fatal(err)
		}
		if value, err := PCR11Of(image); err != nil || !bytes.Equal(value, want) {
			t.Errorf("PCR 11 of the image is %x (%v), of the parts %x", value, err, want)
		}
		if _, err := signatures(image); err != ErrNotSigned {
			t.Errorf("signatures: %v", err)
		}
	})
}
