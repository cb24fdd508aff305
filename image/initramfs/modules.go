package initramfs

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// maxModule bounds an unpacked module; the largest of Debian's kernel that we
// take (ixgbe, i40e) stay below 2 MiB.
const maxModule = 32 << 20

// Module is one kernel module, ready to be loaded.
type Module struct {
	Name string // as in lsmod, with underscores
	Data []byte // the ELF file with Debian's signature at its end
	// Needs are the names of modules that must be loaded before, as the module
	// itself states them ("depends" and "softdep pre").
	Needs []string
}

// Kernel is the unpacked modules folder of one kernel (lib/modules/VERSION).
type Kernel struct {
	dir     fs.FS
	paths   map[string]string // module name → path
	builtin map[string]bool
}

// OpenKernel indexes a modules folder. Debian's packages come without the files
// that depmod makes; modules.builtin is all that is needed of them.
func OpenKernel(dir fs.FS) (*Kernel, error) {
	k := &Kernel{dir: dir, paths: map[string]string{}, builtin: map[string]bool{}}
	err := fs.WalkDir(dir, "kernel", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if name, ok := moduleName(p); ok {
				k.paths[name] = p
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	list, err := fs.ReadFile(dir, "modules.builtin")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(list)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			k.builtin[name] = true
		}
	}
	return k, nil
}

// moduleName turns ".../nls_iso8859-1.ko.xz" into "nls_iso8859_1".
func moduleName(p string) (string, bool) {
	base := strings.TrimSuffix(path.Base(p), ".xz")
	name, ok := strings.CutSuffix(base, ".ko")
	return canonical(name), ok
}

// canonical is how the kernel itself writes module names.
func canonical(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}

// Resolve returns the named modules and all that they need, each after its needs,
// otherwise in the order of names. Modules built into the kernel are left out. A
// name that the kernel does not have is an error, unless it is only a softdep.
func (k *Kernel) Resolve(names []string) ([]Module, error) {
	r := resolver{kernel: k, state: map[string]int{}}
	for _, name := range names {
		if err := r.visit(canonical(name), nil); err != nil {
			return nil, err
		}
	}
	return r.out, nil
}

const (
	visiting = 1
	done     = 2
)

type resolver struct {
	kernel *Kernel
	state  map[string]int
	out    []Module
}

func (r *resolver) visit(name string, from []string) error {
	if r.state[name] == done || r.kernel.builtin[name] {
		return nil
	}
	from = append(from, name)
	if r.state[name] == visiting {
		return fmt.Errorf("modules need each other: %s", strings.Join(from, " → "))
	}
	r.state[name] = visiting
	m, soft, err := r.kernel.read(name)
	if err != nil {
		return fmt.Errorf("module %s: %w", strings.Join(from, " → "), err)
	}
	for _, s := range soft {
		if _, ok := r.kernel.paths[s]; ok && r.state[s] != visiting {
			m.Needs = append(m.Needs, s)
		}
	}
	for _, n := range m.Needs {
		if err := r.visit(n, from); err != nil {
			return err
		}
	}
	r.state[name] = done
	r.out = append(r.out, m)
	return nil
}

// read unpacks one module and reads what it needs.
func (k *Kernel) read(name string) (m Module, soft []string, err error) {
	p, ok := k.paths[name]
	if !ok {
		return Module{}, nil, errors.New("this kernel does not have it")
	}
	f, err := k.dir.Open(p)
	if err != nil {
		return Module{}, nil, err
	}
	defer func() { _ = f.Close() }()
	var in io.Reader = f
	if strings.HasSuffix(p, ".xz") {
		if in, err = xz.NewReader(bufio.NewReader(f)); err != nil {
			return Module{}, nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(in, maxModule+1))
	if err != nil {
		return Module{}, nil, err
	}
	if len(data) > maxModule {
		return Module{}, nil, fmt.Errorf("larger than %d bytes", maxModule)
	}
	info, err := modinfo(data)
	if err != nil {
		return Module{}, nil, err
	}
	return Module{Name: name, Data: data, Needs: needs(info)}, softNeeds(info), nil
}

// modinfo reads the "key=value" strings of a module.
func modinfo(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("not a kernel module: no .modinfo")
	}
	text, err := s.Data()
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == 0 }), nil
}

// needs lists the hard dependencies ("depends=a,b").
func needs(info []string) []string {
	var out []string
	for _, line := range info {
		if list, ok := strings.CutPrefix(line, "depends="); ok && list != "" {
			for name := range strings.SplitSeq(list, ",") {
				out = append(out, canonical(name))
			}
		}
	}
	return out
}

// softNeeds lists the "pre" soft dependencies ("softdep=pre: a b post: c").
func softNeeds(info []string) []string {
	var out []string
	for _, line := range info {
		list, ok := strings.CutPrefix(line, "softdep=")
		if !ok {
			continue
		}
		pre := false
		for word := range strings.FieldsSeq(list) {
			switch {
			case strings.HasSuffix(word, ":"):
				pre = word == "pre:"
			case pre && !slices.Contains(out, canonical(word)):
				out = append(out, canonical(word))
			}
		}
	}
	return out
}
