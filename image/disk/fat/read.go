package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Reader reads a FAT32 volume. It holds the allocation table as it was when Open
// read it.
type Reader struct {
	// Label is the name from the root folder's label entry, else from the boot sector.
	Label string

	r       io.ReaderAt
	g       geometry
	sector  int64
	table   []byte
	root    uint32
	entries []Entry
}

// Entry is a file or a folder of a volume.
type Entry struct {
	// Path is relative to the volume, with forward slashes, in the case in which it is stored.
	Path string
	// Size is the length in bytes; 0 for a folder.
	Size int64
	// Dir tells a folder.
	Dir bool

	start uint32
}

// Extent is a run of bytes on the volume.
type Extent struct {
	Offset, Length int64
}

// Open reads the tables and folders of the volume in r, which is size bytes
// long. It fails if they contradict themselves or exceed the package's limits.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	f := &Reader{r: r}
	if err := f.readBoot(size); err != nil {
		return nil, fmt.Errorf("read FAT volume: %w", err)
	}
	f.table = make([]byte, int64(f.g.table)*f.sector)
	if _, err := r.ReadAt(f.table, int64(f.g.reserved)*f.sector); err != nil {
		return nil, fmt.Errorf("read FAT volume: allocation table: %w", err)
	}
	if err := f.walk("", f.root, 0); err != nil {
		return nil, fmt.Errorf("read FAT volume: %w", err)
	}
	return f, nil
}

func (f *Reader) readBoot(size int64) error {
	b := make([]byte, sectorSize)
	if _, err := f.r.ReadAt(b, 0); err != nil {
		return fmt.Errorf("boot sector: %w", err)
	}
	le := binary.LittleEndian
	f.sector = int64(le.Uint16(b[11:]))
	f.g = geometry{total: le.Uint32(b[32:]), reserved: uint32(le.Uint16(b[14:])), table: le.Uint32(b[36:]), perCluster: uint32(b[13])}
	f.root = le.Uint32(b[44:])
	f.Label = strings.TrimRight(string(b[71:82]), " ")
	switch {
	case string(b[510:512]) != "\x55\xaa":
		return errors.New("no boot sector")
	case f.sector < sectorSize || f.sector > 4096 || f.sector&(f.sector-1) != 0:
		return fmt.Errorf("sectors of %d bytes", f.sector)
	case le.Uint16(b[22:]) != 0 || le.Uint16(b[17:]) != 0 || f.g.table == 0:
		return errors.New("not FAT32: FAT12 and FAT16 are not read")
	case f.g.perCluster == 0 || f.g.perCluster&(f.g.perCluster-1) != 0 || f.g.reserved == 0:
		return fmt.Errorf("clusters of %d sectors after %d reserved ones", f.g.perCluster, f.g.reserved)
	case int64(f.g.table)*f.sector > maxTable:
		return fmt.Errorf("allocation table of %d sectors", f.g.table)
	case b[16] != tableCount:
		return fmt.Errorf("%d allocation tables, not %d", b[16], tableCount)
	case int64(f.g.total)*f.sector > min(size, MaxSize):
		return fmt.Errorf("%d sectors of %d bytes in a volume of %d bytes", f.g.total, f.sector, size)
	}
	used := uint64(f.g.reserved) + tableCount*uint64(f.g.table)
	if used >= uint64(f.g.total) {
		return fmt.Errorf("tables of %d sectors in a volume of %d", used, f.g.total)
	}
	f.g.clusters = (f.g.total - uint32(used)) / f.g.perCluster
	if uint64(f.g.table)*uint64(f.sector)/4 < uint64(f.g.clusters)+firstCluster {
		return errors.New("the allocation table is shorter than the volume")
	}
	return nil
}

func (f *Reader) clusterBytes() int64 { return int64(f.g.perCluster) * f.sector }

func (f *Reader) offset(cluster uint32) int64 {
	data := (int64(f.g.reserved) + tableCount*int64(f.g.table)) * f.sector
	return data + int64(cluster-firstCluster)*f.clusterBytes()
}

// chain follows the table from start for at most limit clusters. A longer
// chain, one that leaves the volume and so also one that loops is an error.
func (f *Reader) chain(start uint32, limit int64) ([]uint32, error) {
	var out []uint32
	for c := start; c < endOfChainFrom; c = binary.LittleEndian.Uint32(f.table[4*c:]) & clusterMask {
		if c < firstCluster || c-firstCluster >= f.g.clusters {
			return nil, fmt.Errorf("cluster %d: chain leads to %d, outside the volume", start, c)
		}
		if int64(len(out)) >= limit {
			return nil, fmt.Errorf("cluster %d: chain is longer than %d clusters", start, limit)
		}
		out = append(out, c)
	}
	return out, nil
}

// walk lists the folder whose content begins at cluster start.
func (f *Reader) walk(dir string, start uint32, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("folder %s: more than %d deep", dir, MaxDepth)
	}
	chain, err := f.chain(start, maxDirClusters)
	if err != nil {
		return fmt.Errorf("folder %q: %w", dir, err)
	}
	var long longName
	block := make([]byte, f.clusterBytes())
	for _, c := range chain {
		if _, err := f.r.ReadAt(block, f.offset(c)); err != nil {
			return fmt.Errorf("folder %q: %w", dir, err)
		}
		for e := range slices.Chunk(block, entrySize) {
			if e[0] == 0 {
				return nil
			}
			if err := f.entry(dir, e, &long, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry takes one directory entry: part of a long name, the label, a file or a folder.
func (f *Reader) entry(dir string, e []byte, long *longName, depth int) error {
	switch {
	case e[0] == deletedMark:
		*long = longName{}
		return nil
	case e[11]&0x3f == attrLongName:
		long.add(e)
		return nil
	case e[11]&attrVolume != 0:
		if *long = (longName{}); dir == "" {
			f.Label = strings.TrimRight(string(e[:11]), " ")
		}
		return nil
	}
	name := long.name(e)
	if *long = (longName{}); name == "." || name == ".." {
		return nil
	}
	le := binary.LittleEndian
	n := Entry{
		Path:  strings.TrimPrefix(dir+"/"+name, "/"),
		Dir:   e[11]&attrDirectory != 0,
		Size:  int64(le.Uint32(e[28:])),
		start: uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:])),
	}
	if len(f.entries) >= MaxEntries {
		return fmt.Errorf("more than %d files and folders", MaxEntries)
	}
	if n.Dir {
		n.Size = 0
	}
	f.entries = append(f.entries, n)
	if n.Dir {
		return f.walk(n.Path, n.start, depth+1)
	}
	return nil
}

// longName gathers the long-name entries before a short one.
type longName struct {
	sum   byte
	want  int // the number that the next part must have
	units []uint16
}

func (l *longName) add(e []byte) {
	part := int(e[0] &^ lastLongEntry)
	if e[0]&lastLongEntry != 0 {
		*l = longName{sum: e[13], want: part}
	}
	if part == 0 || part > maxLongEntries || part != l.want || e[13] != l.sum {
		*l = longName{}
		return
	}
	l.want--
	var units []uint16
	for _, pos := range longPositions() {
		u := binary.LittleEndian.Uint16(e[pos:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	l.units = append(units, l.units...)
}

// name returns the long name if it is whole and belongs to the short entry e,
// else the short name. Characters outside ASCII become "?".
func (l *longName) name(e []byte) string {
	if l.want == 0 && len(l.units) > 0 && l.sum == shortChecksum([11]byte(e[:11])) {
		var b strings.Builder
		for _, u := range l.units {
			if u < ' ' || u > '~' || u == '/' {
				u = '?'
			}
			b.WriteByte(byte(u))
		}
		return b.String()
	}
	base := bytes.TrimRight(e[:8], " ")
	if ext := bytes.TrimRight(e[8:11], " "); len(ext) > 0 {
		base = slices.Concat(base, []byte("."), ext)
	}
	// Windows and Linux note in byte 12 that a name is all in small letters.
	name := strings.ToValidUTF8(string(base), "?")
	if e[12]&0x18 == 0x18 {
		name = strings.ToLower(name)
	}
	return name
}

// Entries returns the files and folders, each folder before what is in it.
func (f *Reader) Entries() []Entry { return slices.Clone(f.entries) }

// Extents returns where on the volume the content of a file lies, in order and
// merged where it is contiguous, without the slack of the last cluster. Case
// does not matter in path.
func (f *Reader) Extents(path string) ([]Extent, error) {
	i := slices.IndexFunc(f.entries, func(e Entry) bool { return strings.EqualFold(e.Path, path) && !e.Dir })
	if i < 0 {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	left := f.entries[i].Size
	if left == 0 {
		return nil, nil
	}
	want := (left + f.clusterBytes() - 1) / f.clusterBytes()
	chain, err := f.chain(f.entries[i].start, want)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if int64(len(chain)) != want {
		return nil, fmt.Errorf("%s: %d bytes in %d clusters", path, left, len(chain))
	}
	var out []Extent
	for _, c := range chain {
		n := min(left, f.clusterBytes())
		if last := len(out) - 1; last >= 0 && out[last].Offset+out[last].Length == f.offset(c) {
			out[last].Length += n
		} else {
			out = append(out, Extent{f.offset(c), n})
		}
		left -= n
	}
	return out, nil
}

// ReadFile returns the content of a file of at most limit bytes.
func (f *Reader) ReadFile(path string, limit int64) ([]byte, error) {
	extents, err := f.Extents(path)
	if err != nil {
		return nil, err
	}
	size := int64(0)
	for _, e := range extents {
		size += e.Length
	}
	if size > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read", path, size, limit)
	}
	out := make([]byte, 0, size)
	for _, e := range extents {
		at := len(out)
		out = out[:at+int(e.Length)]
		if _, err := f.r.ReadAt(out[at:], e.Offset); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return out, nil
}
