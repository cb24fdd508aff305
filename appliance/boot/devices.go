package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/partition"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// maxDevices bounds how many block devices are looked at.
const maxDevices = 512

// sectorSize is the unit of sysfs for starts and sizes, whatever the device's own.
const sectorSize = 512

// sysBlock is where devices are found: /sys/class/block and /dev.
type sysBlock struct {
	sys, dev string
}

// device is a disk or a partition as the kernel sees it.
type device struct {
	name   string // "vda", "nvme0n1p2"
	path   string // "/dev/vda"
	disk   string // of a partition: the name of its disk
	number int    // of a partition, else 0
	start  int64  // in sectors
	size   int64  // in sectors
	block  int    // of a disk: logical block size in bytes
}

// list returns the hardware disks and their partitions, sorted by name.
func (s sysBlock) list() ([]device, error) {
	entries, err := os.ReadDir(s.sys)
	if err != nil {
		return nil, err
	}
	var out []device
	for _, e := range entries {
		if isVirtual(e.Name()) {
			continue
		}
		d, err := s.read(e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // unplugged meanwhile
		}
		if err != nil {
			return nil, err
		}
		if out = append(out, d); len(out) > maxDevices {
			return nil, fmt.Errorf("more than %d block devices", maxDevices)
		}
	}
	return out, nil
}

// isVirtual reports whether a device is no hardware, by its name.
func isVirtual(name string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "dm-", "md", "nbd"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (s sysBlock) read(name string) (device, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(s.sys, name))
	if err != nil {
		return device{}, err
	}
	d := device{name: name, path: filepath.Join(s.dev, name)}
	if d.size, err = readNumber(filepath.Join(dir, "size")); err != nil {
		return device{}, err
	}
	number, err := readNumber(filepath.Join(dir, "partition"))
	if errors.Is(err, os.ErrNotExist) { // a whole disk
		block, err := readNumber(filepath.Join(dir, "queue/logical_block_size"))
		d.block = int(block)
		return d, err
	}
	if err != nil {
		return device{}, err
	}
	d.number, d.disk = int(number), filepath.Base(filepath.Dir(dir))
	d.start, err = readNumber(filepath.Join(dir, "start"))
	return d, err
}

// readNumber reads a file of sysfs that holds one decimal number.
func readNumber(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// disk is our disk with its two partitions.
type disk struct {
	name string
	esp  device
	data device
}

// find looks once for our disk: the one with the partition from which the stub
// was loaded; if that is not known (partition is ""), the one with a data
// partition of ours. The error is errNoDisk if there is none yet.
func (s sysBlock) find(espID string) (*disk, error) {
	devices, err := s.list()
	if err != nil {
		return nil, err
	}
	var found []*disk
	for _, d := range devices {
		if d.number != 0 || d.block == 0 {
			continue
		}
		table, err := s.table(d)
		if err != nil {
			continue // no table, no medium, or unreadable: not ours
		}
		esp := slices.IndexFunc(table, func(p partition.Partition) bool {
			return (espID != "" && p.ID == espID) || (espID == "" && p.Name == layout.ESPLabel)
		})
		if esp < 0 {
			continue
		}
		ours, err := assemble(d, devices, table, table[esp])
		if err != nil {
			return nil, err
		}
		found = append(found, ours)
	}
	switch len(found) {
	case 0:
		return nil, errNoDisk
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: %s and %s", errManyDisks, found[0].name, found[1].name)
}

func (s sysBlock) table(d device) ([]partition.Partition, error) {
	f, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return partition.Table(f, d.block)
}

// assemble finds the kernel's devices of the two partitions.
func assemble(d device, devices []device, table []partition.Partition, esp partition.Partition) (*disk, error) {
	ours := &disk{name: d.name}
	var data []partition.Partition
	for _, p := range table {
		if p.Type == layout.DataType {
			data = append(data, p)
		}
	}
	if len(data) != 1 {
		return nil, fmt.Errorf("%w: %s has %d", errNoData, d.name, len(data))
	}
	for _, want := range []struct {
		entry partition.Partition
		into  *device
	}{{esp, &ours.esp}, {data[0], &ours.data}} {
		i := slices.IndexFunc(devices, func(c device) bool {
			return c.disk == d.name && c.number == want.entry.Number &&
				c.start == int64(want.entry.First)*int64(d.block)/sectorSize
		})
		if i < 0 {
			return nil, fmt.Errorf("%w: the kernel does not see partition %d of %s", errNoDisk, want.entry.Number, d.name)
		}
		*want.into = devices[i]
	}
	return ours, nil
}
