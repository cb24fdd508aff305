package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// mountPoint is a file system and where it goes.
type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// kernelMounts are what the kernel itself offers; systemd takes them over as
// they are.
func kernelMounts() []mountPoint {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return []mountPoint{
		{"proc", "/proc", "proc", safe, ""},
		{"sysfs", "/sys", "sysfs", safe, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%"},
		{"securityfs", "/sys/kernel/security", "securityfs", safe, ""},
	}
}

// mount makes the folder, if it is missing, and mounts on it.
func mount(m mountPoint) error {
	if _, err := os.Stat(m.target); errors.Is(err, os.ErrNotExist) {
		if err := os.Mkdir(m.target, 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w", m.source, m.kind, m.target, err)
	}
	return nil
}

// mountKernel mounts the kernel's file systems and opens the console.
func (b *box) mountKernel(context.Context) error {
	unix.Umask(0o022)
	for _, m := range kernelMounts() {
		if err := mount(m); err != nil {
			return err
		}
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	b.console = console
	if err := os.Mkdir(layout.RunDir, 0o755); err != nil {
		return err
	}
	if err := checkCmdline(layout.SignedCmdline, "/proc/cmdline"); err != nil {
		return err
	}
	release := readRelease("/.extra/os-release") // left there by systemd-stub
	b.mark("boot.start", "version", release.version, "variant", release.variant, "uptime", uptime())
	return nil
}

// newRoot is where the root image is mounted before it becomes /.
const newRoot = "/newroot"

// switchRoot mounts the root image read-only, moves the kernel's file systems
// into it, makes it / and deletes what the initramfs held.
func (b *box) switchRoot(context.Context) error {
	device, err := attachLoop(layout.RootImage)
	if err != nil {
		return err
	}
	defer device.Close() // the mount holds the device from then on
	if err := mount(mountPoint{device.Name(), newRoot, "squashfs", unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID, ""}); err != nil {
		return err
	}
	old, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	defer old.Close()
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := unix.Mount(dir, filepath.Join(newRoot, dir), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	if err := enter(newRoot); err != nil {
		return err
	}
	if err := deleteInitramfs(old); err != nil {
		return err
	}
	release := readRelease("/etc/os-release")
	b.report.Version, b.report.Variant, b.report.Epoch = release.version, release.variant, release.epoch
	b.mark("boot.root", "version", release.version, "uptime", uptime())
	b.warnDevelopment()
	return nil
}

// warnDevelopment keeps development builds from going unnoticed (design.md §3).
func (b *box) warnDevelopment() {
	if b.report.Variant == "release" {
		return
	}
	fmt.Fprintf(b.console, "\x1b[1;31m*** Development build: throw-away keys, not for use. ***\n"+
		"*** Entwicklungsstand: Wegwerf-Schlüssel, nicht für den Einsatz. ***\x1b[0m\n")
}

// enter makes dir the root of this process and of all that it will start.
func enter(dir string) error {
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("enter %s: %w", dir, err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to /: %w", dir, err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot to %s: %w", dir, err)
	}
	return unix.Chdir("/")
}

// deleteInitramfs frees the memory of the initramfs, if that is what old is.
// Files that are still open, root.img and this program, live on until closed.
func deleteInitramfs(old *os.Root) error {
	dir, err := old.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return fmt.Errorf("examine old root: %w", err)
	}
	if fs.Type != unix.RAMFS_MAGIC && fs.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("old root is no initramfs (file system %#x)", fs.Type)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := old.RemoveAll(name); err != nil {
			return fmt.Errorf("delete initramfs: %w", err)
		}
	}
	return nil
}

// attachLoop makes a read-only block device of file, which vanishes with its
// last user.
func attachLoop(file string) (*os.File, error) {
	backing, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("find a free loop device: %w", err)
	}
	device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	if err := unix.IoctlLoopConfigure(int(device.Fd()), &config); err != nil {
		return nil, errors.Join(fmt.Errorf("attach %s to %s: %w", file, device.Name(), err), device.Close())
	}
	return device, nil
}
