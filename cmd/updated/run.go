package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/u-root/u-root/pkg/efivarfs"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/systemd"
	"gitlab.opencode.de/pforte/pforte/appliance/update"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

const (
	stateDir = layout.StateDir + "/updated"
	sysBlock = "/sys/class/block"
)

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("updated", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; updated takes flags only", flags.Arg(0))
	}
	sockets, err := service.Sockets()
	if err != nil {
		return err
	}
	defer sockets.Close()
	listener, err := sockets.One("updated")
	if err != nil {
		return err
	}
	d, err := assemble()
	if err != nil {
		return err
	}
	return d.Run(ctx, listener)
}

// assemble gives the daemon the parts of this box.
func assemble() (*update.Daemon, error) {
	data, err := os.ReadFile(layout.BootReport)
	if err != nil {
		return nil, fmt.Errorf("boot report: %w", err)
	}
	boot, err := report.Parse(data)
	if err != nil {
		return nil, err
	}
	owner, err := config.LoadOwnerKey(layout.OwnerKey)
	if err != nil {
		return nil, err
	}
	record, err := audit.Open(filepath.Join(stateDir, "audit"))
	if err != nil {
		return nil, err
	}
	log := service.NewLogger(os.Stderr)
	entries := bootEntries(boot.ESP, log)
	store := config.NewStore(layout.ConfigDir, owner)
	return &update.Daemon{
		Manager: &update.Manager{
			Disk: slot.Disk{Root: layout.ESPMount}, Firmware: entries, Boot: boot,
			Gate:   func(context.Context) error { return errors.New("no health gate yet") },
			Reboot: systemd.Manager{}.Reboot,
			Judged: func() error { return os.WriteFile(layout.BlessedMark, nil, 0o644) },
			BoxName: func() string {
				doc, err := store.Current()
				if err != nil {
					return ""
				}
				return doc.Box
			},
			StateFile: filepath.Join(stateDir, "state.json"), Milestones: os.Stdout, Log: log,
		},
		Store: store, Power: systemd.Manager{}, Audit: record, Log: log, Out: os.Stdout,
	}, nil
}

// bootEntries finds where the slots lie in the firmware's terms. What is not
// there (variables, the partition) makes each use of the entries fail, not the
// daemon.
func bootEntries(esp string, log *slog.Logger) slot.Entries {
	vars, err := efivarfs.New()
	if err != nil {
		log.Error("no UEFI variables; updates will fail", "error", err)
		return slot.Entries{Vars: noVars{err}}
	}
	e := slot.Entries{Vars: vars}
	boot, err := firmware.ThisBoot(vars)
	if err == nil {
		e.ESP, err = slot.Locate(sysBlock, filepath.Base(esp), boot.Partition)
	}
	if err != nil {
		log.Error("the boot entries cannot be written; updates will fail", "error", err)
	}
	return e
}

// noVars is firmware without variables.
type noVars struct{ why error }

func (n noVars) Get(efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error) {
	return 0, nil, errors.Join(fs.ErrNotExist, n.why)
}

func (n noVars) Set(efivarfs.VariableDescriptor, efivarfs.VariableAttributes, []byte) error {
	return n.why
}
