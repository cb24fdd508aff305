package fat

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// node is a file or a folder on its way to the volume.
type node struct {
	name     string
	children map[string]*node // by name in capitals; nil for a file
	file     File
	start    uint32 // first cluster; 0 for an empty file
	clusters uint32
}

func (n *node) isDir() bool { return n.children != nil }

// sorted returns the children in a fixed order.
func (n *node) sorted() []*node {
	return slices.SortedFunc(maps.Values(n.children), func(a, b *node) int { return cmp.Compare(a.name, b.name) })
}

// Write makes the volume v on w. What w held before is lost, except in clusters
// that stay free. It fails, before it writes anything, on a bad size, label or
// path, on paths that differ in case alone, and with ErrFull; later only if w or
// a file fails.
func Write(w io.WriterAt, v Volume) error {
	g, err := newGeometry(v.Size)
	if err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	if err := checkLabel(v.Label); err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	root, err := tree(v.Files)
	if err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	wr := &writer{w: w, v: v, g: g, next: firstCluster}
	wr.table = make([]byte, int(g.table)*sectorSize)
	wr.setTable(0, clusterMask&^0xff|mediaFixed)
	wr.setTable(1, endOfChain)
	if err := wr.allocate(root, true); err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	if err := errors.Join(wr.writeBoot(), wr.writeTables()); err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	if err := wr.writeDir(root, 0, true); err != nil {
		return fmt.Errorf("write FAT volume: %w", err)
	}
	return nil
}

// tree sorts the files into folders.
func tree(files []File) (*node, error) {
	root := &node{children: map[string]*node{}}
	entries := 0
	for _, f := range files {
		parts := strings.Split(f.Path, "/")
		if len(parts) > MaxDepth {
			return nil, fmt.Errorf("%s: more than %d folders deep", f.Path, MaxDepth-1)
		}
		if f.Size < 0 || f.Size > maxFileSize {
			return nil, fmt.Errorf("%s: size %d, FAT allows %d at most", f.Path, f.Size, int64(maxFileSize))
		}
		at := root
		for i, name := range parts {
			if err := checkName(name); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			leaf := i == len(parts)-1
			next := at.children[strings.ToUpper(name)]
			switch {
			case next == nil:
				next = &node{name: name, file: f}
				if !leaf {
					next = &node{name: name, children: map[string]*node{}}
				}
				at.children[strings.ToUpper(name)] = next
				entries++
			case leaf || !next.isDir() || next.name != name:
				return nil, fmt.Errorf("%s: stands against %s at the same place", f.Path, next.name)
			}
			at = next
		}
	}
	if entries > MaxEntries {
		return nil, fmt.Errorf("%d files and folders, at most %d are allowed", entries, MaxEntries)
	}
	return root, nil
}

// writer holds what is needed while a volume is written.
type writer struct {
	w     io.WriterAt
	v     Volume
	g     geometry
	table []byte
	next  uint32 // first free cluster
}

func (wr *writer) setTable(cluster, value uint32) {
	binary.LittleEndian.PutUint32(wr.table[4*cluster:], value)
}

// allocate gives n and all below it their clusters, in the order of the tree.
func (wr *writer) allocate(n *node, isRoot bool) error {
	size := n.file.Size
	if n.isDir() {
		size = dirBytes(n, isRoot)
	}
	count := (size + wr.g.clusterBytes() - 1) / wr.g.clusterBytes()
	if n.isDir() {
		count = max(count, 1)
	}
	if free := int64(wr.g.clusters + firstCluster - wr.next); count > free {
		return fmt.Errorf("%w: %s needs %d bytes, %d are left", ErrFull, n.name, size, free*wr.g.clusterBytes())
	}
	if n.clusters = uint32(count); count > 0 {
		n.start = wr.next
		for range count - 1 {
			wr.setTable(wr.next, wr.next+1)
			wr.next++
		}
		wr.setTable(wr.next, endOfChain)
		wr.next++
	}
	for _, child := range n.sorted() {
		if err := wr.allocate(child, false); err != nil {
			return err
		}
	}
	return nil
}

// dirBytes is the length of a folder's entries: "." and ".." or the label, then
// a short entry and at most so many long ones for each child.
func dirBytes(n *node, isRoot bool) int64 {
	return int64(len(dirEntries(n, 0, isRoot, &writer{})))
}

// dirEntries encodes the content of a folder.
func dirEntries(n *node, parent uint32, isRoot bool, wr *writer) []byte {
	stamp := wr.v.Time
	var out []byte
	if isRoot {
		out = shortEntry(pad(fmt.Sprintf("%-11s", wr.v.Label), ""), attrVolume, 0, 0, stamp)
	} else {
		out = append(out, shortEntry(pad(".", ""), attrDirectory, n.start, 0, stamp)...)
		out = append(out, shortEntry(pad("..", ""), attrDirectory, parent, 0, stamp)...)
	}
	taken := map[[11]byte]bool{}
	for _, child := range n.sorted() {
		short, long := shortName(child.name, taken)
		taken[short] = true
		if long {
			out = append(out, longEntries(child.name, short)...)
		}
		attr := byte(attrArchive)
		if child.isDir() {
			attr = attrDirectory
		}
		out = append(out, shortEntry(short, attr, child.start, uint32(child.file.Size), stamp)...)
	}
	return out
}

// writeDir writes a folder and all below it. In ".." the root counts as cluster 0.
func (wr *writer) writeDir(n *node, parent uint32, isRoot bool) error {
	content := make([]byte, int64(n.clusters)*wr.g.clusterBytes())
	copy(content, dirEntries(n, parent, isRoot, wr))
	if _, err := wr.w.WriteAt(content, wr.g.offset(n.start)); err != nil {
		return err
	}
	self := n.start
	if isRoot {
		self = 0
	}
	for _, child := range n.sorted() {
		write := wr.writeFile
		if child.isDir() {
			write = func(c *node) error { return wr.writeDir(c, self, false) }
		}
		if err := write(child); err != nil {
			return err
		}
	}
	return nil
}

func (wr *writer) writeFile(n *node) (err error) {
	if n.clusters == 0 {
		return nil
	}
	r, err := n.file.Open()
	if err != nil {
		return fmt.Errorf("%s: %w", n.file.Path, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	to := io.NewOffsetWriter(wr.w, wr.g.offset(n.start))
	copied, err := io.Copy(to, io.LimitReader(r, n.file.Size+1))
	if err != nil {
		return fmt.Errorf("%s: %w", n.file.Path, err)
	}
	if copied != n.file.Size {
		return fmt.Errorf("%s: the content is not %d bytes long", n.file.Path, n.file.Size)
	}
	// What was in the last cluster before must not show through.
	_, err = to.Write(make([]byte, int64(n.clusters)*wr.g.clusterBytes()-copied))
	return err
}

func (wr *writer) writeTables() error {
	for i := range int64(tableCount) {
		at := (int64(wr.g.reserved) + i*int64(wr.g.table)) * sectorSize
		if _, err := wr.w.WriteAt(wr.table, at); err != nil {
			return err
		}
	}
	return nil
}

// writeBoot writes the boot sector and the FSInfo sector, and both again as backup.
func (wr *writer) writeBoot() error {
	le := binary.LittleEndian
	b := make([]byte, minReserved*sectorSize)
	copy(b, "\xeb\x58\x90MSWIN4.1") // a jump over the fields, and the name that the specification recommends
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(wr.g.perCluster)
	le.PutUint16(b[14:], uint16(wr.g.reserved))
	b[16] = tableCount
	b[21] = mediaFixed
	le.PutUint16(b[24:], 63)  // sectors per track and
	le.PutUint16(b[26:], 255) // heads: for BIOS only
	le.PutUint32(b[28:], wr.v.Hidden)
	le.PutUint32(b[32:], wr.g.total)
	le.PutUint32(b[36:], wr.g.table)
	le.PutUint32(b[44:], firstCluster)
	le.PutUint16(b[48:], 1) // FSInfo sector
	le.PutUint16(b[50:], backupBoot)
	b[64], b[66] = 0x80, 0x29 // drive number; "serial, label and type follow"
	le.PutUint32(b[67:], wr.v.Serial)
	copy(b[71:], fmt.Sprintf("%-11sFAT32   ", wr.v.Label))
	copy(b[90:], "\xf4\xeb\xfd") // boot code: halt for ever
	copy(b[510:], "\x55\xaa")

	info := b[sectorSize:]
	le.PutUint32(info, fsInfoLead)
	le.PutUint32(info[484:], fsInfoStructure)
	le.PutUint32(info[488:], wr.g.clusters+firstCluster-wr.next)
	le.PutUint32(info[492:], wr.next-1) // the last one given out
	le.PutUint32(info[508:], fsInfoTrail)
	copy(b[2*sectorSize+510:], "\x55\xaa")
	copy(b[backupBoot*sectorSize:], b[:3*sectorSize])
	_, err := wr.w.WriteAt(b, 0)
	return err
}
