package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
)

// MaxStub is the largest stub, in bytes, that ReadStub reads. Debian's has 90 KiB.
const MaxStub = 4 << 20

// Offsets in a PE file (Microsoft, "PE Format").
const (
	offPEPointer     = 0x3c // in the DOS header: where the PE signature stands
	sizeFileHeader   = 20
	sizeOptional64   = 240 // with all 16 data directories
	sizeSection      = 40
	offSections      = 2   // in the file header: NumberOfSections
	offInitialized   = 8   // in the optional header: SizeOfInitializedData
	offSizeOfImage   = 56  // …: SizeOfImage
	offCheckSum      = 64  // …: CheckSum
	offDLLFlags      = 70  // …: DllCharacteristics
	offSecurityEntry = 144 // …: data directory 4, the certificate table

	dirSecurity = 4
	dirDebug    = 6

	subsystemEFIApplication = 10
	pageSize                = 4096
	maxMemory               = MaxStub // of a stub, from its base to its last section's end
)

// magic is the line by which sd-stub says its version, in its section .sdmagic.
const magicSection = ".sdmagic"

func magicVersion(b []byte) string {
	m := regexp.MustCompile(`^#### LoaderInfo: systemd-stub ([0-9A-Za-z.~+-]{1,64}) ####`).FindSubmatch(b)
	if m == nil {
		return ""
	}
	return string(m[1])
}

// Stub is a parsed sd-stub. Its fields are for information; Build takes the bytes.
type Stub struct {
	// Version is the version of systemd that the stub names ("257.13-1~deb13u1").
	Version string
	// SBAT is the content of the stub's own .sbat section.
	SBAT []byte

	headers  []byte // up to SizeOfHeaders
	peOffset int    // of the file header, after "PE\0\0"
	align    uint32 // of sections in the file
	sections []placed
}

// placed is a section with its place in memory.
type placed struct {
	header pe.SectionHeader32
	data   []byte // without padding; its length may be below VirtualSize (zeros follow)
}

func (p placed) end() uint64 {
	return uint64(p.header.VirtualAddress) + uint64(p.header.VirtualSize)
}

// ReadStub parses an EFI stub and fails with the reason if it is not a PE32+
// application for x86-64 by systemd that sections can be added to: unsigned,
// without symbol table and debug directory (both hold file offsets, which
// Build changes), page-aligned in memory, its sections in ascending order.
func ReadStub(b []byte) (*Stub, error) {
	if len(b) > MaxStub {
		return nil, fmt.Errorf("read stub: %d bytes, at most %d are expected", len(b), MaxStub)
	}
	s, err := readStub(b)
	if err != nil {
		return nil, fmt.Errorf("read stub: %w", err)
	}
	return s, nil
}

func readStub(b []byte) (*Stub, error) {
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	opt, err := checkHeaders(f)
	if err != nil {
		return nil, err
	}
	if uint64(opt.SizeOfHeaders) > uint64(len(b)) {
		return nil, fmt.Errorf("headers of %d bytes in a file of %d", opt.SizeOfHeaders, len(b))
	}
	s := &Stub{headers: bytes.Clone(b[:opt.SizeOfHeaders]), align: opt.FileAlignment}
	if s.peOffset, err = peOffset(b); err != nil {
		return nil, err
	}
	if end := s.sectionTable() + int(f.NumberOfSections)*sizeSection; end > len(s.headers) {
		return nil, fmt.Errorf("section table ends at %d, beyond the headers' %d bytes", end, len(s.headers))
	}
	if err := s.readSections(f, b); err != nil {
		return nil, err
	}
	if opt.SizeOfImage != s.sizeOfImage() {
		return nil, fmt.Errorf("SizeOfImage is %#x, but the sections end at %#x", opt.SizeOfImage, s.sizeOfImage())
	}
	return s, s.identify()
}

// peOffset finds the file header. debug/pe has followed the same pointer.
func peOffset(b []byte) (int, error) {
	if len(b) < offPEPointer+4 || b[0] != 'M' || b[1] != 'Z' {
		return 0, errors.New("no DOS header")
	}
	off := uint64(binary.LittleEndian.Uint32(b[offPEPointer:]))
	if off+4+sizeFileHeader+sizeOptional64 > uint64(len(b)) || string(b[off:off+4]) != "PE\x00\x00" {
		return 0, fmt.Errorf("no PE header at %#x", off)
	}
	return int(off) + 4, nil
}

func checkHeaders(f *pe.File) (*pe.OptionalHeader64, error) {
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	switch {
	case f.Machine != pe.IMAGE_FILE_MACHINE_AMD64:
		return nil, fmt.Errorf("machine is %#x, not x86-64", f.Machine)
	case !ok || f.SizeOfOptionalHeader != sizeOptional64 || opt.NumberOfRvaAndSizes != 16:
		return nil, errors.New("no PE32+ optional header with 16 data directories")
	case opt.Subsystem != subsystemEFIApplication:
		return nil, fmt.Errorf("subsystem is %d, not EFI application", opt.Subsystem)
	case opt.SectionAlignment != pageSize:
		return nil, fmt.Errorf("section alignment is %d, not %d", opt.SectionAlignment, pageSize)
	case opt.FileAlignment < 512 || opt.FileAlignment > pageSize || opt.FileAlignment&(opt.FileAlignment-1) != 0:
		return nil, fmt.Errorf("file alignment %d is not a power of two from 512 to %d", opt.FileAlignment, pageSize)
	case opt.SizeOfHeaders == 0 || opt.SizeOfHeaders%opt.FileAlignment != 0:
		return nil, fmt.Errorf("size of headers %d is not a multiple of %d", opt.SizeOfHeaders, opt.FileAlignment)
	case f.PointerToSymbolTable != 0 || f.NumberOfSymbols != 0:
		return nil, errors.New("has a symbol table: strip it")
	case opt.DataDirectory[dirSecurity] != pe.DataDirectory{}:
		return nil, errors.New("is signed already: take the unsigned stub")
	case opt.DataDirectory[dirDebug] != pe.DataDirectory{}:
		return nil, errors.New("has a debug directory: strip it")
	}
	return opt, nil
}

func (s *Stub) readSections(f *pe.File, b []byte) error {
	if len(f.Sections) == 0 {
		return errors.New("has no sections")
	}
	last := uint64(len(s.headers))
	for i, sec := range f.Sections {
		var h pe.SectionHeader32
		if _, err := binary.Decode(s.headers[s.sectionTable()+i*sizeSection:], binary.LittleEndian, &h); err != nil {
			return fmt.Errorf("section %d: %w", i, err)
		}
		p := placed{header: h}
		switch {
		case uint64(h.VirtualAddress) < last || h.VirtualAddress%pageSize != 0:
			return fmt.Errorf("section %q at %#x: overlaps the one before or is not page-aligned", sec.Name, h.VirtualAddress)
		case h.VirtualSize == 0 || p.end() > maxMemory:
			return fmt.Errorf("section %q has %#x bytes in memory", sec.Name, h.VirtualSize)
		case uint64(h.PointerToRawData)+uint64(h.SizeOfRawData) > uint64(len(b)):
			return fmt.Errorf("section %q lies beyond the end of the file", sec.Name)
		case h.NumberOfRelocations != 0 || h.NumberOfLineNumbers != 0:
			return fmt.Errorf("section %q has relocations or line numbers of an object file", sec.Name)
		}
		last = p.end()
		p.data = b[h.PointerToRawData:][:min(h.SizeOfRawData, h.VirtualSize)]
		s.sections = append(s.sections, p)
	}
	return nil
}

// identify reads what the stub says of itself and refuses one that is already
// a unified image.
func (s *Stub) identify() error {
	for _, p := range s.sections {
		switch name := sectionName(p.header.Name); name {
		case magicSection:
			s.Version = magicVersion(p.data)
		case SectionSBAT:
			s.SBAT = p.data
		default:
			if slices.Contains(measured(), name) || name == SectionPCRSig {
				return fmt.Errorf("has a section %s already: it is a whole image, not a stub", name)
			}
		}
	}
	if s.Version == "" {
		return fmt.Errorf("section %s does not name systemd-stub and its version", magicSection)
	}
	if !bytes.HasPrefix(s.SBAT, []byte("sbat,1,")) {
		return fmt.Errorf("section %s is missing or does not begin with \"sbat,1,\"", SectionSBAT)
	}
	return nil
}

func (s *Stub) sectionTable() int { return s.peOffset + sizeFileHeader + sizeOptional64 }

// sizeOfImage is the first free page after the last section.
func (s *Stub) sizeOfImage() uint32 {
	return alignUp(uint32(s.sections[len(s.sections)-1].end()), pageSize)
}

func sectionName(raw [8]uint8) string {
	return string(bytes.TrimRight(raw[:], "\x00"))
}

func alignUp(n, to uint32) uint32 { return (n + to - 1) &^ (to - 1) }
