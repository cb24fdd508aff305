package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of a FAT file system, as far as its label is concerned.
const (
	maxRootBytes  = 512 * 32 * 16 // sixteen times the usual root directory
	dirEntry      = 32
	attrVolume    = 0x08
	attrLongName  = 0x0F
	entryDeleted  = 0xE5
	entryNone     = 0x00
	bootSignature = 0xAA55
	fatLabelBytes = 11
)

// ErrNoFAT: there is no FAT file system.
var ErrNoFAT = errors.New("no FAT file system")

// FATLabel reads the volume label of a FAT12, FAT16 or FAT32 file system: the
// one in the root directory, else the one in the boot sector (Microsoft FAT
// Specification, 2005, sections 3 and 6). A file system without a label has "".
// The error wraps ErrNoFAT if there is no file system.
func FATLabel(volume io.ReaderAt) (string, error) {
	sector := make([]byte, 512)
	if _, err := volume.ReadAt(sector, 0); err != nil {
		return "", fmt.Errorf("FAT label: %w: %w", ErrNoFAT, err)
	}
	fs, err := parseBootSector(sector)
	if err != nil {
		return "", err
	}
	root := make([]byte, fs.rootBytes)
	if _, err := volume.ReadAt(root, fs.rootOffset); err != nil {
		return "", fmt.Errorf("FAT label: root directory: %w: %w", ErrNoFAT, err)
	}
	if label, ok := rootLabel(root); ok {
		return label, nil
	}
	return fs.label, nil
}

// fat is where the label of a file system may stand.
type fat struct {
	rootOffset int64
	rootBytes  int // of a FAT32: the first cluster of the root directory
	label      string
}

func parseBootSector(b []byte) (fat, error) {
	fail := func(what string) (fat, error) {
		return fat{}, fmt.Errorf("FAT label: %s: %w", what, ErrNoFAT)
	}
	le := binary.LittleEndian
	bytesPerSector := int64(le.Uint16(b[11:]))
	sectorsPerCluster := int64(b[13])
	reserved, copies := int64(le.Uint16(b[14:])), int64(b[16])
	rootEntries := int64(le.Uint16(b[17:]))
	fatSize := int64(le.Uint16(b[22:]))
	switch {
	case le.Uint16(b[510:]) != bootSignature:
		return fail("boot signature")
	case bytesPerSector < 512 || bytesPerSector > 4096 || bytesPerSector&(bytesPerSector-1) != 0:
		return fail("sector size")
	case sectorsPerCluster == 0 || sectorsPerCluster&(sectorsPerCluster-1) != 0:
		return fail("cluster size")
	case reserved == 0 || copies == 0 || copies > 4:
		return fail("number of tables")
	}
	fs := fat{label: bootLabel(b[38], b[43:])}
	if fatSize != 0 { // FAT12, FAT16: the root directory follows the tables
		fs.rootOffset = (reserved + copies*fatSize) * bytesPerSector
		fs.rootBytes = int(min(rootEntries*dirEntry, maxRootBytes))
		return fs, nil
	}
	fatSize = int64(le.Uint32(b[36:]))
	cluster := int64(le.Uint32(b[44:]))
	if fatSize == 0 || cluster < 2 {
		return fail("root directory")
	}
	fs.label = bootLabel(b[66], b[71:])
	fs.rootOffset = (reserved + copies*fatSize + (cluster-2)*sectorsPerCluster) * bytesPerSector
	fs.rootBytes = int(min(sectorsPerCluster*bytesPerSector, maxRootBytes))
	return fs, nil
}

// bootLabel is the label in the boot sector, which is there with signature 0x29.
func bootLabel(signature byte, b []byte) string {
	if signature != 0x29 {
		return ""
	}
	label := strings.TrimRight(string(b[:fatLabelBytes]), " \x00")
	if label == "NO NAME" {
		return ""
	}
	return label
}

// rootLabel finds the volume entry of a root directory.
func rootLabel(root []byte) (string, bool) {
	for ; len(root) >= dirEntry; root = root[dirEntry:] {
		switch {
		case root[0] == entryNone:
			return "", false
		case root[0] == entryDeleted || root[11]&attrLongName == attrLongName:
		case root[11]&attrVolume != 0:
			return strings.TrimRight(string(root[:fatLabelBytes]), " \x00"), true
		}
	}
	return "", false
}
