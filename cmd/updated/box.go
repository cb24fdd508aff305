package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/u-root/u-root/pkg/efivarfs"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/health"
	"gitlab.opencode.de/pforte/pforte/appliance/systemd"
	"gitlab.opencode.de/pforte/pforte/appliance/update"
	"gitlab.opencode.de/pforte/pforte/appliance/update/repository"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

const (
	sysBlock     = "/sys/class/block"
	methodReload = "POST /v1/reload" // netd's and relayd's
	markPerm     = 0o644
)

// box is the daemon with its parts.
type box struct {
	daemon  *update.Daemon
	monitor *health.Monitor
	audit   *audit.Log
	log     *slog.Logger
}

// assemble puts the parts of this box together.
func assemble(boot report.Report, gate time.Duration) (*box, error) {
	b := &box{log: service.NewLogger(os.Stderr)}
	docs, err := documents(boot)
	if err != nil {
		return nil, err
	}
	roots, err := readTrust()
	if err != nil {
		return nil, err
	}
	if b.audit, err = audit.Open(inState("audit")); err != nil {
		return nil, err
	}
	netd, relayd := localapi.Dial(layout.NetdSocket), localapi.Dial(layout.RelaydSocket)
	b.monitor = monitor(boot, netd, relayd)
	manager := &update.Manager{
		Disk:      slot.Disk{Root: layout.ESPMount},
		Firmware:  bootEntries(boot.ESP, b.log),
		Releases:  repository.New(docs.Updates, roots.vendor, roots.owner, inState("tuf")),
		Gate:      b.monitor.Wait,
		GateLimit: gate,
		Reboot:    systemd.Manager{}.Reboot,
		Judged:    func() error { return os.WriteFile(layout.BlessedMark, nil, markPerm) },
		Boot:      boot,
		BoxName:   docs.Box,
		StateFile: inState("state.json"), Milestones: os.Stdout, Log: b.log,
	}
	b.daemon = &update.Daemon{
		Manager: manager,
		Applier: &update.Applier{
			Services: systemd.Manager{},
			Network:  untilNetdManages(reload(netd, "netd.service"), b.log),
			Relay:    reload(relayd, "relayd.service"),
			Dir:      layout.SystemdRunDir,
			Pending:  filepath.Join(layout.RunDir, "config-pending"),
			Log:      b.log, Milestones: os.Stdout,
		},
		Store: docs, Power: systemd.Manager{}, Audit: b.audit, Health: b.monitor.Conditions, Log: b.log,
	}
	return b, nil
}

// monitor looks at the parts of the box that the boot brought up. A locked box
// runs no relay.
func monitor(boot report.Report, netd, relayd *localapi.Client) *health.Monitor {
	keyd, mail := keyclient.NewControl(layout.KeydControlSocket), configured(boot)
	return health.New(os.Stdout,
		health.Boot(boot),
		health.Storage(stateDir),
		health.Services(systemd.Manager{}, mail, "netd.service", "keyd.service", "apid.service"),
		health.Keys(keyd),
		health.Network(netd),
		health.Relay(relayd, keyd, mail),
	)
}

// reload makes a service read the configuration anew, or restarts it if it does
// not answer.
func reload(client *localapi.Client, unit string) func(context.Context) error {
	return func(ctx context.Context) error {
		err := client.Call(ctx, methodReload, nil, nil)
		if errors.Is(err, localapi.ErrUnavailable) || errors.Is(err, localapi.ErrUnknownMethod) {
			return systemd.Manager{}.Restart(ctx, unit)
		}
		return err
	}
}

// untilNetdManages lets a network that netd cannot set up yet pass: it tries
// again by itself, and the health tells of it.
func untilNetdManages(reload func(context.Context) error, log *slog.Logger) func(context.Context) error {
	return func(ctx context.Context) error {
		err := reload(ctx)
		if told := (*localapi.Error)(nil); errors.As(err, &told) {
			log.Warn("netd has not set up the network yet", "error", err)
			return nil
		}
		return err
	}
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
