package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
)

// replaceSBAT puts other data into the stub's .sbat section. It must fit before
// the next section in memory, since code and relocations refer to the addresses
// of those.
func (s *Stub) replaceSBAT(data []byte) error {
	for i := range s.sections {
		if sectionName(s.sections[i].header.Name) != SectionSBAT {
			continue
		}
		room := uint64(maxMemory)
		if i+1 < len(s.sections) {
			room = uint64(s.sections[i+1].header.VirtualAddress)
		}
		if room -= uint64(s.sections[i].header.VirtualAddress); uint64(len(data)) > room {
			return fmt.Errorf("SBAT data of %d bytes: the stub has room for %d", len(data), room)
		}
		s.sections[i].data = data
		s.sections[i].header.VirtualSize = uint32(len(data))
		return nil
	}
	return errors.New("stub has no section .sbat")
}

// add appends a section on the first free page.
func (s *Stub) add(sec Section) error {
	if room := (len(s.headers) - s.sectionTable()) / sizeSection; len(s.sections) >= room {
		return fmt.Errorf("the stub's headers have room for %d sections only", room)
	}
	if uint64(s.sizeOfImage())+uint64(len(sec.Data)) > MaxSize {
		return fmt.Errorf("%d bytes more would exceed the limit of %d", len(sec.Data), MaxSize)
	}
	h := pe.SectionHeader32{
		VirtualSize:     uint32(len(sec.Data)),
		VirtualAddress:  s.sizeOfImage(),
		Characteristics: pe.IMAGE_SCN_MEM_READ | pe.IMAGE_SCN_CNT_INITIALIZED_DATA,
	}
	if sec.Name == SectionLinux {
		h.Characteristics = pe.IMAGE_SCN_MEM_READ | pe.IMAGE_SCN_CNT_CODE
	}
	copy(h.Name[:], sec.Name)
	s.sections = append(s.sections, placed{h, sec.Data})
	return nil
}

func (s *Stub) dropNX() {
	flags := s.headers[s.peOffset+sizeFileHeader+offDLLFlags:]
	binary.LittleEndian.PutUint16(flags, binary.LittleEndian.Uint16(flags)&^pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT)
}

// assemble lays the sections out in the file and writes headers and data.
func (s *Stub) assemble() ([]byte, error) {
	total := uint64(len(s.headers))
	initialized := uint32(0)
	for i := range s.sections {
		h := &s.sections[i].header
		h.SizeOfRawData = alignUp(uint32(len(s.sections[i].data)), s.align)
		h.PointerToRawData = 0
		if h.SizeOfRawData > 0 {
			h.PointerToRawData = uint32(total)
		}
		if h.Characteristics&pe.IMAGE_SCN_CNT_INITIALIZED_DATA != 0 {
			initialized += h.VirtualSize
		}
		if total += uint64(h.SizeOfRawData); total > MaxSize {
			return nil, fmt.Errorf("image exceeds the limit of %d bytes", MaxSize)
		}
	}
	image := make([]byte, total)
	copy(image, s.headers)
	if err := s.writeHeaders(image, initialized); err != nil {
		return nil, err
	}
	for _, p := range s.sections {
		copy(image[p.header.PointerToRawData:], p.data)
	}
	return image, setCheckSum(image)
}

func (s *Stub) writeHeaders(image []byte, initialized uint32) error {
	le := binary.LittleEndian
	opt := image[s.peOffset+sizeFileHeader:]
	le.PutUint16(image[s.peOffset+offSections:], uint16(len(s.sections)))
	le.PutUint32(opt[offInitialized:], initialized)
	le.PutUint32(opt[offSizeOfImage:], s.sizeOfImage())
	table := image[s.sectionTable():len(s.headers)]
	clear(table)
	for i, p := range s.sections {
		if _, err := binary.Encode(table[i*sizeSection:], le, p.header); err != nil {
			return fmt.Errorf("write section header %d: %w", i, err)
		}
	}
	return nil
}

// setCheckSum writes the checksum of the PE format: the sum of all 16-bit words
// with end-around carry, the field itself taken as zero, plus the length.
// Firmware ignores it; sbverify and other tools complain if it is wrong.
func setCheckSum(image []byte) error {
	off, err := peOffset(image)
	if err != nil {
		return err
	}
	field := image[off+sizeFileHeader+offCheckSum:][:4]
	clear(field)
	var sum uint64
	for i := 0; i+1 < len(image); i += 2 {
		sum += uint64(image[i]) | uint64(image[i+1])<<8
	}
	if len(image)%2 == 1 {
		sum += uint64(image[len(image)-1])
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.LittleEndian.PutUint32(field, uint32(sum)+uint32(len(image)))
	return nil
}

// Section is a named part of an image.
type Section struct {
	Name string
	// Data is the content, VirtualSize bytes: what the stub measures and passes on.
	Data []byte
}

// Sections returns the sections of an image, signed or not, in the order of its
// section table. It trusts nothing: an image with a section beyond its end or
// larger than MaxSize is refused. Data aliases image where it can.
func Sections(image []byte) ([]Section, error) {
	if len(image) > MaxSize {
		return nil, fmt.Errorf("read UKI: %d bytes, the limit is %d", len(image), MaxSize)
	}
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("read UKI: %w", err)
	}
	var out []Section
	total := uint64(0) // in memory, which sections without data in the file could blow up
	for _, h := range f.Sections {
		if total += uint64(h.VirtualSize); total > MaxSize+MaxStub || uint64(h.Offset)+uint64(h.Size) > uint64(len(image)) {
			return nil, fmt.Errorf("read UKI: section %q lies beyond the end of the file", h.Name)
		}
		data := image[h.Offset:][:min(h.Size, h.VirtualSize)]
		if uint32(len(data)) < h.VirtualSize {
			data = append(bytes.Clone(data), make([]byte, int(h.VirtualSize)-len(data))...)
		}
		out = append(out, Section{h.Name, data})
	}
	return out, nil
}
