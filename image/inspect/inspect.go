// Package inspect reads a finished root file system of the box and says what is
// wrong with it: what must not be in it, because it would give somebody a way in
// or more power (a shell, a login, a set-user-id file, a listening port), and
// what must be, because something else in it relies on it (libraries, programs
// and users of units, units that other units ask for).
//
// It looks at a folder on the host, as package image/root writes it, runs
// nothing and changes nothing. It trusts nobody's lists: what counts is what
// lies there. Links are followed as the box would follow them, with the folder
// as /.
//
// What init mounts at boot (/dev, /proc, /run, /sys, /tmp, /var, /efi) is empty
// in the root; a link that leads there cannot be followed and is allowed for
// few names only. What a program loads with dlopen cannot be seen. How tight the
// sandbox of a unit is, systemd-analyze says better.
package inspect

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a root file system.
type Fault struct {
	Rule string // name of the broken rule
	Path string // in the box
	Text string // what is wrong, and why that is a fault
}

func (f Fault) String() string { return f.Path + ": " + f.Text + " (" + f.Rule + ")" }

// rule is one property that a root file system must have.
type rule struct {
	name  string
	check func(*tree) ([]Fault, error)
}

// rules are all that is checked.
func rules() []rule {
	return []rule{
		{"mode", checkModes},
		{"attributes", checkAttributes},
		{"name", checkNames},
		{"content", checkContents},
		{"link", checkLinks},
		{"library", checkLibraries},
		{"account", checkAccounts},
		{"mask", checkMasks},
		{"program", checkPrograms},
		{"user", checkUsers},
		{"reference", checkReferences},
		{"listener", checkListeners},
	}
}

// Root checks the root file system in a folder of the host and returns every
// fault. The error is about reading, never about a rule.
func Root(dir string) ([]Fault, error) {
	t, err := load(dir)
	if err != nil {
		return nil, err
	}
	var out []Fault
	for _, r := range rules() {
		found, err := r.check(t)
		if err != nil {
			return nil, fmt.Errorf("inspect %s: %w", r.name, err)
		}
		for _, f := range found {
			f.Rule = r.name
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Fault) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

// maxEntries bounds a root file system; ours has some hundred.
const maxEntries = 50_000

// entry is what lies at one path.
type entry struct {
	mode fs.FileMode
	link string // target of a symbolic link
	size int64
}

// tree is a root file system: absolute paths in the box and what lies there.
type tree struct {
	dir     string
	entries map[string]entry
	paths   []string // sorted
	units   *unitSet // set by load
}

func load(dir string) (*tree, error) {
	t := &tree{dir: filepath.Clean(dir), entries: map[string]entry{}}
	err := filepath.WalkDir(t.dir, func(host string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		e := entry{mode: info.Mode(), size: info.Size()}
		if e.mode&fs.ModeSymlink != 0 {
			if e.link, err = os.Readlink(host); err != nil {
				return err
			}
		}
		name := path.Join("/", filepath.ToSlash(strings.TrimPrefix(host, t.dir)))
		t.entries[name] = e
		t.paths = append(t.paths, name)
		if len(t.paths) > maxEntries {
			return fmt.Errorf("%s has more than %d entries", dir, maxEntries)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(t.paths)
	t.units, err = loadUnits(t)
	return t, err
}

// host is where a path of the box lies.
func (t *tree) host(name string) string { return filepath.Join(t.dir, name) }

// files are the paths of regular files.
func (t *tree) files() []string {
	return slices.DeleteFunc(slices.Clone(t.paths), func(name string) bool { return !t.entries[name].mode.IsRegular() })
}

// mounted are the folders on which init mounts something.
func mounted() []string {
	return []string{"/dev", "/proc", "/run", "/sys", "/tmp", "/var", "/efi"}
}

// laterMounted reports whether a path lies in a folder that is filled at boot.
func laterMounted(name string) bool {
	return slices.ContainsFunc(mounted(), func(dir string) bool { return strings.HasPrefix(name, dir+"/") })
}

// maxLinks bounds a chain of links, as in the kernel.
const maxLinks = 40

// resolve follows all links in an absolute path. It returns the path at which it
// ends: of an entry, of a place that is mounted later, or, with ok false, the
// first that is missing.
func (t *tree) resolve(name string) (end string, ok bool) {
	at, todo := "/", parts(name)
	for links := 0; len(todo) > 0; {
		next := path.Join(at, todo[0])
		todo = todo[1:]
		if laterMounted(next) {
			return path.Join(append([]string{next}, todo...)...), true
		}
		e, here := t.entries[next]
		switch {
		case !here:
			return next, false
		case e.mode&fs.ModeSymlink == 0:
			at = next
			continue
		}
		if links++; links > maxLinks {
			return next, false
		}
		if path.IsAbs(e.link) {
			at = "/"
		}
		todo = append(parts(e.link), todo...)
	}
	return at, true
}

// parts are the names in a path.
func parts(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
}

// executable reports whether a path leads to a regular file that may be run.
func (t *tree) executable(name string) bool {
	end, ok := t.resolve(name)
	e, here := t.entries[end]
	return ok && here && e.mode.IsRegular() && e.mode&0o111 != 0
}
