package boxkernel

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/image/initramfs"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

// source is where the guest unpacks the files.
const source = "/tmp/source"

// maxFile bounds one of them, in bytes.
const maxFile = 64 << 20

// envGuest tells the processes of the guest where they are.
const envGuest = "PFORTE_BOXKERNEL"

// Here reports whether the caller runs on the box's kernel, in the guest.
func Here() bool { return os.Getenv(envGuest) != "" }

// Main is a package's TestMain: it runs the tests, and as process 1 of a virtual
// machine it first makes that a place where tests can run, and afterwards
// switches it off.
func Main(m *testing.M) {
	if os.Getpid() != 1 {
		os.Exit(m.Run())
	}
	code := 1
	if err := prepare(); err != nil {
		fmt.Println("boxkernel:", err)
	} else {
		code = m.Run()
	}
	milestone.Print(os.Stdout, markDone, "code", code)
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("boxkernel: power off:", err)
	}
	os.Exit(code) // which ends the machine by a panic of its kernel
}

func prepare() error {
	for _, m := range []struct{ kind, target string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := unix.Mount(m.kind, m.target, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := errors.Join(os.Setenv("PATH", "/usr/bin"), os.Setenv("TMPDIR", "/tmp"), os.Setenv(envGuest, "1")); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := unpack(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	for _, arg := range strings.Fields(string(cmdline)) {
		if folder, ok := strings.CutPrefix(arg, argFolder); ok {
			folder = filepath.Join(source, folder)
			return errors.Join(os.MkdirAll(folder, 0o755), os.Chdir(folder))
		}
	}
	return errors.New("the kernel's command line names no folder")
}

func loadModules() error {
	list, err := os.ReadFile(initramfs.ListFile)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

func unpack() error {
	z, err := zip.OpenReader(layout.RootImage)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(r, maxFile))
		if err != nil {
			return err
		}
		name := filepath.Join(source, filepath.FromSlash(f.Name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}
