package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/button"
	"gitlab.opencode.de/pforte/pforte/appliance/update"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// stateDir is updated's folder on the data volume.
const stateDir = layout.StateDir + "/updated"

// shortestGate keeps -gate from failing every release.
const shortestGate = 20 * time.Second

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("updated", flag.ContinueOnError)
	gate := flags.Duration("gate", update.DefaultGateLimit, "`time` in which a release on trial must be healthy, at most the default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; updated takes flags only", flags.Arg(0))
	}
	if *gate < shortestGate || *gate > update.DefaultGateLimit {
		return fmt.Errorf("-gate %s: allowed are %s to %s", *gate, shortestGate, update.DefaultGateLimit)
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
	boot, err := bootReport()
	if err != nil {
		return err
	}
	b, err := assemble(boot, *gate)
	if err != nil {
		return err
	}
	defer func() { _ = b.audit.Close() }()
	return service.Run(ctx,
		func(ctx context.Context) error { return b.daemon.Run(ctx, listener) },
		b.monitor.Run,
		func(ctx context.Context) error {
			return button.Watch(ctx, button.Dir, b.log, func() {
				if err := b.daemon.PowerButton(ctx); err != nil {
					b.log.Error("the power button had no effect", "error", err)
				}
			})
		},
	)
}

func bootReport() (report.Report, error) {
	data, err := os.ReadFile(layout.BootReport)
	if err != nil {
		return report.Report{}, fmt.Errorf("boot report: %w", err)
	}
	return report.Parse(data)
}

// trust reads what the image brings: the owner's key, and the roots of the two
// repositories.
type trust struct{ vendor, owner []byte }

func readTrust() (t trust, err error) {
	var faults [2]error
	t.vendor, faults[0] = os.ReadFile(layout.VendorRoot)
	t.owner, faults[1] = os.ReadFile(layout.OwnerRoot)
	return t, errors.Join(faults[:]...)
}

// configured reports whether the relay has a configuration to run with.
func configured(boot report.Report) func() bool {
	return func() bool {
		_, err := os.Stat(layout.ConfigFile)
		return boot.Locked == nil && err == nil
	}
}

// documents is the configuration of the box.
func documents(boot report.Report) (*update.Documents, error) {
	owner, err := config.LoadOwnerKey(layout.OwnerKey)
	if err != nil {
		return nil, err
	}
	return update.NewDocuments(owner, boot.Locked != nil), nil
}

func inState(name string) string { return filepath.Join(stateDir, name) }
