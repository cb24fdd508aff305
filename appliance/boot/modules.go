package boot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	// moduleList names the modules, one absolute path a line, in loading order.
	moduleList = layout.ModulesDir + "/list"
	// maxModules bounds the list.
	maxModules = 512
	// modulesWait bounds the wait for the modules loaded in the background.
	modulesWait = time.Minute
)

// own are the modules that init itself needs. Those after the last of them in the
// list (network, firewall) are loaded while init goes on.
func own() []string {
	return []string{
		"squashfs", "loop", "efivarfs", "vfat", "nls_cp437", "nls_ascii", "ext4", "dm_crypt", "xts", "usb_storage",
	}
}

// loadModules loads the kernel modules of the list in its order and arms the
// watchdog as soon as one is there. Drivers whose hardware this machine does not
// have are passed over; anything else that fails is an error, since the list is
// ours.
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
	// All are opened now: the initramfs is gone before the last is loaded.
	files, err := openAll(paths)
	if err != nil {
		return err
	}
	now := lastOwn(paths) + 1
	loaded := 0
	for _, f := range files[:now] {
		ok, err := loadModule(f)
		if err != nil {
			return err
		}
		if ok {
			loaded++
		}
		b.armWatchdog()
	}
	b.mark("boot.modules", "n", loaded, "of", len(files), "watchdog", b.report.Watchdog, "uptime", uptime())
	b.rest = loadLater(files[now:])
	return nil
}

// lastOwn is the index of the last module that init itself needs, or -1.
func lastOwn(paths []string) int {
	for i := len(paths) - 1; i >= 0; i-- {
		name := strings.TrimSuffix(filepath.Base(paths[i]), ".ko")
		if slices.Contains(own(), strings.ReplaceAll(name, "-", "_")) {
			return i
		}
	}
	return -1
}

// loadLater loads modules in the background; the channel gives the outcome once.
func loadLater(files []*os.File) <-chan error {
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, f := range files {
			if _, err := loadModule(f); err != nil {
				errs = append(errs, err)
			}
		}
		done <- errors.Join(errs...)
	}()
	return done
}

// awaitModules waits for the modules that are loaded in the background.
func (b *box) awaitModules(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, modulesWait)
	defer cancel()
	defer b.watchdog.during()()
	select {
	case err := <-b.rest:
		return err
	case <-ctx.Done():
		return fmt.Errorf("load the remaining modules: %w", ctx.Err())
	}
}

func openAll(paths []string) ([]*os.File, error) {
	var files []*os.File
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
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

// loadModule loads one module and closes its file. It reports false for a
// driver without hardware.
func loadModule(f *os.File) (bool, error) {
	defer f.Close()
	err := unix.FinitModule(int(f.Fd()), "", 0)
	switch {
	case err == nil || errors.Is(err, unix.EEXIST):
		return true, nil
	case absent(err):
		return false, nil
	}
	return false, fmt.Errorf("load module %s: %w", f.Name(), err)
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
