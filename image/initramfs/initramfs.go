// Package initramfs makes the initial file system of the kernel: our init, the
// kernel modules that it loads, and the root file system as one file.
//
//	/init            static program, package appliance/boot
//	/modules/list    one absolute path a line, in loading order
//	/modules/NAME.ko as Debian signed it, unpacked
//	/root.img        squashfs, package image/root
//	/cmdline         the signed kernel command line, for init to compare with
//	/dev /proc /sys /run ... empty folders
//
// The format is a newc cpio archive in one zstd frame, which Debian's kernel
// unpacks. root.img is compressed already; zstd stores what it cannot shrink, so
// unpacking it again costs a copy. The same inputs give the same bytes: every
// owner is root, every time zero, inode numbers count from one.
package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/mkuimage/cpio"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// Contents is what goes into the archive.
type Contents struct {
	Init    string // host path of the static init
	Root    string // host path of the squashfs
	Modules []Module
	// Cmdline is the kernel command line that the image is signed with.
	Cmdline string
}

// emptyDirs are what init mounts on.
var emptyDirs = []string{"dev", "proc", "sys", "run", "tmp", "root", "var", "newroot"}

// ListFile names the file with the loading order.
const ListFile = layout.ModulesDir + "/list"

// Write writes the compressed archive.
func Write(w io.Writer, c Contents) error {
	z, err := zstd.NewWriter(w,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), // several encoders cut blocks as they please
		zstd.WithWindowSize(windowSize))
	if err != nil {
		return err
	}
	if err := writeArchive(z, c); err != nil {
		return err
	}
	return z.Close()
}

// windowSize is the memory that the kernel's decoder needs; 8 MiB is what it
// always grants.
const windowSize = 8 << 20

func writeArchive(w io.Writer, c Contents) error {
	records, closeAll, err := c.records()
	defer closeAll()
	if err != nil {
		return err
	}
	out := cpio.Newc.Writer(w)
	for i, r := range records {
		r = cpio.MakeReproducible(r)
		r.Ino = uint64(i + 1)
		if err := out.WriteRecord(r); err != nil {
			return fmt.Errorf("initramfs: %s: %w", r.Name, err)
		}
	}
	return cpio.WriteTrailer(out)
}

// records lists the archive's entries, folders before what lies in them.
func (c Contents) records() (out []cpio.Record, closeAll func(), err error) {
	var open []*os.File
	closeAll = func() {
		for _, f := range open {
			_ = f.Close()
		}
	}
	addFile := func(name, host string, mode uint64) error {
		f, err := os.Open(host)
		if err != nil {
			return err
		}
		open = append(open, f)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		out = append(out, cpio.Record{ReaderAt: f, Info: cpio.Info{Name: relative(name), Mode: cpio.S_IFREG | mode, FileSize: uint64(info.Size())}})
		return nil
	}
	for _, d := range emptyDirs {
		out = append(out, cpio.Directory(d, 0o755))
	}
	out = append(out, cpio.CharDev("dev/console", 0o600, 5, 1), cpio.CharDev("dev/null", 0o666, 1, 3))
	if err := addFile("init", c.Init, 0o755); err != nil {
		return nil, closeAll, err
	}
	out = append(out, cpio.Directory(relative(layout.ModulesDir), 0o755))
	var list strings.Builder
	for _, m := range c.Modules {
		name := path.Join(layout.ModulesDir, m.Name+".ko")
		fmt.Fprintln(&list, name)
		out = append(out, cpio.Record{ReaderAt: bytes.NewReader(m.Data), Info: cpio.Info{Name: relative(name), Mode: cpio.S_IFREG | 0o644, FileSize: uint64(len(m.Data))}})
	}
	out = append(out, cpio.StaticFile(relative(ListFile), list.String(), 0o644),
		cpio.StaticFile(relative(layout.SignedCmdline), c.Cmdline, 0o444))
	return out, closeAll, addFile(layout.RootImage, c.Root, 0o644)
}

func relative(name string) string {
	return strings.TrimPrefix(name, "/")
}
