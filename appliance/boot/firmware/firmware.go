// Package firmware reads and writes the UEFI variables that decide how the box
// boots: Secure Boot, its keys, the boot entries, and what systemd-stub left
// about the file that it booted.
//
// Variables come through a Vars, on the box u-root's efivarfs. Contents are
// bounded and parsed without trust: any boot entry may have been written by
// somebody else. What is found decides which disk is looked at and how the boot
// is called, never whether data is unlocked; that is the TPM's part, which
// measured the same variables.
//
// Sources: UEFI Specification 2.10, 3.1 (boot manager), 8.2 (variables), 10
// (device paths), 32.3 (Secure Boot modes); Boot Loader Interface of systemd
// (LoaderDevicePartUUID, LoaderImageIdentifier, StubImageIdentifier).
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

// MaxVariable bounds a variable in bytes; firmware allows less.
const MaxVariable = 128 << 10

// Vars is where UEFI variables are kept. Get's error wraps fs.ErrNotExist if
// there is no such variable.
type Vars interface {
	Get(efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error)
	Set(efivarfs.VariableDescriptor, efivarfs.VariableAttributes, []byte) error
}

// Vendors of variables.
const (
	vendorGlobal  = "8be4df61-93ca-11d2-aa0d-00e098032b8c" // UEFI 2.10, 3.3
	vendorImages  = "d719b2cb-3d3a-4596-a3bc-dad00e67656f" // UEFI 2.10, 32.6.1: db
	vendorSystemd = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f" // Boot Loader Interface
)

func variable(name, vendor string) efivarfs.VariableDescriptor {
	return efivarfs.VariableDescriptor{Name: name, GUID: uuid.MustParse(vendor)}
}

func read(v Vars, name, vendor string) ([]byte, error) {
	_, data, err := v.Get(variable(name, vendor))
	if err != nil {
		return nil, fmt.Errorf("read UEFI variable %s: %w", name, err)
	}
	if len(data) > MaxVariable {
		return nil, fmt.Errorf("read UEFI variable %s: %d bytes, allowed are %d", name, len(data), MaxVariable)
	}
	return data, nil
}

// Mode is the state of Secure Boot.
type Mode struct {
	On    bool // images are verified
	Setup bool // no platform key is enrolled: anybody may enrol one
}

// SecureBoot reads the mode. Firmware without these variables has no Secure
// Boot: neither field is set.
func SecureBoot(v Vars) (Mode, error) {
	on, err := flag(v, "SecureBoot")
	if err != nil {
		return Mode{}, err
	}
	setup, err := flag(v, "SetupMode")
	if err != nil {
		return Mode{}, err
	}
	return Mode{On: on && !setup, Setup: setup}, nil
}

// flag reads a variable of one byte; a missing one is false.
func flag(v Vars, name string) (bool, error) {
	data, err := read(v, name, vendorGlobal)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(data) != 1 || data[0] > 1 {
		return false, fmt.Errorf("read UEFI variable %s: want one byte, 0 or 1, got %x", name, data)
	}
	return data[0] == 1, nil
}

// text reads a variable of UTF-16 text; a missing one is "".
func text(v Vars, name, vendor string) (string, error) {
	data, err := read(v, name, vendor)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	s, _, err := decodeText(data)
	if err != nil {
		return "", fmt.Errorf("read UEFI variable %s: %w", name, err)
	}
	return s, nil
}

// decodeText reads little-endian UTF-16 up to a NUL or the end, and returns the
// number of bytes used.
func decodeText(data []byte) (string, int, error) {
	var units []uint16
	for i := 0; i+1 < len(data); i += 2 {
		u := binary.LittleEndian.Uint16(data[i:])
		if u == 0 {
			return string(utf16.Decode(units)), i + 2, nil
		}
		units = append(units, u)
	}
	if len(data)%2 != 0 {
		return "", 0, errors.New("UTF-16 text of an odd number of bytes")
	}
	return string(utf16.Decode(units)), len(data), nil
}

// slashes turns a path of the firmware into one of ours: forward slashes,
// relative to the partition.
func slashes(path string) string {
	return strings.TrimLeft(strings.ReplaceAll(path, `\`, "/"), "/")
}
