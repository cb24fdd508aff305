package update

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// answerDelay is how long a deed that ends the caller's connection (a restart of
// apid, a shutdown) waits after the answer, so that the answer gets through.
const answerDelay = time.Second

// Store keeps the accepted configuration: *config.Store.
type Store interface {
	Put(envelope []byte) (*config.Document, error)
	Current() (*config.Document, error)
}

// Power ends the running system: appliance/systemd.
type Power interface {
	Reboot(ctx context.Context) error
	PowerOff(ctx context.Context) error
}

// Record takes what was done: *audit.Log.
type Record interface {
	Append(audit.Event) error
}

// Daemon is updated: the control socket in front of the Manager, the
// configuration and the power switch.
type Daemon struct {
	Manager *Manager
	Store   Store
	Power   Power
	Audit   Record
	Log     *slog.Logger
	Out     io.Writer // milestones
	// PeerOf says who made a connection; nil means the kernel. For tests.
	PeerOf func(net.Conn) (localapi.Peer, error)

	work chan func(ctx context.Context) // what goes on after its answer
}

// maxWork bounds what waits to be done after its answer.
const maxWork = 4

// Run answers calls on the listener until ctx ends.
func (d *Daemon) Run(ctx context.Context, listener net.Listener) error {
	d.work = make(chan func(context.Context), maxWork)
	server, err := localapi.NewServer(d.methods(), localapi.Options{Codes: control.Codes(), Log: d.Log, PeerOf: d.PeerOf})
	if err != nil {
		return err
	}
	return service.Run(ctx,
		func(ctx context.Context) error { return server.Run(ctx, listener) },
		d.worker,
		func(ctx context.Context) error {
			if err := d.Manager.Start(ctx); err != nil {
				d.Log.Error("the boot could not be judged", "error", err)
			}
			return nil
		},
		service.Watchdog(d.alive),
		func(context.Context) error { return service.Ready("answering") },
	)
}

// alive proves to systemd that no lock is held for ever.
func (d *Daemon) alive(context.Context) error {
	d.Manager.snapshot()
	return nil
}

// worker does what was put off until its answer was given, one thing at a time.
func (d *Daemon) worker(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-d.work:
			f(ctx)
		}
	}
}

// later puts off f; it fails when too much waits already.
func (d *Daemon) later(f func(ctx context.Context)) error {
	select {
	case d.work <- f:
		return nil
	default:
		return localapi.ErrBusy
	}
}

func (d *Daemon) methods() []localapi.Method {
	allowed := []localapi.Caller{localapi.UID(0), localapi.UID(layout.UIDApid)}
	return []localapi.Method{
		{Name: control.MethodStatus, Allow: allowed, Handler: localapi.Typed(d.status)},
		{Name: control.MethodConfig, Allow: allowed, MaxBody: control.MaxEnvelope, Handler: localapi.Typed(d.putConfig)},
		{Name: control.MethodPower, Allow: allowed, Handler: localapi.Typed(d.power)},
	}
}

func (d *Daemon) status(context.Context, localapi.Peer, localapi.None) (control.Status, error) {
	out := d.Manager.Status()
	if doc, err := d.Store.Current(); err == nil {
		out.Serial, out.Box = doc.Serial, doc.Box
	}
	return out, nil
}

// audited records that actor asked for a deed, does it, and records what came
// of it. What cannot be recorded is not done.
func (d *Daemon) audited(action, actor string, detail map[string]string, deed func() error) error {
	event := audit.Event{Action: action, Actor: actor, Outcome: "asked", Detail: detail}
	if err := d.Audit.Append(event); err != nil {
		return fmt.Errorf("%s is not done because it cannot be recorded: %w", action, err)
	}
	fault := deed()
	event.Outcome = "done"
	if fault != nil {
		event.Outcome = "failed"
		if errors.Is(fault, control.ErrRefused) {
			event.Outcome = "refused"
		}
	}
	if err := d.Audit.Append(event); err != nil {
		d.Log.Error("the outcome is not in the audit record", "action", action, "outcome", event.Outcome, "error", err)
	}
	return fault
}

func (d *Daemon) putConfig(_ context.Context, _ localapi.Peer, in control.ConfigPut) (control.ConfigTaken, error) {
	var out control.ConfigTaken
	err := d.audited("config.put", in.Actor, nil, func() error {
		if d.Manager.Boot.Locked != nil {
			return localapi.WithRemedy(fmt.Errorf("%w: the box is locked and keeps nothing", control.ErrRefused), "unlock it first")
		}
		doc, err := d.Store.Put(in.Envelope)
		if err != nil {
			return err
		}
		out.Serial, out.Box = doc.Serial, doc.Box
		return nil
	})
	var faults config.Faults
	if errors.As(err, &faults) {
		out.Faults = faults
		return out, nil
	}
	return out, err
}

func (d *Daemon) power(_ context.Context, _ localapi.Peer, in control.Power) (localapi.None, error) {
	end := d.Power.PowerOff
	switch in.Do {
	case "off":
	case "reboot":
		end = d.Power.Reboot
	default:
		return localapi.None{}, fmt.Errorf("%w: power %q; ask for \"off\" or \"reboot\"", localapi.ErrBadRequest, in.Do)
	}
	return localapi.None{}, d.audited("power."+in.Do, in.Actor, nil, func() error {
		return d.later(func(ctx context.Context) {
			sleep(ctx, answerDelay)
			if err := end(ctx); err != nil {
				d.Log.Error("the system could not be ended", "do", in.Do, "error", err)
			}
		})
	})
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
