package firmware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/u-root/u-root/pkg/efivarfs"
)

// ErrNoEntry: there is no boot entry of this number.
var ErrNoEntry = errors.New("no such boot entry")

// HardDrive names a GPT partition in a device path (UEFI 2.10, 10.3.5.1).
type HardDrive struct {
	Number uint32 // of the partition, from 1
	Start  uint64 // first block
	Blocks uint64
	GUID   string // of the partition, not its type
}

// Global describes a variable of the firmware's own.
func Global(name string) efivarfs.VariableDescriptor { return variable(name, vendorGlobal) }

// BootOrder reads the numbers of the boot entries in their order; no variable
// is an empty order.
func BootOrder(v Vars) ([]string, error) { return order(v) }

// ReadEntry reads the content of a boot entry by its number ("0003").
func ReadEntry(v Vars, number string) ([]byte, error) {
	data, err := read(v, "Boot"+number, vendorGlobal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoEntry
	}
	return data, err
}

// EncodeEntry makes the content of a boot entry (UEFI 2.10, 3.1.3,
// EFI_LOAD_OPTION): an active entry that boots path (forward slashes, relative
// to the partition).
func EncodeEntry(description string, disk HardDrive, path string) ([]byte, error) {
	devicePath, err := encodePath(disk, path)
	if err != nil {
		return nil, err
	}
	const active = 1
	out := binary.LittleEndian.AppendUint32(nil, active)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(devicePath)))
	out = append(out, encodeText(description)...)
	return append(out, devicePath...), nil
}

// encodePath is the device path partition/file/end.
func encodePath(disk HardDrive, path string) ([]byte, error) {
	id, err := uuid.Parse(disk.GUID)
	if err != nil {
		return nil, fmt.Errorf("partition GUID %q: %w", disk.GUID, err)
	}
	var drive []byte
	drive = binary.LittleEndian.AppendUint32(drive, disk.Number)
	drive = binary.LittleEndian.AppendUint64(drive, disk.Start)
	drive = binary.LittleEndian.AppendUint64(drive, disk.Blocks)
	drive = append(drive, mixedEndian(id)...)
	const gpt, signatureGUID = 0x02, 0x02
	drive = append(drive, gpt, signatureGUID)
	file := encodeText(`\` + strings.ReplaceAll(strings.Trim(path, "/"), "/", `\`))
	out := pathNode(nodeMedia, nodeHardDrive, drive)
	out = append(out, pathNode(nodeMedia, nodeFilePath, file)...)
	const endEntire = 0xFF
	return append(out, pathNode(nodeEnd, endEntire, nil)...), nil
}

func pathNode(kind, sub byte, body []byte) []byte {
	out := []byte{kind, sub}
	out = binary.LittleEndian.AppendUint16(out, uint16(4+len(body)))
	return append(out, body...)
}

// mixedEndian is a GUID as UEFI stores it: the first three groups little-endian.
func mixedEndian(id uuid.UUID) []byte {
	b := id
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return b[:]
}

// encodeText is NUL-terminated little-endian UTF-16.
func encodeText(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return append(out, 0, 0)
}
