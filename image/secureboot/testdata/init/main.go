// Command init is the whole user space of the firmware test: it enrols the updates
// that it finds, reports what the firmware and the TPM say, and ends the machine.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

const efivars = "/sys/firmware/efi/efivars"

// update is one step of the test, in the order in which it is to be tried.
type update struct {
	Variable, GUID string
	Auth           []byte
	Setup          bool // in setup mode, else afterwards
}

func main() {
	end := unix.LINUX_REBOOT_CMD_POWER_OFF
	if err := run(&end); err != nil {
		milestone.Print(os.Stdout, "test.error", "what", err)
	}
	unix.Sync()
	_ = unix.Reboot(end)
}

func run(end *int) error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := unix.Mount("efivarfs", efivars, "efivarfs", 0, ""); err != nil {
		return fmt.Errorf("mount efivarfs: %w", err)
	}
	b, err := os.ReadFile("/root.img")
	if err != nil {
		return err
	}
	var updates []update
	if err := json.Unmarshal(b, &updates); err != nil {
		return err
	}
	setup := flag("SetupMode")
	for _, u := range updates {
		if u.Setup != setup {
			continue
		}
		milestone.Print(os.Stdout, "test.update", "variable", u.Variable, "error", result(write(u)))
	}
	pcr, err := os.ReadFile("/sys/class/tpm/tpm0/pcr-sha256/11")
	lockdown, _ := os.ReadFile("/sys/kernel/security/lockdown")
	cmdline, _ := os.ReadFile("/proc/cmdline")
	milestone.Print(os.Stdout, "test.state", "setup", setup, "after", flag("SetupMode"), "secureboot", flag("SecureBoot"),
		"pcr11", strings.TrimSpace(string(pcr)), "error", result(err), "lockdown", string(lockdown), "cmdline", strings.TrimSpace(string(cmdline)))
	if setup {
		*end = unix.LINUX_REBOOT_CMD_RESTART
	}
	return nil
}

func result(err error) string {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	} else if err != nil {
		return err.Error()
	}
	return "none"
}

func loadModules() error {
	list, err := os.ReadFile("/modules/list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
		f.Close()
	}
	return nil
}

// flag reads a boolean variable of the firmware: four bytes of attributes and a 1.
func flag(name string) bool {
	b, err := os.ReadFile(filepath.Join(efivars, name+"-8be4df61-93ca-11d2-aa0d-00e098032b8c"))
	return err == nil && bytes.Equal(b[4:], []byte{1})
}

func write(u update) error {
	const attributes = 0x27
	path := filepath.Join(efivars, u.Variable+"-"+u.GUID)
	if f, err := os.Open(path); err == nil { // Linux protects existing variables with the flag "immutable"
		const immutable = 0x10
		if flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
			_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^immutable)
		}
		f.Close()
	}
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, append(binary.LittleEndian.AppendUint32(nil, attributes), u.Auth...))
	return err
}
