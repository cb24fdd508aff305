// Package fat writes and reads FAT32 volumes in files: the EFI system partition
// of the box and the seed volume that brings its first configuration.
//
// # What it does
//
// Write makes a whole volume from a list of files in one pass. Open reads a
// volume, ours or one that Linux, firmware or a technician's computer has
// written since, and tells where on the volume each file lies.
//
// # What it promises
//
//   - The same Volume gives the same bytes. There is no clock in it.
//   - Each file written is contiguous, and both allocation tables, the backup boot
//     sector and the free-cluster count are right, so that fsck.vfat finds nothing.
//   - Write overwrites every byte of the tables and directories. It does not
//     clear unused clusters: on a new sparse file they stay holes.
//   - Open trusts nothing: chains that loop, directories without end and numbers
//     beyond the volume are errors, and memory is bounded by the limits below.
//
// # What it does not do
//
// It does not change a volume in place. To change a file, write the volume anew,
// or patch bytes through Extents. FAT12, FAT16 and names outside ASCII are
// refused.
//
// Why not a library: go-diskfs 1.9.4 writes ".." entries and table sizes that
// fsck.vfat refuses, leaks clusters on removal and ignores read errors.
//
// # Format
//
// Microsoft, "FAT32 File System Specification", version 1.03: 512-byte sectors,
// two tables, long names where 8.3 in capitals does not do.
package fat

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Limits of what is written and read.
const (
	// MinSize is the smallest volume that has enough clusters to count as FAT32.
	MinSize = 34 << 20
	// MaxSize is the largest volume.
	MaxSize = 32 << 30
	// MaxEntries is the largest number of files and folders in a volume.
	MaxEntries = 4096
	// MaxDepth is the deepest nesting of folders.
	MaxDepth = 16

	maxName = 255
)

const (
	sectorSize      = 512
	entrySize       = 32
	minClusters     = 65525 // below, the volume would count as FAT16
	firstCluster    = 2
	clusterMask     = 0x0fffffff
	endOfChain      = 0x0fffffff
	endOfChainFrom  = 0x0ffffff8
	mediaFixed      = 0xf8
	minReserved     = 32
	backupBoot      = 6
	tableCount      = 2
	alignSectors    = 8 // data begins on a multiple of 4 KiB
	smallVolume     = 260 << 20
	mediumVolume    = 8 << 30
	attrVolume      = 0x08
	attrDirectory   = 0x10
	attrArchive     = 0x20
	attrLongName    = 0x0f
	longNameChars   = 13
	lastLongEntry   = 0x40
	maxLongEntries  = 20
	maxTable        = 64 << 20
	maxFileSize     = 1<<32 - 1
	maxDirClusters  = 65536 * entrySize / sectorSize
	deletedMark     = 0xe5
	kanjiDeleted    = 0x05
	fsInfoLead      = 0x41615252
	fsInfoStructure = 0x61417272
	fsInfoTrail     = 0xaa550000
)

// ErrFull is returned when the files do not fit in the volume.
var ErrFull = errors.New("the files do not fit in the volume")

// ErrNotFound is returned for a path that the volume does not have.
var ErrNotFound = errors.New("no such file on the volume")

// Volume says what to write.
type Volume struct {
	// Size is the size of the volume in bytes, a multiple of 512 from MinSize to MaxSize.
	Size int64
	// Label is the volume's name: 1 to 11 characters of A-Z, 0-9, "-", "_" and space.
	Label string
	// Serial is the volume id.
	Serial uint32
	// Hidden is the number of 512-byte sectors before the volume on its disk.
	Hidden uint32
	// Time stamps every entry, in UTC, to two seconds. FAT begins in 1980; an
	// earlier time counts as that.
	Time time.Time
	// Files are the files to write; the folders follow from their paths.
	Files []File
}

// File is a file to write.
type File struct {
	// Path is relative to the volume, with forward slashes. FAT ignores case, so two
	// paths must not differ in case alone.
	Path string
	// Size is the file's length in bytes. Write fails if Open yields another.
	Size int64
	// Open opens the content. Write opens one file at a time and closes it.
	Open func() (io.ReadCloser, error)
}

// Bytes returns a File with the given content.
func Bytes(path string, content []byte) File {
	return File{path, int64(len(content)), func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(content))), nil
	}}
}

// geometry is how a volume of a size is divided.
type geometry struct {
	total, reserved, table, perCluster uint32 // in sectors
	clusters                           uint32
}

func newGeometry(size int64) (geometry, error) {
	if size < MinSize || size > MaxSize || size%sectorSize != 0 {
		return geometry{}, fmt.Errorf("size %d is not a multiple of %d from %d to %d", size, sectorSize, MinSize, int64(MaxSize))
	}
	g := geometry{total: uint32(size / sectorSize), reserved: minReserved, perCluster: 32}
	switch {
	case size <= smallVolume:
		g.perCluster = 1
	case size <= mediumVolume:
		g.perCluster = 8
	}
	// The table needs an entry for each cluster and for the two reserved numbers. A
	// larger table leaves fewer clusters, so counting up ends.
	for g.table = 1; ; g.table++ {
		g.clusters = (g.total - g.reserved - tableCount*g.table) / g.perCluster
		if g.table*sectorSize/4 >= g.clusters+firstCluster {
			break
		}
	}
	if over := (g.reserved + tableCount*g.table) % alignSectors; over != 0 {
		g.reserved += alignSectors - over
		g.clusters = (g.total - g.reserved - tableCount*g.table) / g.perCluster
	}
	if g.clusters < minClusters {
		return geometry{}, fmt.Errorf("size %d gives %d clusters, FAT32 has %d at least", size, g.clusters, minClusters)
	}
	return g, nil
}

func (g geometry) clusterBytes() int64 { return int64(g.perCluster) * sectorSize }

func (g geometry) dataStart() int64 {
	return (int64(g.reserved) + tableCount*int64(g.table)) * sectorSize
}

// offset is where a cluster begins in the volume.
func (g geometry) offset(cluster uint32) int64 {
	return g.dataStart() + int64(cluster-firstCluster)*g.clusterBytes()
}
