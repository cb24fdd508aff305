// Package volume makes and opens the data volume: LUKS2 on the data partition,
// with a random key that the TPM keeps, and ext4 in it (design.md §4).
//
// # Promises
//
//   - Nothing but a LUKS2 header and ciphertext is ever written to the
//     partition. The header is built in memory; the key never leaves memory and
//     the pipe to cryptsetup.
//   - Only a blank partition, or one whose first format did not finish, is
//     formatted. Whatever else is there is left alone and reported (ErrForeign).
//   - The power may fail between any two steps of the first format: the next
//     boot finds the partition Blank or Unfinished and starts again, or Ready.
//     It is Ready only after the file system was made and synced.
//   - A header is judged before cryptsetup sees it, and cryptsetup gets the very
//     bytes that were judged, as a copy in memory: the disk is not asked twice.
//     A header that this package would not have made is refused (ErrHeader);
//     LUKS2 headers are not signed, and some open with any key.
//
// # The first format, in order
//
//  1. a random key of 64 bytes, sealed by the TPM;
//  2. in memory: luksFormat with label "pforte-new", and the token;
//  3. on the disk: the first 4 KiB, sync, the rest of the header area, sync;
//  4. open, make the file system, sync;
//  5. in memory: label "pforte-data"; on the disk: first header, sync, second
//     header, sync.
//
// Neither discards are passed down (they would show which blocks are in use) nor
// is there integrity protection beneath the file system: dm-integrity would
// write everything twice.
//
// The programs cryptsetup, mke2fs and e2fsck are those of the root image.
package volume

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// Name of the open volume, and Mapped its device.
	Name   = "pforte-data"
	Mapped = "/dev/mapper/" + Name
	// MinSize is the smallest partition in bytes that is formatted.
	MinSize = 64 << 20

	// Bounds of one program each. A check may have to read the whole journal
	// of a slow disk.
	shortTime = 2 * time.Minute
	longTime  = 15 * time.Minute
)

// Errors that callers test with errors.Is; each needs another remedy.
var (
	// ErrForeign: the partition holds something that is not ours.
	ErrForeign = errors.New("the partition holds something that is not a data volume of ours")
	// ErrHeader: the LUKS2 header is not one that we make.
	ErrHeader = errors.New("the header of the data volume was changed")
	// ErrTooSmall: the partition is below MinSize.
	ErrTooSmall = errors.New("the partition is too small")
	// ErrKey: the key that the TPM gave does not open the volume.
	ErrKey = errors.New("the key does not open the data volume")
	// ErrFileSystem: the file system is damaged beyond what may be repaired unasked.
	ErrFileSystem = errors.New("the file system of the data volume is damaged")
)

// Partition is the data partition.
type Partition interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when everything written is on the medium.
	Sync() error
}

// Tools runs a program of the root image. stdin is all that it reads. An exit
// code other than 0 is an error with a method ExitCode.
type Tools interface {
	Run(ctx context.Context, stdin []byte, program string, args ...string) error
	// Sync returns when everything written to a device is on its medium.
	Sync(device string) error
}

// Keeper seals and unseals the key; its blob is a JSON value.
type Keeper interface {
	Seal(key []byte) (blob []byte, err error)
	Unseal(blob []byte) (key []byte, err error)
}

// Volume is the data volume of a box.
type Volume struct {
	Partition Partition
	Path      string // device of Partition
	Size      int64  // of Partition, in bytes
	Scratch   string // an existing folder in memory
	Tools     Tools
	Keeper    Keeper
}

// Open opens the volume as Mapped, with a clean file system, and formats it
// before if it was never used. It reports whether it did.
func (v Volume) Open(ctx context.Context) (formatted bool, err error) {
	state, err := Examine(v.Partition)
	if err != nil {
		return false, fmt.Errorf("data volume %s: %w", v.Path, err)
	}
	switch state {
	case Blank, Unfinished:
		err, formatted = v.format(ctx), true
	case Ready:
		err = v.unlock(ctx)
	default:
		err = ErrForeign
	}
	if err != nil {
		return false, fmt.Errorf("data volume %s: %w", v.Path, err)
	}
	return formatted, nil
}

// unlock opens a volume that is Ready and checks its file system.
func (v Volume) unlock(ctx context.Context) error {
	area := make([]byte, dataOffset)
	if _, err := v.Partition.ReadAt(area, 0); err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	blob, err := judge(area, labelData)
	if err != nil {
		return err
	}
	if err := os.WriteFile(v.headerFile(), area, 0o600); err != nil {
		return err
	}
	defer os.Remove(v.headerFile())
	key, err := v.Keeper.Unseal(blob)
	if err != nil {
		return err
	}
	defer clear(key)
	if err := v.open(ctx, key); err != nil {
		return err
	}
	if err := v.checkFileSystem(ctx); err != nil {
		return errors.Join(err, v.cryptsetup(ctx, nil, "close", Name))
	}
	return nil
}

// judge checks a header area and returns the sealed key in it.
func judge(area []byte, label string) ([]byte, error) {
	h, err := readHeader(bytes.NewReader(area))
	if err != nil {
		return nil, err
	}
	if h.label != label {
		return nil, fmt.Errorf("label %q, want %q: %w", h.label, label, ErrHeader)
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return h.blob()
}

// format makes a new volume and leaves it open.
func (v Volume) format(ctx context.Context) error {
	if v.Size < MinSize {
		return fmt.Errorf("%d bytes, needed are %d: %w", v.Size, MinSize, ErrTooSmall)
	}
	key := make([]byte, keyBytes)
	defer clear(key)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	defer os.Remove(v.headerFile())
	if err := v.buildHeader(ctx, key); err != nil {
		return err
	}
	area, err := v.readBuilt(labelNew)
	if err != nil {
		return err
	}
	if err := v.write(area, span{0, binarySize}, span{binarySize, dataOffset}); err != nil {
		return err
	}
	if err := v.open(ctx, key); err != nil {
		return err
	}
	err = v.makeFileSystem(ctx)
	if err == nil {
		err = v.finish(ctx)
	}
	if err != nil {
		return errors.Join(err, v.cryptsetup(ctx, nil, "close", Name))
	}
	return nil
}

// finish marks the volume as Ready.
func (v Volume) finish(ctx context.Context) error {
	if err := v.cryptsetup(ctx, nil, "config", "--label", labelData, "--header", v.headerFile(), v.Path); err != nil {
		return err
	}
	area, err := v.readBuilt(labelData)
	if err != nil {
		return err
	}
	return v.write(area, span{0, headerSize}, span{headerSize, 2 * headerSize})
}

// headerFile is the header in memory.
func (v Volume) headerFile() string { return filepath.Join(v.Scratch, "header") }

// buildHeader makes a LUKS2 header with key in its first slot, in memory only.
// The key is random, so that slow key derivation would only cost time.
func (v Volume) buildHeader(ctx context.Context, key []byte) error {
	blob, err := v.Keeper.Seal(key)
	if err != nil {
		return err
	}
	ourToken, err := json.Marshal(token{Type: tokenType, Keyslots: []string{"0"}, Blob: blob})
	if err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	if err := emptyFile(v.headerFile(), dataOffset); err != nil {
		return err
	}
	if err := v.cryptsetup(ctx, key, "luksFormat", "--type", "luks2", "--batch-mode",
		"--header", v.headerFile(), "--offset", strconv.Itoa(dataOffset/512),
		"--luks2-metadata-size", strconv.Itoa(headerSize), "--luks2-keyslots-size", strconv.Itoa(keyslotsSize),
		"--cipher", cipher, "--key-size", strconv.Itoa(8*keyBytes), "--hash", "sha256",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--label", labelNew, "--key-file", "-", "--keyfile-size", strconv.Itoa(keyBytes), v.Path); err != nil {
		return err
	}
	return v.cryptsetup(ctx, ourToken, "token", "import", "--token-id", "0", "--json-file", "-",
		"--header", v.headerFile(), v.Path)
}

// emptyFile makes a private file of size zero bytes.
func emptyFile(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// readBuilt reads the header in memory and judges it as one from a disk.
func (v Volume) readBuilt(label string) ([]byte, error) {
	area, err := os.ReadFile(v.headerFile())
	if err != nil {
		return nil, err
	}
	if len(area) != dataOffset {
		return nil, fmt.Errorf("header of %d bytes, want %d", len(area), dataOffset)
	}
	if _, err := judge(area, label); err != nil {
		return nil, fmt.Errorf("header as made by cryptsetup: %w", err)
	}
	return area, nil
}

// span is a range of bytes, end exclusive.
type span struct{ from, to int64 }

// write puts spans of area on the partition, each on the medium before the next.
func (v Volume) write(area []byte, spans ...span) error {
	for _, s := range spans {
		if _, err := v.Partition.WriteAt(area[s.from:s.to], s.from); err != nil {
			return fmt.Errorf("write header: %w", err)
		}
		if err := v.Partition.Sync(); err != nil {
			return fmt.Errorf("write header: sync: %w", err)
		}
	}
	return nil
}

// open maps the volume, by the header in memory.
func (v Volume) open(ctx context.Context, key []byte) error {
	err := v.cryptsetup(ctx, key, "open", "--type", "luks2", "--header", v.headerFile(),
		"--key-file", "-", "--keyfile-size", strconv.Itoa(keyBytes), v.Path, Name)
	const noPermission = 2 // cryptsetup(8): bad passphrase
	if exitCode(err) == noPermission {
		return fmt.Errorf("%w: %w", ErrKey, err)
	}
	return err
}

// makeFileSystem makes ext4 and puts all of it on the medium.
func (v Volume) makeFileSystem(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longTime)
	defer cancel()
	if err := v.Tools.Run(ctx, nil, "/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", Name,
		"-m", "1", "-E", "nodiscard", "-O", "metadata_csum,64bit", Mapped); err != nil {
		return err
	}
	if err := v.Tools.Sync(Mapped); err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	return nil
}

// checkFileSystem replays the journal and repairs what is safe to repair.
func (v Volume) checkFileSystem(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longTime)
	defer cancel()
	err := v.Tools.Run(ctx, nil, "/usr/sbin/e2fsck", "-p", Mapped)
	const corrected = 1 // e2fsck(8): errors corrected
	if err == nil || exitCode(err) == corrected {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrFileSystem, err)
}

func (v Volume) cryptsetup(ctx context.Context, stdin []byte, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, shortTime)
	defer cancel()
	return v.Tools.Run(ctx, stdin, "/usr/sbin/cryptsetup", args...)
}

// exitCode is the exit code of a program's error, or -1.
func exitCode(err error) int {
	var e interface{ ExitCode() int }
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}
