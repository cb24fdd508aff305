package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"gitlab.opencode.de/pforte/pforte/image/debian"
)

// Entry is one file, link or folder of the tree.
type Entry struct {
	Mode  fs.FileMode // type and permission bits
	Host  string      // file that has the content, or
	Data  []byte      // the content itself
	Link  string      // target of a symbolic link
	Owner string      // Debian package it comes from, "" if it is ours
}

// Tree is a root file system in the making: absolute paths and what lies there.
// Every owner is root. Folders come into being with what lies in them.
type Tree struct {
	entries map[string]Entry
}

// NewTree returns a tree with nothing but its root folder.
func NewTree() *Tree {
	return &Tree{entries: map[string]Entry{"/": {Mode: fs.ModeDir | 0o755}}}
}

// Paths lists what the tree holds, sorted, folders before what lies in them.
func (t *Tree) Paths() []string {
	out := make([]string, 0, len(t.entries))
	for name := range t.entries {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// Entry returns what lies at a path.
func (t *Tree) Entry(name string) (Entry, bool) {
	e, ok := t.entries[name]
	return e, ok
}

// add puts an entry at an absolute, clean path below existing or new folders. A
// path is given once: what stands there already is a fault of the lists.
func (t *Tree) add(name string, e Entry) error {
	if !path.IsAbs(name) || path.Clean(name) != name {
		return fmt.Errorf("root: path %q is not absolute and clean", name)
	}
	if e.Mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 && !e.Mode.IsDir() {
		return fmt.Errorf("root: %s: the box has no set-user-id files", name)
	}
	if old, ok := t.entries[name]; ok {
		if old.Mode.IsDir() && e.Mode.IsDir() {
			t.entries[name] = e
			return nil
		}
		return fmt.Errorf("root: %s stands in two lists", name)
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		if up, ok := t.entries[dir]; ok {
			if !up.Mode.IsDir() {
				return fmt.Errorf("root: %s lies below %s, which is no folder", name, dir)
			}
			break
		}
		t.entries[dir] = Entry{Mode: fs.ModeDir | 0o755}
	}
	t.entries[name] = e
	return nil
}

// Dir adds a folder, or sets the mode of one.
func (t *Tree) Dir(name string, perm fs.FileMode) error {
	return t.add(name, Entry{Mode: fs.ModeDir | perm})
}

// File adds a file with the given content.
func (t *Tree) File(name string, data []byte, perm fs.FileMode) error {
	return t.add(name, Entry{Mode: perm, Data: data})
}

// Copy adds a file whose content lies in the host's file.
func (t *Tree) Copy(name, host string, perm fs.FileMode) error {
	return t.add(name, Entry{Mode: perm, Host: host})
}

// Link adds a symbolic link.
func (t *Tree) Link(name, target string) error {
	return t.add(name, Entry{Mode: fs.ModeSymlink | 0o777, Link: target})
}

// FromPackages adds files at the paths at which the packages install them, links
// followed: a library comes under the name that its users ask for, once.
func (t *Tree) FromPackages(set *debian.Set, names []string) error {
	for _, name := range names {
		f, err := set.Lookup(name)
		if err != nil {
			return err
		}
		info, err := os.Stat(f.Host)
		if err != nil {
			return err
		}
		perm := fs.FileMode(0o644)
		if info.Mode()&0o111 != 0 {
			perm = 0o755
		}
		if err := t.add(name, Entry{Mode: perm, Host: f.Host, Owner: f.Package.Name}); err != nil {
			return err
		}
	}
	return nil
}

// Owners lists the Debian packages that the tree has files of, sorted.
func (t *Tree) Owners() []string {
	var out []string
	for _, e := range t.entries {
		if e.Owner != "" && !slices.Contains(out, e.Owner) {
			out = append(out, e.Owner)
		}
	}
	slices.Sort(out)
	return out
}

// Write lays the tree out in an empty host folder.
func (t *Tree) Write(ctx context.Context, dir string) error {
	for _, name := range t.Paths() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.entries[name].write(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("root: write %s: %w", name, err)
		}
	}
	return nil
}

func (e Entry) write(host string) error {
	switch {
	case e.Mode.IsDir():
		// The owner must be able to fill it; squashfs gets the true mode in modes().
		if err := os.MkdirAll(host, 0o755); err != nil {
			return err
		}
		return os.Chmod(host, e.Mode.Perm()|0o700)
	case e.Mode&fs.ModeSymlink != 0:
		return os.Symlink(e.Link, host)
	}
	var in io.Reader = bytes.NewReader(e.Data)
	if e.Host != "" {
		f, err := os.Open(e.Host)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	out, err := os.OpenFile(host, os.O_CREATE|os.O_EXCL|os.O_WRONLY, e.Mode.Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(e.Mode.Perm()), out.Close())
}
