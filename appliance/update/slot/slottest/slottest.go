// Package slottest stands in for what package slot works with: firmware
// variables in memory, and files that look like our images. It is for tests only.
package slottest

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/u-root/u-root/pkg/efivarfs"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
)

// Vars are firmware variables. They take only what boot variables may be: global,
// non-volatile, with boot and runtime access.
type Vars struct {
	mu     sync.Mutex
	vars   map[string][]byte
	Writes []string // names, in order
	Full   bool     // every write fails
}

// NewVars returns variables of the given contents, by name.
func NewVars(vars map[string][]byte) *Vars {
	if vars == nil {
		vars = map[string][]byte{}
	}
	return &Vars{vars: vars}
}

// Get implements firmware.Vars.
func (v *Vars) Get(d efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	data, ok := v.vars[d.Name]
	if !ok {
		return 0, nil, fs.ErrNotExist
	}
	return attributes, slices.Clone(data), nil
}

const attributes = efivarfs.AttributeNonVolatile | efivarfs.AttributeBootserviceAccess | efivarfs.AttributeRuntimeAccess

// Set implements firmware.Vars.
func (v *Vars) Set(d efivarfs.VariableDescriptor, a efivarfs.VariableAttributes, data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case a != attributes || d.GUID != firmware.Global(d.Name).GUID:
		return fmt.Errorf("%s with attributes %x", d.Name, a)
	case v.Full:
		return errors.New("no space left on device")
	}
	v.vars[d.Name] = slices.Clone(data)
	v.Writes = append(v.Writes, d.Name)
	return nil
}

// Raw is a variable's content, nil if there is none.
func (v *Vars) Raw(name string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.vars[name])
}

// SetRaw changes a variable behind everybody's back; nil deletes it.
func (v *Vars) SetRaw(name string, data []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if data == nil {
		delete(v.vars, name)
		return
	}
	v.vars[name] = data
}

// Entries are the boot entries that a variable (BootOrder, BootNext) names.
func (v *Vars) Entries(name string) []firmware.Entry {
	var out []firmware.Entry
	data := v.Raw(name)
	for i := 0; i+1 < len(data); i += 2 {
		entry, err := firmware.ParseEntry(v.Raw(fmt.Sprintf("Boot%04X", binary.LittleEndian.Uint16(data[i:]))))
		if err != nil {
			entry.Description = err.Error()
		}
		out = append(out, entry)
	}
	return out
}

// Image is the least PE file with one section.
func Image(section, content string) []byte {
	const start = 256 // of the section
	var b bytes.Buffer
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	header := [64]byte{'M', 'Z'}
	binary.LittleEndian.PutUint32(header[60:], uint32(len(header)))
	put(header)
	b.WriteString("PE\x00\x00")
	put(pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1})
	s := pe.SectionHeader32{VirtualSize: uint32(len(content)), SizeOfRawData: uint32(len(content)), PointerToRawData: start}
	copy(s.Name[:], section)
	put(s)
	b.Write(make([]byte, start-b.Len()))
	b.WriteString(content)
	return b.Bytes()
}

// Release is an image of the given version.
func Release(version string) []byte {
	return Image(".osrel", "ID=pforte\nVERSION_ID="+version+"\n")
}
