package update

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
)

// maxMeminfo bounds /proc/meminfo, in bytes.
const maxMeminfo = 64 << 10

// readMemory is the state of the box's RAM (proc_meminfo(5)); nil if the kernel
// does not say.
func readMemory() *control.Memory {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	m, err := parseMeminfo(f)
	if err != nil {
		return nil
	}
	return m
}

// parseMeminfo reads MemTotal and MemAvailable.
func parseMeminfo(r io.Reader) (*control.Memory, error) {
	var m control.Memory
	lines := bufio.NewScanner(io.LimitReader(r, maxMeminfo))
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		var to *int64
		switch name {
		case "MemTotal":
			to = &m.Total
		case "MemAvailable":
			to = &m.Available
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read meminfo: %s: %w", name, err)
		}
		*to = kib << 10
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read meminfo: %w", err)
	}
	if m.Total == 0 || m.Available == 0 {
		return nil, errors.New("read meminfo: no MemTotal or no MemAvailable")
	}
	return &m, nil
}
