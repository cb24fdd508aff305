package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"gitlab.opencode.de/pforte/pforte/image/disk/fat"
)

// MaxFile is the largest file, in bytes, that Image.ReadFile returns.
const MaxFile = 256 << 20

// Image is an open disk or seed image. It is for one goroutine, and for one user at
// a time: nothing else may write the file meanwhile.
type Image struct {
	f      *os.File
	at     int64 // where the FAT volume begins
	size   int64 // of the volume
	volume *fat.Reader
}

// Open opens the FAT volume in an image: the EFI system partition of a disk, or a
// seed volume, which is the whole file. The volume may have been written to by
// a running box since.
func Open(path string) (*Image, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	m := &Image{f: f}
	if err = m.locate(); err == nil {
		err = m.reload()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open image %s: %w", path, err), f.Close())
	}
	return m, nil
}

// locate finds the volume. A file without a partition table is a volume itself.
func (m *Image) locate() error {
	info, err := m.f.Stat()
	if err != nil {
		return err
	}
	m.size = info.Size()
	signature := make([]byte, 8)
	if _, err := m.f.ReadAt(signature, sector); err != nil {
		return err
	}
	if string(signature) != "EFI PART" {
		return nil
	}
	t, err := gpt.Read(readable(m.f), sector, sector)
	if err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	for _, p := range t.Partitions {
		if !strings.EqualFold(string(p.Type), string(gpt.EFISystemPartition)) {
			continue
		}
		if p.End < p.Start || p.End >= uint64(info.Size())/sector {
			return errors.New("EFI system partition lies beyond the end of the file")
		}
		m.at, m.size = int64(p.Start)*sector, int64(p.End-p.Start+1)*sector
		return nil
	}
	return errors.New("no EFI system partition")
}

// reload reads the volume's tables and folders.
func (m *Image) reload() (err error) {
	m.volume, err = fat.Open(io.NewSectionReader(m.f, m.at, m.size), m.size)
	return err
}

// Close closes the file.
func (m *Image) Close() error { return m.f.Close() }

// Label is the name of the FAT volume.
func (m *Image) Label() string { return m.volume.Label }

// Files returns the paths and sizes of all files, sorted by path.
func (m *Image) Files() map[string]int64 {
	files := map[string]int64{}
	for _, e := range m.volume.Entries() {
		if !e.Dir {
			files[e.Path] = e.Size
		}
	}
	return files
}

// ReadFile returns the content of a file. Case does not matter in its path.
func (m *Image) ReadFile(path string) ([]byte, error) {
	b, err := m.volume.ReadFile(path, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("read from image: %w", err)
	}
	return b, nil
}

// Extents returns where a file lies in the image, as offsets from its beginning.
func (m *Image) Extents(path string) ([]fat.Extent, error) {
	extents, err := m.volume.Extents(path)
	if err != nil {
		return nil, fmt.Errorf("locate in image: %w", err)
	}
	extents = slices.Clone(extents)
	for i := range extents {
		extents[i].Offset += m.at
	}
	return extents, nil
}

// Patch writes data over the bytes of a file from offset on, in place: nothing
// else on the disk changes. It fails, writing nothing, if that would leave the file.
func (m *Image) Patch(path string, offset int64, data []byte) error {
	extents, err := m.Extents(path)
	if err != nil {
		return err
	}
	size := int64(0)
	for _, e := range extents {
		size += e.Length
	}
	if offset < 0 || offset+int64(len(data)) > size {
		return fmt.Errorf("patch image: %s: %d bytes at %d of %d", path, len(data), offset, size)
	}
	for _, e := range extents {
		if n := min(e.Length-offset, int64(len(data))); offset < e.Length && n > 0 {
			if _, err := m.f.WriteAt(data[:n], e.Offset+offset); err != nil {
				return fmt.Errorf("patch image: %s: %w", path, err)
			}
			data, offset = data[n:], offset+n
		}
		offset -= e.Length
	}
	return nil
}

// Flip inverts the bits of the byte at offset of a file, in place. Doing it twice
// restores the file.
func (m *Image) Flip(path string, offset int64) error {
	b, err := m.ReadFile(path)
	if err != nil {
		return err
	}
	if offset < 0 || offset >= int64(len(b)) {
		return fmt.Errorf("patch image: %s: byte %d of %d", path, offset, len(b))
	}
	return m.Patch(path, offset, []byte{^b[offset]})
}

// Replace gives files new contents, adds them, or removes those whose content is
// nil. It writes the whole volume anew, so places and time stamps change. It is
// not atomic: a failure may leave the volume broken.
func (m *Image) Replace(changes map[string][]byte) error {
	v := fat.Volume{Size: m.size / sector * sector, Label: m.Label(), Serial: newIdentity("replaced").serial(), Hidden: uint32(m.at / sector)}
	left := lowerKeys(changes)
	for _, e := range m.volume.Entries() {
		if e.Dir {
			continue
		}
		content, changed := left[strings.ToLower(e.Path)]
		if delete(left, strings.ToLower(e.Path)); !changed {
			var err error
			if content, err = m.ReadFile(e.Path); err != nil {
				return err
			}
		} else if content == nil {
			continue
		}
		v.Files = append(v.Files, fat.Bytes(e.Path, content))
	}
	for path, content := range changes {
		if _, isNew := left[strings.ToLower(path)]; isNew && content != nil {
			v.Files = append(v.Files, fat.Bytes(path, content))
		}
	}
	if err := fat.Write(io.NewOffsetWriter(m.f, m.at), v); err != nil {
		return fmt.Errorf("rewrite image: %w", err)
	}
	return m.reload()
}

func lowerKeys(m map[string][]byte) map[string][]byte {
	lower := map[string][]byte{}
	for k, v := range m {
		lower[strings.ToLower(k)] = v
	}
	return lower
}
