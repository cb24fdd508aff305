// Package boot is everything that happens on the box between the kernel and
// systemd (design.md §4). The command init calls Run and nothing else.
//
// # What it does, in order
//
// mounts → modules (and the watchdog, as soon as its driver is there) →
// firmware (Secure Boot, lockdown, which slot booted) → root (loop-mount the
// squashfs and make it /) → enrol (Secure Boot keys, in setup mode only; then
// reboot) → disk → volume (the data volume, formatted or unlocked) → latch → var
// → seed → esp → services (what they find: sockets, the TPM, an identity) →
// drivers (the modules that init itself does not need, loaded meanwhile) →
// handover (exec systemd with an empty environment).
//
// The root is switched early, so that the programs of the root image (cryptsetup,
// mke2fs, e2fsck) run in the place they were built for. The initramfs is
// deleted then; root.img stays, held by its loop device.
//
// # What it promises
//
//   - A box that cannot unlock its data comes up locked: /var is in memory,
//     layout.LockedMark exists, the report says why in two languages, and the
//     management answers. Nothing is formatted or unsealed unless Secure Boot is on.
//   - After the step latch no process can unseal the data volume's key until the
//     next power-on: PCR 15 and PCR 11 are extended by "leave-initrd". This holds
//     for a locked box too. The seed volume, which a stranger may have written, is
//     looked at only after that. If an unlocked box cannot be latched, it reboots.
//   - Each wait is bounded. Any other error, and any panic, prints the step, the
//     fault and the remedy, waits failureWait, and reboots: a trial of an update
//     then ends in the old slot. The hardware watchdog stands behind it.
//   - Modules, programs and paths are fixed here. Nothing is taken from the kernel
//     command line, from credentials, or from the disk, except what a signature or
//     the TPM vouches for.
//
// It speaks on the console only: marks (internal/milestone) and texts for the
// technician. It is not a service manager; it starts programs one at a time and
// waits for them.
package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

// failureWait is how long a failed boot shows its reason before it reboots.
const failureWait = 30 * time.Second

// box is the state of one boot, filled step by step.
type box struct {
	console  io.Writer
	watchdog *watchdog
	tpm      transport.TPMCloser // nil without a TPM
	vars     firmware.Vars       // nil without UEFI variables
	mode     firmware.Mode
	firmware firmware.Boot
	disk     *disk        // nil without one of ours
	rest     <-chan error // outcome of the modules that are loaded in the background
	report   report.Report
}

// step is one part of the boot. Its remedies are for the technician who sees it
// fail again and again.
type step struct {
	name    string
	run     func(*box, context.Context) error
	english string
	german  string
}

// steps in their order. Each relies on those before it.
func steps() []step {
	const (
		image   = "The release is damaged or does not fit this machine: boot the other slot from the firmware's menu, then install a working release."
		imageDE = "Das Release ist beschädigt oder passt nicht zu dieser Maschine: im Firmware-Menü den anderen Slot starten, dann ein funktionierendes Release einspielen."
		start   = "Remove what the firmware's or the hypervisor's settings add to the start of this machine; if there is nothing, boot the other slot."
		startDE = "Entfernen, was Firmware oder Hypervisor dem Start dieser Maschine hinzufügen; ist da nichts, den anderen Slot starten."
		disk    = "Check the disk and its cable; if the fault stays, replace the disk and restore the box."
		diskDE  = "Platte und Kabel prüfen; bleibt der Fehler, Platte tauschen und die Box wiederherstellen."
		keys    = "Check that Secure Boot and the TPM are on in the firmware's settings."
		keysDE  = "In den Firmware-Einstellungen prüfen, ob Secure Boot und TPM eingeschaltet sind."
	)
	return []step{
		{"mounts", (*box).mountKernel, start, startDE},
		{"modules", (*box).loadModules, image, imageDE},
		{"firmware", (*box).readFirmware, keys, keysDE},
		{"root", (*box).switchRoot, image, imageDE},
		{"enrol", (*box).enrol, keys, keysDE},
		{"disk", (*box).findDisk, disk, diskDE},
		{"volume", (*box).openVolume, disk, diskDE},
		{"latch", (*box).closeLatch, keys, keysDE},
		{"var", (*box).mountVar, disk, diskDE},
		{"seed", (*box).readSeed, disk, diskDE},
		{"esp", (*box).mountESP, disk, diskDE},
		{"services", (*box).prepareServices, disk, diskDE},
		{"drivers", (*box).awaitModules, image, imageDE},
		{"handover", (*box).handOver, image, imageDE},
	}
}

// Run boots the box. It ends in systemd, or in a reboot; it returns only when
// the reboot fails, and at once if it does not run as the first process.
func Run(ctx context.Context) error {
	if os.Getpid() != 1 {
		return errors.New("this is not the first process; init is started by the kernel only")
	}
	b := &box{console: os.Stdout, watchdog: &watchdog{}}
	for _, s := range steps() {
		b.watchdog.tick()
		if err := b.guarded(ctx, s); err != nil {
			b.fail(s, err)
			return reboot()
		}
		b.report.Steps = append(b.report.Steps, report.Step{Name: s.name, At: uptime()})
	}
	return errors.New("nothing left to do, and systemd does not run")
}

// guarded runs one step and turns a panic into an error.
func (b *box) guarded(ctx context.Context, s step) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return s.run(b, ctx)
}

// fail says what went wrong and lets people read it.
func (b *box) fail(s step, err error) {
	b.mark("boot.failed", "step", s.name, "why", err)
	fmt.Fprintf(b.console, "\nThe boot failed in step %q: %v\n%s\nRestart in %v.\n"+
		"\nDer Start ist im Schritt %q gescheitert: %v\n%s\nNeustart in %v.\n\n",
		s.name, err, s.english, failureWait, s.name, err, s.german, failureWait)
	time.Sleep(failureWait)
}

// reboot restarts the machine. It returns only if that fails.
func reboot() error {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}

// mark prints a milestone.
func (b *box) mark(name string, kv ...any) { milestone.Print(b.console, name, kv...) }

// uptime is the seconds since kernel start, in hundredths.
func uptime() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return float64(ts.Nano()/1e7) / 100
}

// await asks ready again and again until it says so, or at most for limit. It
// reports whether ready was seen.
func await(ctx context.Context, limit time.Duration, ready func() bool) bool {
	const pause = 50 * time.Millisecond
	end := time.Now().Add(limit)
	for {
		if ready() {
			return true
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return false
		}
		time.Sleep(pause)
	}
}
