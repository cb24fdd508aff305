package boot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/u-root/u-root/pkg/kmodule"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	// moduleList names the modules, one absolute path a line, in loading order.
	moduleList = layout.ModulesDir + "/list"
	// maxModules bounds the list.
	maxModules = 512
)

// loadModules loads the kernel modules of the list and arms the watchdog as soon
// as one is there. Drivers whose hardware this machine does not have are passed
// over; anything else that fails is an error, since the list is ours.
func (b *box) loadModules(context.Context) error {
	list, err := os.Open(moduleList)
	if err != nil {
		return err
	}
	defer list.Close()
	paths, err := parseModules(list)
	if err != nil {
		return err
	}
	loaded := 0
	for _, path := range paths {
		ok, err := loadModule(path)
		if err != nil {
			return err
		}
		if ok {
			loaded++
		}
		b.armWatchdog()
	}
	b.mark("boot.modules", "n", loaded, "watchdog", b.report.Watchdog, "uptime", uptime())
	return nil
}

// parseModules reads the list. Empty lines and lines from "#" on are skipped.
func parseModules(r io.Reader) ([]string, error) {
	var paths []string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		path, _, _ := strings.Cut(lines.Text(), "#")
		path = strings.TrimSpace(path)
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) || filepath.Clean(path) != path || filepath.Ext(path) != ".ko" {
			return nil, fmt.Errorf("module list: %q is no path of a module", path)
		}
		if paths = append(paths, path); len(paths) > maxModules {
			return nil, fmt.Errorf("module list: more than %d modules", maxModules)
		}
	}
	return paths, lines.Err()
}

// loadModule loads one module. It reports false for a driver without hardware.
func loadModule(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = kmodule.FileInit(f, "", 0)
	switch {
	case err == nil || errors.Is(err, unix.EEXIST):
		return true, nil
	case absent(err):
		return false, nil
	}
	return false, fmt.Errorf("load module %s: %w", path, err)
}

// absent reports whether a driver's error means that there is nothing to drive:
// no device, no such processor feature, or a device that another driver has.
func absent(err error) bool {
	for _, e := range []error{unix.ENODEV, unix.ENXIO, unix.ENOENT, unix.EBUSY, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
