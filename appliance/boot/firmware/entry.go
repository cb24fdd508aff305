package firmware

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/partition"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// Bounds of the boot variables.
const (
	maxOrder = 256 // entries of BootOrder
	maxNodes = 64  // nodes of a device path
)

// Device path nodes that name a file on a partition (UEFI 2.10, 10.3.5).
const (
	nodeMedia     = 0x04
	nodeHardDrive = 0x01 // sub-type
	nodeFilePath  = 0x04 // sub-type
	nodeEnd       = 0x7F
)

// Entry is a boot entry (UEFI 2.10, 3.1.3, EFI_LOAD_OPTION), as far as we need it.
type Entry struct {
	Description string
	Partition   string // GUID in upper case; empty if the path names none
	Path        string // forward slashes, relative to the partition
}

// ParseEntry reads the content of a Boot#### variable.
func ParseEntry(data []byte) (Entry, error) {
	if len(data) < 6 || len(data) > MaxVariable {
		return Entry{}, fmt.Errorf("boot entry of %d bytes", len(data))
	}
	pathBytes := int(binary.LittleEndian.Uint16(data[4:]))
	description, n, err := decodeText(data[6:])
	if err != nil {
		return Entry{}, fmt.Errorf("boot entry: description: %w", err)
	}
	rest := data[6+n:]
	if pathBytes > len(rest) {
		return Entry{}, fmt.Errorf("boot entry: device path of %d bytes, there are %d", pathBytes, len(rest))
	}
	e := Entry{Description: description}
	if err := e.parsePath(rest[:pathBytes]); err != nil {
		return Entry{}, fmt.Errorf("boot entry: %w", err)
	}
	return e, nil
}

// parsePath walks the nodes of a device path up to its end.
func (e *Entry) parsePath(path []byte) error {
	for range maxNodes {
		if len(path) < 4 {
			return errors.New("device path without an end")
		}
		size := int(binary.LittleEndian.Uint16(path[2:]))
		if size < 4 || size > len(path) {
			return fmt.Errorf("device path node of %d bytes", size)
		}
		kind, sub, body := path[0], path[1], path[4:size]
		path = path[size:]
		switch {
		case kind == nodeEnd:
			return nil
		case kind == nodeMedia && sub == nodeHardDrive:
			if err := e.parseHardDrive(body); err != nil {
				return err
			}
		case kind == nodeMedia && sub == nodeFilePath:
			name, _, err := decodeText(body)
			if err != nil {
				return fmt.Errorf("file path: %w", err)
			}
			e.Path = strings.TrimLeft(e.Path+"/"+slashes(name), "/")
		}
	}
	return fmt.Errorf("device path of more than %d nodes", maxNodes)
}

// parseHardDrive reads the partition's GUID (UEFI 2.10, table 10.49).
func (e *Entry) parseHardDrive(body []byte) error {
	if len(body) != 38 {
		return fmt.Errorf("hard drive node of %d bytes", len(body))
	}
	const signatureGUID = 0x02
	if body[37] == signatureGUID {
		e.Partition = partition.GUID(body[20:36])
	}
	return nil
}

// Boot is how this boot came about.
type Boot struct {
	Partition string // GUID of the partition that the image came from, upper case; or ""
	Path      string // of the image on it, forward slashes; or ""
	Current   string // number of the entry that was booted, as "0003"; or ""
	Order     []string
}

// ThisBoot reads the variables that the firmware and the stub set at each boot.
// What is missing stays empty.
func ThisBoot(v Vars) (Boot, error) {
	var b Boot
	var err error
	if b.Order, err = order(v); err != nil {
		return Boot{}, err
	}
	if b.Current, err = number(v, "BootCurrent"); err != nil {
		return Boot{}, err
	}
	if b.Partition, err = text(v, "LoaderDevicePartUUID", vendorSystemd); err != nil {
		return Boot{}, err
	}
	b.Partition = strings.ToUpper(b.Partition)
	for _, name := range []string{"StubImageIdentifier", "LoaderImageIdentifier"} {
		path, err := text(v, name, vendorSystemd)
		if err != nil {
			return Boot{}, err
		}
		if b.Path = slashes(path); b.Path != "" {
			return b, nil
		}
	}
	return b, b.fromEntry(v)
}

// fromEntry takes from the booted entry what the stub did not say.
func (b *Boot) fromEntry(v Vars) error {
	if b.Current == "" {
		return nil
	}
	data, err := read(v, "Boot"+b.Current, vendorGlobal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	e, err := ParseEntry(data)
	if err != nil {
		return err
	}
	b.Path = e.Path
	if b.Partition == "" {
		b.Partition = e.Partition
	}
	return nil
}

// Slot says which slot the image is. FAT does not distinguish case.
func (b Boot) Slot() report.Slot {
	for path, slot := range map[string]report.Slot{
		layout.SlotA:        report.SlotA,
		layout.SlotB:        report.SlotB,
		layout.FallbackSlot: report.SlotFallback,
	} {
		if strings.EqualFold(b.Path, path) {
			return slot
		}
	}
	return report.SlotUnknown
}

// Trial reports whether a slot was booted that is not the firmware's first
// choice (design.md §8: BootNext names the slot on trial, BootOrder the blessed
// one). The fallback file is never on trial.
func (b Boot) Trial() bool {
	slot := b.Slot()
	if slot != report.SlotA && slot != report.SlotB {
		return false
	}
	return b.Current != "" && len(b.Order) > 0 && b.Current != b.Order[0]
}

// order reads BootOrder.
func order(v Vars) ([]string, error) {
	data, err := read(v, "BootOrder", vendorGlobal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if len(data)%2 != 0 || len(data) > 2*maxOrder {
		return nil, fmt.Errorf("read UEFI variable BootOrder: %d bytes", len(data))
	}
	var out []string
	for i := 0; i < len(data); i += 2 {
		out = append(out, fmt.Sprintf("%04X", binary.LittleEndian.Uint16(data[i:])))
	}
	return out, nil
}

// number reads a variable that holds the number of a boot entry.
func number(v Vars, name string) (string, error) {
	data, err := read(v, name, vendorGlobal)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if len(data) != 2 {
		return "", fmt.Errorf("read UEFI variable %s: %d bytes, want 2", name, len(data))
	}
	return fmt.Sprintf("%04X", binary.LittleEndian.Uint16(data)), nil
}
