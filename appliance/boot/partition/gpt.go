// Package partition reads what stands on a block device: its GUID partition
// table and the volume label of a FAT file system.
//
// It only reads, through io.ReaderAt, and mounts nothing. What it reads may have
// been written by anybody who held the disk, so every size and count is bounded
// and every checksum is verified. It serves to find partitions; whether their
// content may be trusted is decided by signatures and by the TPM.
//
// The partition table is that of the UEFI Specification 2.10, chapter 5, the
// primary one only: that is the one by which the kernel made its devices. A
// disk with a damaged primary table is not repaired here.
package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
)

// Bounds of a partition table.
const (
	maxBlockSize  = 1 << 16
	minHeader     = 92
	minEntrySize  = 128
	maxEntrySize  = 4096
	maxEntries    = 1024
	maxTableBytes = 1 << 20
)

// ErrNoTable: there is no valid GUID partition table.
var ErrNoTable = errors.New("no GUID partition table")

// Partition is one used entry.
type Partition struct {
	Number int    // from 1, as the kernel numbers its devices
	Type   string // GUID in upper case, as in layout.DataType
	ID     string // unique GUID in upper case
	Name   string
	First  uint64 // first logical block
	Last   uint64 // last logical block, inclusive
}

// Table reads the primary partition table of a disk with the given logical
// block size in bytes. The error wraps ErrNoTable if there is none.
func Table(disk io.ReaderAt, blockSize int) ([]Partition, error) {
	if blockSize < 512 || blockSize > maxBlockSize || blockSize&(blockSize-1) != 0 {
		return nil, fmt.Errorf("partition table: block size of %d bytes: %w", blockSize, ErrNoTable)
	}
	header := make([]byte, blockSize)
	if _, err := disk.ReadAt(header, int64(blockSize)); err != nil {
		return nil, fmt.Errorf("partition table: read header: %w: %w", ErrNoTable, err)
	}
	h, err := parseHeader(header)
	if err != nil {
		return nil, err
	}
	table := make([]byte, h.count*h.size)
	if _, err := disk.ReadAt(table, int64(h.block)*int64(blockSize)); err != nil {
		return nil, fmt.Errorf("partition table: read entries: %w: %w", ErrNoTable, err)
	}
	if crc32.ChecksumIEEE(table) != h.checksum {
		return nil, fmt.Errorf("partition table: checksum of the entries: %w", ErrNoTable)
	}
	var out []Partition
	for i := range h.count {
		p, used := parseEntry(table[i*h.size:][:minEntrySize])
		if !used {
			continue
		}
		if p.First > p.Last {
			return nil, fmt.Errorf("partition table: entry %d ends before it starts: %w", i+1, ErrNoTable)
		}
		p.Number = i + 1
		out = append(out, p)
	}
	return out, nil
}

// tableHeader is where the entries are.
type tableHeader struct {
	block    uint64
	count    int
	size     int // of one entry, in bytes
	checksum uint32
}

// parseHeader checks a header (UEFI 2.10, table 5.5).
func parseHeader(b []byte) (tableHeader, error) {
	fail := func(what string) (tableHeader, error) {
		return tableHeader{}, fmt.Errorf("partition table: %s: %w", what, ErrNoTable)
	}
	if string(b[:8]) != "EFI PART" {
		return fail("signature")
	}
	size := binary.LittleEndian.Uint32(b[12:])
	if size < minHeader || uint64(size) > uint64(len(b)) {
		return fail("size of the header")
	}
	checked := bytes.Clone(b[:size])
	clear(checked[16:20])
	if crc32.ChecksumIEEE(checked) != binary.LittleEndian.Uint32(b[16:]) {
		return fail("checksum of the header")
	}
	if binary.LittleEndian.Uint64(b[24:]) != 1 {
		return fail("header at another block")
	}
	block := binary.LittleEndian.Uint64(b[72:])
	count := binary.LittleEndian.Uint32(b[80:])
	entry := binary.LittleEndian.Uint32(b[84:])
	if block < 2 || block > 1<<20 || count > maxEntries || entry < minEntrySize || entry > maxEntrySize ||
		entry%8 != 0 || count*entry > maxTableBytes {
		return fail("bounds of the entries")
	}
	return tableHeader{block, int(count), int(entry), binary.LittleEndian.Uint32(b[88:])}, nil
}

// parseEntry reads an entry (UEFI 2.10, table 5.6). It reports false for an unused one.
func parseEntry(b []byte) (Partition, bool) {
	if bytes.Equal(b[:16], make([]byte, 16)) {
		return Partition{}, false
	}
	name := make([]uint16, 36)
	for i := range name {
		name[i] = binary.LittleEndian.Uint16(b[56+2*i:])
		if name[i] == 0 {
			name = name[:i]
			break
		}
	}
	return Partition{
		Type:  GUID(b[:16]),
		ID:    GUID(b[16:32]),
		Name:  string(utf16.Decode(name)),
		First: binary.LittleEndian.Uint64(b[32:]),
		Last:  binary.LittleEndian.Uint64(b[40:]),
	}, true
}

// GUID reads the first 16 bytes of b as a GUID in the mixed byte order of UEFI
// (appendix A) and gives it in upper case. b must be that long.
func GUID(b []byte) string {
	var u uuid.UUID
	binary.BigEndian.PutUint32(u[0:], binary.LittleEndian.Uint32(b[0:]))
	binary.BigEndian.PutUint16(u[4:], binary.LittleEndian.Uint16(b[4:]))
	binary.BigEndian.PutUint16(u[6:], binary.LittleEndian.Uint16(b[6:]))
	copy(u[8:], b[8:16])
	return strings.ToUpper(u.String())
}
