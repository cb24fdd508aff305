package inspect

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
)

// program makes the least of an ELF file that says what o says; faults stands
// for a stack that may be executed.
func program(o object) []byte {
	const headSize, progSize, sectionSize = 64, 56, 64
	strs := []byte{0}
	text := func(s string) uint64 {
		at := uint64(len(strs))
		strs = append(append(strs, s...), 0)
		return at
	}
	var dynamic []elf.Dyn64
	for _, lib := range o.needs {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: text(lib)})
	}
	if len(o.dirs) > 0 {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_RUNPATH), Val: text(strings.Join(o.dirs, ":"))})
	}
	dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_NULL)})
	interp := text(o.interpreter)
	const strsAt = headSize + 2*progSize
	dynAt := uint64(strsAt + len(strs))
	dynSize := uint64(16 * len(dynamic))
	progs := []elf.Prog64{
		{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W)},
		{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R), Off: strsAt + interp, Filesz: uint64(len(o.interpreter) + 1)},
	}
	if o.interpreter == "" {
		progs[1].Type = uint32(elf.PT_NULL)
	}
	if len(o.faults) > 0 {
		progs[0].Flags |= uint32(elf.PF_X)
	}
	sections := []elf.Section64{
		{},
		{Type: uint32(elf.SHT_STRTAB), Off: strsAt, Size: uint64(len(strs))},
		{Type: uint32(elf.SHT_DYNAMIC), Off: dynAt, Size: dynSize, Link: 1, Entsize: 16},
	}
	head := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: headSize, Shoff: dynAt + dynSize,
		Ehsize: headSize, Phentsize: progSize, Phnum: uint16(len(progs)), Shentsize: sectionSize, Shnum: uint16(len(sections)), Shstrndx: 1,
	}
	copy(head.Ident[:], "\x7fELF\x02\x01\x01")
	var out bytes.Buffer
	for _, part := range []any{head, progs, strs, dynamic, sections} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			panic(err) // the parts are fixed-size by construction
		}
	}
	return out.Bytes()
}

func TestMachine(t *testing.T) {
	data := program(object{})
	data[18] = byte(elf.EM_AARCH64)
	o, err := readObject("/usr/bin/x", data)
	if err != nil || len(o.faults) != 1 || !strings.Contains(o.faults[0], "amd64") {
		t.Errorf("a program for another machine: %v, %v", o, err)
	}
	if _, err := readObject("/usr/bin/x", data[:40]); err == nil {
		t.Error("half a header was taken")
	}
}
