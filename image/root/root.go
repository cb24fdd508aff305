// Package root makes the box's root file system: a read-only squashfs with
// systemd, our programs and units, and nothing else.
//
// What goes in stands in lists: programs and units from Debian by name
// (contents.go), shared libraries by the ELF headers of those programs, our own
// programs and static files from the caller. No package is taken whole, and no
// maintainer script has run. There is no shell, no package manager, no login,
// no set-user-id file; [Tree] refuses the last.
//
// The same inputs give the same bytes: every owner is root, every time is the
// epoch, files are written in sorted order, extended attributes are left out, and
// mksquashfs comes from Debian 13 itself, whatever the host has.
//
// The tree expects init to mount /dev, /proc, /sys, /run, /var and /efi; /tmp is
// mounted by systemd. /etc/machine-id is empty, so that systemd makes a transient
// one at each boot.
package root

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gitlab.opencode.de/pforte/pforte/image/debian"
)

// Options is what the caller adds to Debian's part.
type Options struct {
	Programs  map[string]string // path in the box → host file, mode 0755
	Files     map[string][]byte // path in the box → content, mode 0644
	Symlinks  map[string]string // path in the box → target
	OSRelease []byte
	// Overlay is a host folder whose files are laid over the tree, replacing what
	// has the same path. For development images only.
	Overlay string
}

// Compose puts the tree together. It fails if a path is given twice, a listed
// file is in no package, or a library is missing.
func Compose(set *debian.Set, o Options) (*Tree, error) {
	t := NewTree()
	libraries, err := set.Closure(slices.Concat(programs, dlopened))
	if err != nil {
		return nil, err
	}
	var unitPaths []string
	for _, u := range unitNames {
		if _, ours := o.Files[filepath.Join(unitDir, u)]; !ours {
			unitPaths = append(unitPaths, filepath.Join(unitDir, u))
		}
	}
	for _, names := range [][]string{programs, dlopened, libraries, configs, unitPaths} {
		if err := t.FromPackages(set, names); err != nil {
			return nil, err
		}
	}
	for _, d := range dirs {
		if err := t.Dir(d, 0o755); err != nil {
			return nil, err
		}
	}
	for _, m := range []map[string]string{links, wants, o.Symlinks} {
		for name, target := range m {
			if err := t.Link(name, target); err != nil {
				return nil, err
			}
		}
	}
	if err := t.File("/usr/lib/os-release", o.OSRelease, 0o644); err != nil {
		return nil, err
	}
	for name, data := range o.Files {
		if err := t.File(name, data, 0o644); err != nil {
			return nil, err
		}
	}
	for name, host := range o.Programs {
		if err := t.Copy(name, host, 0o755); err != nil {
			return nil, err
		}
	}
	return t, t.overlay(o.Overlay)
}

// overlay lays a host folder over the tree.
func (t *Tree) overlay(dir string) error {
	if dir == "" {
		return nil
	}
	return filepath.WalkDir(dir, func(host string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(host, filepath.Clean(dir)), "/")
		info, err := d.Info()
		if err != nil || name == "/" {
			return err
		}
		switch {
		case d.IsDir():
			return t.Dir(name, 0o755)
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(host)
			if err != nil {
				return err
			}
			delete(t.entries, name)
			return t.Link(name, target)
		case d.Type().IsRegular():
			delete(t.entries, name)
			return t.Copy(name, host, info.Mode().Perm()|0o644)
		}
		return fmt.Errorf("overlay %s: neither file, link nor folder", host)
	})
}

// Tools are the Debian packages that Squash needs.
func Tools() []string {
	return []string{"squashfs-tools", "liblz4-1", "liblzma5", "liblzo2-2", "libxxhash0", "libzstd1", "zlib1g", "libc6"}
}

// blockSize is squashfs's: larger blocks compress better, but a single page then
// costs the unpacking of a whole block.
const blockSize = "256K"

// level is zstd's. Level 19 takes twice as long for less than one percent.
const level = "15"

// Squash packs the staged folder into a squashfs file, which must not exist.
func Squash(ctx context.Context, set *debian.Set, staged, out string) error {
	cmd, err := set.Command(ctx, "/usr/bin/mksquashfs", staged, out,
		"-comp", "zstd", "-Xcompression-level", level, "-b", blockSize,
		"-all-root", "-no-xattrs", "-noappend", "-reproducible", "-no-progress", "-quiet",
		"-mkfs-time", "0", "-all-time", "0")
	if err != nil {
		return err
	}
	// mksquashfs refuses its own -mkfs-time if the environment names a time as well.
	cmd.Env = slices.DeleteFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "SOURCE_DATE_EPOCH=") })
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("mksquashfs: %w: %s", err, strings.TrimSpace(string(output)))
	}
	return os.Chmod(out, 0o644)
}
