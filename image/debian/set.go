package debian

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Set is a collection of unpacked packages, seen as one file tree.
type Set struct {
	Packages []Package
	Changes  []Change // differences from the lock
	files    map[string]file
}

type file struct {
	owner int    // index in Packages
	link  string // target, if it is a symbolic link
}

// File is one regular file of a package.
type File struct {
	Path    string // as installed, absolute, links followed
	Host    string // where its content lies
	Package *Package
}

// index lists every file of every package by its installed path.
func (s *Set) index() error {
	s.files = map[string]file{}
	for i, p := range s.Packages {
		err := filepath.WalkDir(p.Root, func(host string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			f := file{owner: i}
			if d.Type() == fs.ModeSymlink {
				if f.link, err = os.Readlink(host); err != nil {
					return err
				}
			}
			s.files[strings.TrimPrefix(host, p.Root)] = f
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Package finds a package by the name under which it was requested.
func (s *Set) Package(request string) (*Package, error) {
	for i := range s.Packages {
		if s.Packages[i].Request == request {
			return &s.Packages[i], nil
		}
	}
	return nil, fmt.Errorf("package %s was not requested", request)
}

// maxLinks bounds a chain of symbolic links.
const maxLinks = 8

// Lookup finds the regular file installed at path, following links between
// packages. It returns an error that wraps fs.ErrNotExist if no package has it.
func (s *Set) Lookup(name string) (File, error) {
	at := "/" + usrMerged(name)
	for range maxLinks {
		f, ok := s.files[at]
		if !ok {
			return File{}, fmt.Errorf("%s (for %s) is in no requested package: %w", at, name, fs.ErrNotExist)
		}
		p := &s.Packages[f.owner]
		if f.link == "" {
			return File{Path: at, Host: filepath.Join(p.Root, at), Package: p}, nil
		}
		to := f.link
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(at), to)
		}
		at = "/" + usrMerged(to)
	}
	return File{}, fmt.Errorf("%s: too many links", name)
}

// Glob lists the installed paths (of files and links) that match a pattern of path.Match.
func (s *Set) Glob(pattern string) ([]string, error) {
	var out []string
	for name := range s.files {
		ok, err := path.Match(pattern, name)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// libraryDirs are where Debian's dynamic linker looks on amd64.
var libraryDirs = []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"}

// Interpreter is Debian's dynamic linker on amd64.
const Interpreter = "/usr/lib64/ld-linux-x86-64.so.2"

// Closure lists every shared library, by the path under which the dynamic linker
// finds it, that the given executables need: transitively, with the linker
// itself, sorted. What a program loads with dlopen cannot be seen in its headers
// and must be named by the caller.
func (s *Set) Closure(programs []string) ([]string, error) {
	var out []string
	for _, p := range programs {
		libs, err := s.closure(p)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		out = append(out, libs...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// closure follows one program's needs as ld.so(8) does: breadth first, and a
// library that is already loaded serves everyone who asks for its name, wherever
// it was found.
func (s *Set) closure(program string) ([]string, error) {
	loaded := map[string]string{} // soname → path
	for todo := []string{program}; len(todo) > 0; todo = todo[1:] {
		n, err := s.needs(todo[0])
		if err != nil {
			return nil, err
		}
		for _, soname := range n.sonames {
			if loaded[soname] != "" {
				continue
			}
			at, err := s.library(soname, n.dirs)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", todo[0], err)
			}
			loaded[soname] = at
			todo = append(todo, at)
		}
		if n.dynamic {
			loaded[path.Base(Interpreter)] = Interpreter
		}
	}
	return slices.Collect(maps.Values(loaded)), nil
}

// needs is what one ELF file asks of the dynamic linker.
type needs struct {
	sonames []string
	dirs    []string // where to look
	dynamic bool     // it names an interpreter
}

func (s *Set) needs(name string) (needs, error) {
	f, err := s.Lookup(name)
	if err != nil {
		return needs{}, err
	}
	e, err := elf.Open(f.Host)
	if err != nil {
		return needs{}, fmt.Errorf("%s: %w", name, err)
	}
	defer func() { _ = e.Close() }()
	sonames, err := e.ImportedLibraries()
	if err != nil {
		return needs{}, err
	}
	runpath, err := e.DynString(elf.DT_RUNPATH)
	if err != nil {
		return needs{}, err
	}
	var dirs []string
	for _, r := range runpath {
		for d := range strings.SplitSeq(r, ":") {
			dirs = append(dirs, strings.ReplaceAll(d, "$ORIGIN", path.Dir(f.Path)))
		}
	}
	return needs{sonames, append(dirs, libraryDirs...), e.Section(".interp") != nil}, nil
}

func (s *Set) library(soname string, dirs []string) (string, error) {
	if path.Base(Interpreter) == soname {
		return Interpreter, nil
	}
	for _, d := range dirs {
		at := path.Join(d, soname)
		if _, err := s.Lookup(at); err == nil {
			return "/" + usrMerged(at), nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("library %s is in no requested package; find the package that has it and request it too", soname)
}

// Command prepares to run a program out of the packages on the host, with the
// packages' own dynamic linker and libraries, so that the result does not depend
// on the host's version of either. Closure must be satisfied; the first missing
// library is reported.
func (s *Set) Command(ctx context.Context, program string, args ...string) (*exec.Cmd, error) {
	f, err := s.Lookup(program)
	if err != nil {
		return nil, err
	}
	libs, err := s.Closure([]string{program})
	if err != nil {
		return nil, err
	}
	ld, err := s.Lookup(Interpreter)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, lib := range libs {
		at := path.Join("/", path.Dir(lib))
		owner := s.Packages[s.files[lib].owner].Root
		if d := filepath.Join(owner, at); !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	all := append([]string{"--inhibit-cache", "--library-path", strings.Join(dirs, ":"), "--argv0", program, f.Host}, args...)
	cmd := exec.CommandContext(ctx, ld.Host, all...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "LD_PRELOAD=")
	return cmd, nil
}
