package inspect

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"slices"
	"strings"
)

// libraryDirs are where Debian's dynamic linker looks on amd64.
func libraryDirs() []string {
	return []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"}
}

// object is one ELF file as the dynamic linker sees it.
type object struct {
	interpreter string // of a dynamic program
	needs       []string
	dirs        []string // where its libraries are looked for
	faults      []string
}

// checkLibraries wants every library and every interpreter that an ELF file asks
// for in the box itself, and no memory that is writable and executable at once.
func checkLibraries(t *tree) ([]Fault, error) {
	objects := map[string]*object{}
	for _, name := range t.files() {
		data, err := readFile(t.host(name))
		if err != nil {
			return nil, err
		}
		if !isELF(data) {
			continue
		}
		if objects[name], err = readObject(name, data); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	var out []Fault
	reached := map[string]bool{}
	load := func(name string) {
		for _, text := range t.load(objects, name, reached) {
			out = append(out, Fault{Path: name, Text: text})
		}
	}
	for name, o := range objects {
		for _, text := range o.faults {
			out = append(out, Fault{Path: name, Text: text})
		}
		if o.interpreter != "" {
			if !t.executable(o.interpreter) {
				out = append(out, Fault{Path: name, Text: "its interpreter " + o.interpreter + " is missing"})
			}
			load(name)
		}
	}
	for name := range objects { // what is loaded by name at run time
		if !reached[name] {
			load(name)
		}
	}
	return out, nil
}

// load follows the needs of one file as ld.so(8) does: breadth first, and a
// library that is loaded already serves everyone who asks for its name. It
// returns what is missing, and marks what was loaded.
func (t *tree) load(objects map[string]*object, name string, reached map[string]bool) (faults []string) {
	loaded := map[string]bool{}
	for todo := []string{name}; len(todo) > 0; todo = todo[1:] {
		reached[todo[0]] = true
		o := objects[todo[0]]
		for _, lib := range o.needs {
			if loaded[lib] {
				continue
			}
			loaded[lib] = true
			at := t.library(lib, o.dirs)
			switch {
			case objects[at] != nil:
				todo = append(todo, at)
			case todo[0] == name:
				faults = append(faults, "library "+lib+" is missing")
			default:
				faults = append(faults, "library "+lib+" is missing, which "+todo[0]+" needs")
			}
		}
	}
	return faults
}

// library is where a library lies, or "".
func (t *tree) library(lib string, dirs []string) string {
	for _, dir := range dirs {
		end, ok := t.resolve(path.Join(dir, lib))
		if ok && t.entries[end].mode.IsRegular() {
			return end
		}
	}
	return ""
}

func readObject(name string, data []byte) (*object, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	o := &object{}
	if file.Machine != elf.EM_X86_64 {
		o.faults = []string{"made for " + file.Machine.String() + ": the box is amd64"}
		return o, nil
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			at := make([]byte, min(p.Filesz, maxInterpreter))
			if _, err := p.ReadAt(at, 0); err != nil {
				return nil, err
			}
			o.interpreter = strings.TrimRight(string(at), "\x00")
		}
		if (p.Type == elf.PT_LOAD || p.Type == elf.PT_GNU_STACK) && p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
			o.faults = append(o.faults, "asks for memory that is writable and executable at once")
		}
	}
	if o.needs, err = file.ImportedLibraries(); err != nil {
		return nil, err
	}
	return o, o.searchPath(file, name)
}

// maxInterpreter bounds the path of an interpreter, in bytes, as the kernel does.
const maxInterpreter = 4096

// searchPath finds out where the dynamic linker looks for the file's libraries.
// Folders outside /usr could be filled by others.
func (o *object) searchPath(file *elf.File, name string) error {
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		lists, err := file.DynString(tag)
		if err != nil {
			return err
		}
		for dir := range strings.SplitSeq(strings.Join(lists, ":"), ":") {
			if dir == "" {
				continue
			}
			dir = path.Clean(strings.ReplaceAll(dir, "$ORIGIN", path.Dir(name)))
			if !strings.HasPrefix(dir, "/usr/") {
				o.faults = append(o.faults, "looks for libraries in "+dir+", outside /usr")
			}
			o.dirs = append(o.dirs, dir)
		}
	}
	o.dirs = slices.Concat(o.dirs, libraryDirs())
	return nil
}
