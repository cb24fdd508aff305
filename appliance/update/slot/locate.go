package slot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
)

const (
	// sysSector is the unit of sysfs for starts and sizes, whatever the device's own
	// (Documentation/ABI/stable/sysfs-block).
	sysSector = 512
	maxNumber = 32 // bytes of a number in sysfs
)

// Locate describes a partition as boot entries name it: by its number, its
// place in the disk's own blocks and its GUID. sys is /sys/class/block,
// partition the kernel's name of it ("vda1"), guid what the stub left as
// LoaderDevicePartUUID. No block device is opened.
func Locate(sys, partition, guid string) (firmware.HardDrive, error) {
	if guid == "" {
		return firmware.HardDrive{}, errors.New("locate the EFI system partition: the stub did not say from which partition it booted")
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, partition))
	if err != nil {
		return firmware.HardDrive{}, fmt.Errorf("locate the EFI system partition: %w", err)
	}
	var values [4]uint64
	for i, name := range []string{"partition", "start", "size", "../queue/logical_block_size"} {
		if values[i], err = number(filepath.Join(dir, name)); err != nil {
			return firmware.HardDrive{}, fmt.Errorf("locate the EFI system partition: %w", err)
		}
	}
	block := values[3]
	if block < sysSector || block%sysSector != 0 {
		return firmware.HardDrive{}, fmt.Errorf("locate the EFI system partition: %s has blocks of %d bytes", partition, block)
	}
	return firmware.HardDrive{
		Number: uint32(values[0]),
		Start:  values[1] / (block / sysSector),
		Blocks: values[2] / (block / sysSector),
		GUID:   guid,
	}, nil
}

// number reads a file of sysfs that holds one decimal number.
func number(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxNumber))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}
