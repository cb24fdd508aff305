// Package slot keeps releases on the EFI system partition and tells the
// firmware which one to boot.
//
// There are two slots, a and b, and a copy of the blessed one under the name
// that firmware boots when it has lost its entries. A release is written into a
// slot in full: temporary file, fsync, read back and hashed, rename, fsync of
// the folder. FAT's rename is not atomic in the journal's sense, so a slot is
// only ever written while the other one is blessed and bootable; Bless replaces
// the fallback copy last, when the slot it copies from is already the first in
// the firmware's boot order. Whatever the power does, one whole release is
// bootable.
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
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	maxRelease   = 64 << 20 // bytes of a file in a slot
	maxOSRelease = 64 << 10 // bytes of its .osrel section
	filePerm     = 0o600    // FAT has no owners; the mount decides
	stagedSuffix = ".new"   // written and synced, not yet checked
)

// Disk is the mounted EFI system partition.
type Disk struct {
	Root string // layout.ESPMount
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
	length, err = io.Copy(h, io.LimitReader(f, maxRelease+1))
	if err != nil {
		return sum, 0, fmt.Errorf("slot %s: %w", s, err)
	}
	if length > maxRelease {
		return sum, 0, fmt.Errorf("slot %s: more than %d bytes", s, maxRelease)
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
// bytes with the given hash, on disk and read back. The slot's earlier content
// is gone only when everything was right. progress, if not nil, is told the
// bytes so far.
func (d Disk) Write(ctx context.Context, s report.Slot, r io.Reader, length int64, want [32]byte, progress func(int64)) (err error) {
	name, err := d.name(s)
	if err != nil {
		return err
	}
	if length <= 0 || length > maxRelease {
		return fmt.Errorf("slot %s: a release of %d bytes, allowed are %d", s, length, maxRelease)
	}
	staged := name + stagedSuffix
	w, err := durable.Create(staged, filePerm)
	if err != nil {
		return fmt.Errorf("slot %s: %w", s, err)
	}
	defer w.Abort() // drops what is there unless Commit was reached
	n, err := io.Copy(w, &counted{ctx: ctx, r: io.LimitReader(r, length+1), progress: progress})
	switch {
	case err != nil:
		return fmt.Errorf("slot %s: after %d bytes: %w", s, n, err)
	case n != length:
		return fmt.Errorf("slot %s: the file has not the %d bytes that were signed", s, length)
	}
	if err := w.Commit(); err != nil {
		return fmt.Errorf("slot %s: %w", s, err)
	}
	got, err := hashFile(staged)
	if err == nil && got != want {
		err = fmt.Errorf("SHA-256 on the disk is %x, signed is %x", got, want)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("slot %s: read back: %w", s, err), durable.Remove(durable.OS{}, staged))
	}
	if err := durable.Move(durable.OS{}, staged, name); err != nil {
		return fmt.Errorf("slot %s: %w", s, err)
	}
	return nil
}

// Fallback copies a slot over the file that firmware boots without entries. It
// does nothing when that is the same already.
func (d Disk) Fallback(ctx context.Context, s report.Slot) error {
	sum, length, err := d.Hash(s)
	if err != nil {
		return err
	}
	if have, _, err := d.Hash(report.SlotFallback); err == nil && have == sum {
		return nil
	}
	name, err := d.name(s)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("slot %s: %w", s, err)
	}
	defer func() { _ = f.Close() }()
	return d.Write(ctx, report.SlotFallback, f, length, sum, nil)
}

// Home is the slot whose content equals the fallback's: what booted when the
// firmware booted the fallback. It is a when neither does.
func (d Disk) Home() report.Slot {
	fallback, _, err := d.Hash(report.SlotFallback)
	if err != nil {
		return report.SlotA
	}
	for _, s := range []report.Slot{report.SlotA, report.SlotB} {
		if sum, _, err := d.Hash(s); err == nil && sum == fallback {
			return s
		}
	}
	return report.SlotA
}

// Sweep removes what a power cut left of an unfinished Write.
func (d Disk) Sweep() error {
	var errs []error
	for _, s := range []report.Slot{report.SlotA, report.SlotB, report.SlotFallback} {
		name, err := d.name(s)
		if err != nil {
			return err
		}
		if err := durable.Remove(durable.OS{}, name+stagedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, durable.Sweep(filepath.Dir(name)))
	}
	return errors.Join(errs...)
}

// Empty reports whether nothing lies in a slot.
func (d Disk) Empty(s report.Slot) bool {
	name, err := d.name(s)
	if err != nil {
		return true
	}
	_, err = os.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}

func hashFile(name string) (sum [32]byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return sum, err
	}
	defer func() { _ = f.Close() }()
	if err := dropCache(f); err != nil {
		return sum, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	copy(sum[:], h.Sum(nil))
	return sum, nil
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
