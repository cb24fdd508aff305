// Package slot keeps releases on the EFI system partition and tells the
// firmware which one to boot.
//
// There are two slots, a and b, and a copy of the blessed one under the name
// that firmware boots when it has lost its entries (the fallback). A file is only
// ever written while the firmware has another whole one to boot first: the
// caller takes a slot out of the boot order before Write, and replaces the
// fallback after the slot that it is copied from leads the order. So a torn file
// is no danger, and Write puts the bytes under their final name at once: empty
// the old file, write, fsync, read back from the disk and hash. A file that is
// not what was signed is removed again.
//
// Why not write beside it and rename: on FAT a rename first makes both names own
// the same clusters and then removes the old name. Power lost in between leaves
// two files in one place, and deleting either later frees, or lets the next file
// overwrite, what the other one needs. Nothing on the box would repair that.
// Truncating and writing has no such state, because init mounts the partition
// with MS_SYNCHRONOUS and MS_DIRSYNC: then the kernel allocates clusters before
// the folder names them, and the folder forgets them before they are freed
// (fs/fat/fatent.c, file.c). A power cut leaks clusters at worst.
//
// A Note on the same partition says which slot is on trial. A release that
// cannot open the data volume finds no other trace of its trial; through the
// note it knows that it has to go, and tells the old release why. Whoever has
// the disk in hand can forge a note; all that this does is end a trial, which
// removing the slot's file does, too.
//
// Firmware variables come through firmware.Vars (UEFI 2.10, 3.1 boot manager).
package slot

import (
	"context"
	"crypto/sha256"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/release"
)

const (
	maxOSRelease = 64 << 10 // bytes of an image's .osrel section
	filePerm     = 0o600    // FAT has no owners; the mount decides
	dirPerm      = 0o700
	// chunk is how much is written at once: on a synchronous mount each write waits
	// for the disk.
	chunk = 1 << 20
)

// ErrContent: a file has not the content that it ought to have.
var ErrContent = errors.New("wrong content")

// Disk is the mounted EFI system partition.
type Disk struct {
	Root string // layout.ESPMount

	create func(name string) (durable.File, error) // nil means createFile; for tests
}

// name is the path of a slot's file.
func (d Disk) name(s report.Slot) (string, error) {
	switch s {
	case report.SlotA:
		return filepath.Join(d.Root, layout.SlotA), nil
	case report.SlotB:
		return filepath.Join(d.Root, layout.SlotB), nil
	case report.SlotFallback:
		return filepath.Join(d.Root, layout.FallbackSlot), nil
	}
	return "", fmt.Errorf("slot %q: no such slot", s)
}

// Other is the slot that is not s; a for anything but a.
func Other(s report.Slot) report.Slot {
	if s == report.SlotA {
		return report.SlotB
	}
	return report.SlotA
}

// Hash is the SHA-256 and length of what lies in a slot.
func (d Disk) Hash(s report.Slot) (sum [32]byte, length int64, err error) {
	name, err := d.name(s)
	if err != nil {
		return sum, 0, err
	}
	f, err := os.Open(name)
	if err != nil {
		return sum, 0, fmt.Errorf("slot %s: %w", s, err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	length, err = io.Copy(h, io.LimitReader(f, release.MaxLength+1))
	if err != nil {
		return sum, 0, fmt.Errorf("slot %s: %w", s, err)
	}
	if length > release.MaxLength {
		return sum, 0, fmt.Errorf("slot %s: more than %d bytes", s, release.MaxLength)
	}
	copy(sum[:], h.Sum(nil))
	return sum, length, nil
}

// Version reads the version of what lies in a slot from the image's own
// os-release section. It proves nothing; it is for people. An empty slot has
// none: the error wraps fs.ErrNotExist.
func (d Disk) Version(s report.Slot) (string, error) {
	name, err := d.name(s)
	if err != nil {
		return "", err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("slot %s: %w", s, err)
	}
	defer func() { _ = f.Close() }()
	image, err := pe.NewFile(f)
	if err != nil {
		return "", fmt.Errorf("slot %s: %w", s, err)
	}
	section := image.Section(".osrel")
	if section == nil {
		return "", fmt.Errorf("slot %s: the file is no image of ours: no .osrel section", s)
	}
	text, err := io.ReadAll(io.LimitReader(section.Open(), maxOSRelease))
	if err != nil {
		return "", fmt.Errorf("slot %s: %w", s, err)
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimRight(line, "\r\n\x00"), "VERSION_ID="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", fmt.Errorf("slot %s: the image names no version", s)
}

// Write puts a release into a slot: all of r, which must have exactly length
// bytes with the given hash, on the disk and read back from there. The slot's
// earlier content is gone in any case; after an error the slot is empty.
// progress, if not nil, is told the bytes so far.
func (d Disk) Write(ctx context.Context, s report.Slot, r io.Reader, length int64, want [32]byte, progress func(int64)) error {
	name, err := d.name(s)
	if err != nil {
		return err
	}
	if length <= 0 || length > release.MaxLength {
		return fmt.Errorf("slot %s: a release of %d bytes, allowed are 1 to %d", s, length, release.MaxLength)
	}
	if err := durable.MkdirAll(durable.OS{}, filepath.Dir(name), dirPerm); err != nil {
		return fmt.Errorf("slot %s: %w", s, err)
	}
	err = d.fill(name, &counted{ctx: ctx, r: io.LimitReader(r, length+1), progress: progress}, length)
	if err == nil {
		err = readBack(name, want)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("slot %s: %w", s, err), durable.Remove(durable.OS{}, name))
	}
	return nil
}

// fill makes name a file of all of r, on the disk.
func (d Disk) fill(name string, r io.Reader, length int64) (err error) {
	create := d.create
	if create == nil {
		create = createFile
	}
	f, err := create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	// The file's own ReadFrom would take smaller pieces.
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, r, make([]byte, chunk))
	switch {
	case err != nil:
		return fmt.Errorf("after %d bytes: %w", n, err)
	case n != length:
		return fmt.Errorf("%w: the file has not the %d bytes that were signed", ErrContent, length)
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return durable.OS{}.SyncDir(filepath.Dir(name))
}

// createFile empties name or makes it.
func createFile(name string) (durable.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, filePerm)
}

// readBack compares what the disk has with the hash.
func readBack(name string, want [32]byte) error {
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := dropCache(f); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if got := [32]byte(h.Sum(nil)); got != want {
		return fmt.Errorf("%w: SHA-256 on the disk is %x, signed is %x", ErrContent, got, want)
	}
	return nil
}

// Copy writes one slot's file over another's. It does nothing when both are the
// same already, and returns the hash of both.
func (d Disk) Copy(ctx context.Context, from, to report.Slot) (sum [32]byte, err error) {
	sum, length, err := d.Hash(from)
	if err != nil {
		return sum, err
	}
	if have, _, err := d.Hash(to); err == nil && have == sum {
		return sum, nil
	}
	name, err := d.name(from)
	if err != nil {
		return sum, err
	}
	f, err := os.Open(name)
	if err != nil {
		return sum, fmt.Errorf("slot %s: %w", from, err)
	}
	defer func() { _ = f.Close() }()
	return sum, d.Write(ctx, to, f, length, sum, nil)
}

// counted stops a copy when ctx ends and reports how far it came.
type counted struct {
	ctx      context.Context
	r        io.Reader
	n        int64
	progress func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.progress != nil {
		c.progress(c.n)
	}
	return n, err
}
