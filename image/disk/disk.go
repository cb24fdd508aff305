// Package disk makes the image of the box's disk and of the seed volume, and
// opens both again for tests.
//
// # What it does
//
// Build writes a GPT disk with a protective MBR, an EFI system partition (FAT32, volume
// layout.ESPVolume) with the given files, and an empty data partition
// (type layout.DataType, name layout.DataLabel) which init formats and encrypts at
// the first boot. Seed writes the small FAT volume that brings the first
// configuration. Open reads the files of either back, patches single bytes and
// replaces files.
//
// # What it promises
//
//   - The image is a sparse file: what nobody wrote takes no space.
//   - A path either holds a whole image or what it held before: images are
//     written beside it and renamed.
//   - With an Identity, the same files give the same bytes; without, every disk has
//     its own random identities.
//   - Partitions begin and end on multiples of 1 MiB.
//
// # What it does not do
//
// It installs no boot manager and no boot entries: firmware starts
// layout.FallbackSlot until updated has written its entries. It works on image
// files, not on the disk of a running box.
package disk

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"gitlab.opencode.de/pforte/pforte/image/disk/fat"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// Sizes in bytes.
const (
	// DefaultESPSize holds both slots, the fallback and a fourth image while one is
	// replaced by rename, at 64 MiB each, twice over.
	DefaultESPSize = 512 << 20
	// DefaultDataSize is for trying things out. A real box takes the rest of its disk.
	DefaultDataSize = 2 << 30
	// SeedSize is the size of a seed volume: the least that FAT32 allows.
	SeedSize = fat.MinSize

	align   = 1 << 20
	sector  = 512
	maxData = 16 << 40
)

// Options says what Build writes.
type Options struct {
	// ESPSize is the size of the EFI system partition; 0 means DefaultESPSize.
	ESPSize int64
	// DataSize is the size of the data partition; 0 means DefaultDataSize. Both must
	// be multiples of 1 MiB.
	DataSize int64
	// Files are the files on the EFI system partition: path there, with forward
	// slashes → path on the host.
	Files map[string]string
	// Identity, if not empty, fixes the GUIDs and the volume's serial number, which are
	// random otherwise. Two disks with one identity must not be in one machine.
	Identity string
	// Time stamps the files; the zero time gives 1980-01-01.
	Time time.Time
}

// Build writes the image to path. It fails if the files do not fit, with an error
// that wraps fat.ErrFull.
func Build(path string, o Options) error {
	if o.ESPSize == 0 {
		o.ESPSize = DefaultESPSize
	}
	if o.DataSize == 0 {
		o.DataSize = DefaultDataSize
	}
	if o.ESPSize < fat.MinSize || o.ESPSize > fat.MaxSize || o.ESPSize%align != 0 {
		return fmt.Errorf("build disk: EFI system partition of %d bytes: need a multiple of 1 MiB from %d to %d", o.ESPSize, fat.MinSize, int64(fat.MaxSize))
	}
	if o.DataSize < align || o.DataSize > maxData || o.DataSize%align != 0 {
		return fmt.Errorf("build disk: data partition of %d bytes: need a multiple of 1 MiB up to %d", o.DataSize, int64(maxData))
	}
	files, err := hostFiles(o.Files)
	if err != nil {
		return fmt.Errorf("build disk: %w", err)
	}
	id := newIdentity(o.Identity)
	volume := fat.Volume{
		Size: o.ESPSize, Label: layout.ESPVolume, Serial: id.serial(), Hidden: align / sector,
		Time: o.Time, Files: files,
	}
	size := 2*align + o.ESPSize + o.DataSize // the tables have 1 MiB at either end
	err = replaceFile(path, size, func(f *os.File) error {
		if err := table(o, id).Write(writable(f), size); err != nil {
			return err
		}
		return fat.Write(io.NewOffsetWriter(f, align), volume)
	})
	if err != nil {
		return fmt.Errorf("build disk: %w", err)
	}
	return nil
}

// table lays out the partitions.
func table(o Options, id identity) *gpt.Table {
	data := uint64(align+o.ESPSize) / sector
	return &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true, GUID: id.guid("disk"),
		Partitions: []*gpt.Partition{
			{
				Index: 1, Type: gpt.EFISystemPartition, Name: layout.ESPLabel, GUID: id.guid("esp"),
				Start: align / sector, End: data - 1, Size: uint64(o.ESPSize),
			},
			{
				Index: 2, Type: gpt.Type(layout.DataType), Name: layout.DataLabel, GUID: id.guid("data"),
				Start: data, End: data + uint64(o.DataSize)/sector - 1, Size: uint64(o.DataSize),
			},
		},
	}
}

// hostFiles turns the map into files in a fixed order. Sizes are taken now.
func hostFiles(paths map[string]string) ([]fat.File, error) {
	var files []fat.File
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		host := paths[name]
		info, err := os.Stat(host)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s: not a regular file", host)
		}
		files = append(files, fat.File{Path: name, Size: info.Size(), Open: func() (io.ReadCloser, error) { return os.Open(host) }})
	}
	return files, nil
}

// Seed writes a volume of SeedSize labelled layout.SeedVolume with the given
// files (path on the volume → content) to path. It has no partition table, as on
// a USB stick that was formatted whole. The same files give the same bytes.
func Seed(path string, files map[string][]byte) error {
	v := fat.Volume{Size: SeedSize, Label: layout.SeedVolume, Serial: newIdentity(layout.SeedVolume).serial()}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		v.Files = append(v.Files, fat.Bytes(name, files[name]))
	}
	err := replaceFile(path, SeedSize, func(f *os.File) error { return fat.Write(f, v) })
	if err != nil {
		return fmt.Errorf("build seed volume: %w", err)
	}
	return nil
}

// replaceFile makes a sparse file of the size beside path, lets fill write it, and
// renames it to path.
func replaceFile(path string, size int64, fill func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			err = os.Rename(f.Name(), path)
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := errors.Join(f.Chmod(0o644), f.Truncate(size)); err != nil {
		return err
	}
	return fill(f)
}

// unsynced hides Sync from go-diskfs, which would wait for the disk after each
// of its five writes. An image file needs no order of writes.
type unsynced struct{ f *os.File }

func (u unsynced) Stat() (fs.FileInfo, error)               { return u.f.Stat() }
func (u unsynced) Read(p []byte) (int, error)               { return u.f.Read(p) }
func (u unsynced) ReadAt(p []byte, off int64) (int, error)  { return u.f.ReadAt(p, off) }
func (u unsynced) WriteAt(p []byte, off int64) (int, error) { return u.f.WriteAt(p, off) }
func (u unsynced) Seek(off int64, whence int) (int64, error) {
	return u.f.Seek(off, whence)
}
func (u unsynced) Close() error { return nil }

func writable(f *os.File) backend.WritableFile { return unsynced{f} }

// readable wraps a file that somebody else closes.
func readable(f *os.File) backend.Storage { return file.New(unsynced{f}, true) }

// identity gives GUIDs and serial numbers, all derived from one seed.
type identity [sha256.Size]byte

func newIdentity(seed string) identity {
	if seed == "" {
		seed = rand.Text()
	}
	return sha256.Sum256([]byte("pforte disk identity\x00" + seed))
}

func (id identity) derive(what string) [sha256.Size]byte {
	return sha256.Sum256(append(id[:], what...))
}

// guid returns a GUID in text, marked as version 8 (RFC 9562: made by our own rule).
func (id identity) guid(what string) string {
	b := id.derive(what)
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]))
}

func (id identity) serial() uint32 {
	b := id.derive("serial")
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}
