package boot

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// systemdPath is what takes over.
const systemdPath = "/usr/lib/systemd/systemd"

// mountESP mounts the EFI system partition for updated. Everything is written at
// once and in order, so that a power cut never leaves a file that names clusters
// which are not its own (appliance/update/slot relies on it). Without the
// partition the box runs, but cannot be updated; the report says so.
func (b *box) mountESP(context.Context) error {
	if b.disk == nil {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_NOATIME
	err := mount(mountPoint{b.disk.esp.path, layout.ESPMount, "vfat", flags, "umask=0077,errors=remount-ro"})
	if err != nil {
		b.report.ESP = ""
		fmt.Fprintf(b.console, "The EFI system partition cannot be mounted; updates will fail: %v\n"+
			"Die EFI-Systempartition lässt sich nicht einhängen; Updates werden scheitern: %v\n", err, err)
	}
	return nil
}

// handOver leaves the report for the services and becomes systemd, with an
// empty environment. It returns only on error.
func (b *box) handOver(context.Context) error {
	b.report.Uptime = uptime()
	if err := b.writeReport(); err != nil {
		return err
	}
	b.mark("boot.handover", "uptime", b.report.Uptime)
	b.watchdog.release()
	err := unix.Exec(systemdPath, []string{systemdPath}, nil)
	return fmt.Errorf("start %s: %w", systemdPath, err)
}

// writeReport writes the report and the marks that other units test for.
func (b *box) writeReport() error {
	data, err := b.report.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(layout.BootReport, data, 0o644); err != nil {
		return err
	}
	for path, there := range map[string]bool{
		layout.LockedMark: b.report.Locked != nil,
		layout.TrialMark:  b.report.Trial,
	} {
		if !there {
			continue
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}
