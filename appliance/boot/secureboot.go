package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/u-root/u-root/pkg/efivarfs"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/hsm/seal"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	efivarsDir   = "/sys/firmware/efi/efivars"
	lockdownFile = "/sys/kernel/security/lockdown"
	tpmDevice    = "/dev/tpmrm0"
	// tpmWait bounds the wait for a TPM whose driver is slow. Only a machine
	// without a TPM waits in full.
	tpmWait = 5 * time.Second
)

// Words measured into the TPM, those of systemd-pcrphase(8).
const (
	wordEnter = "enter-initrd"
	wordLeave = "leave-initrd"
)

// readFirmware learns how the box was booted, and tells the TPM that init runs.
// Firmware that does not tell whether Secure Boot is on counts as off.
func (b *box) readFirmware(ctx context.Context) error {
	if err := b.openVariables(); err != nil {
		b.lock(fmt.Errorf("%w: %w", errSecureBootOff, err))
	}
	b.report.SecureBoot = b.mode.On
	b.report.Slot, b.report.Trial = b.firmware.Slot(), b.firmware.Trial()
	b.report.BootCurrent, b.report.BootOrder = b.firmware.Current, b.firmware.Order
	b.report.Lockdown = readLockdown(lockdownFile)
	b.mark("boot.secureboot", "on", b.mode.On, "setup", b.mode.Setup, "lockdown", b.report.Lockdown,
		"slot", b.report.Slot, "trial", b.report.Trial)
	if !b.mode.On && !b.mode.Setup {
		b.lock(errSecureBootOff)
	}
	return b.openTPM(ctx)
}

// openVariables mounts efivarfs and reads the firmware's variables. A machine
// that was not booted by UEFI has none; it counts as Secure Boot off.
func (b *box) openVariables() error {
	if _, err := os.Stat(efivarsDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount(mountPoint{"efivarfs", efivarsDir, "efivarfs", safe, ""}); err != nil {
		return err
	}
	vars, err := efivarfs.New()
	if err != nil {
		return fmt.Errorf("open UEFI variables: %w", err)
	}
	b.vars = vars
	if b.mode, err = firmware.SecureBoot(vars); err != nil {
		return err
	}
	// What firmware wrote about its entries may be odd; the disk is then found
	// by its partitions' names.
	if b.firmware, err = firmware.ThisBoot(vars); err != nil {
		fmt.Fprintf(b.console, "The firmware's boot entries cannot be read: %v\n"+
			"Die Starteinträge der Firmware sind nicht lesbar: %v\n", err, err)
	}
	return nil
}

// readLockdown tells the kernel's lockdown mode: the word in brackets of
// "none [integrity] confidentiality". A kernel without it has "none".
func readLockdown(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "none"
	}
	_, rest, ok := strings.Cut(string(data), "[")
	mode, _, closed := strings.Cut(rest, "]")
	if !ok || !closed {
		return "none"
	}
	return mode
}

// openTPM finds the TPM and measures that init runs. Without a TPM the box is locked.
func (b *box) openTPM(ctx context.Context) error {
	found := await(ctx, tpmWait, func() bool {
		_, err := os.Stat(tpmDevice)
		return err == nil
	})
	if !found {
		b.lock(errNoTPM)
		return nil
	}
	tpm, err := linuxtpm.Open(tpmDevice)
	if err != nil {
		b.lock(fmt.Errorf("%w: %w", errNoTPM, err))
		return nil
	}
	b.tpm = tpm
	if err := seal.Measure(tpm, seal.PCRPhase, wordEnter); err != nil {
		b.lock(err)
	}
	return nil
}

// enrol writes the Secure Boot keys of the image if the firmware is in setup
// mode, and reboots into it. A failure leaves the box locked, with the reason.
func (b *box) enrol(context.Context) error {
	if !b.mode.Setup {
		return nil
	}
	if err := b.enrolKeys(); err != nil {
		b.lock(fmt.Errorf("%w: %w", errEnrol, err))
		return nil
	}
	b.mark("boot.enrolled", "uptime", uptime())
	return errors.Join(reboot(), errors.New("the reboot did not happen"))
}

func (b *box) enrolKeys() error {
	read := func(name string) ([]byte, error) {
		return os.ReadFile(filepath.Join(layout.SecureBootDir, name))
	}
	pk, err1 := read("PK.auth")
	kek, err2 := read("KEK.auth")
	db, err3 := read("db.auth")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	return firmware.Enrol(b.vars, firmware.Keys{PK: pk, KEK: kek, DB: db})
}

// closeLatch makes sure that nobody after init can unseal. An unlocked box that
// cannot be latched must not go on. A locked one has nothing open, and goes on
// to say why it is locked; that its latch failed too is added to the reason.
func (b *box) closeLatch(context.Context) error {
	if b.tpm == nil {
		return nil
	}
	err := errors.Join(
		seal.Measure(b.tpm, seal.PCRLatch, wordLeave),
		seal.Measure(b.tpm, seal.PCRPhase, wordLeave),
		b.tpm.Close(),
	)
	b.tpm = nil
	if err != nil && b.report.Locked != nil {
		b.report.Locked.Detail += "; " + err.Error()
		return nil
	}
	return err
}
