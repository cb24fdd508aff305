package update

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/release"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

const (
	// answerDelay is how long a deed that ends the caller's connection (a restart of
	// apid, a shutdown) waits after the answer, so that the answer gets through.
	answerDelay = time.Second
	// applyTries bounds how often a configuration is applied that does not go through,
	// applyPause is the time in between.
	applyTries = 3
	applyPause = 10 * time.Second
	// listTimeout bounds a question that reads both repositories.
	listTimeout = 90 * time.Second
)

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
// configuration and the power switch. Its fields are set once.
type Daemon struct {
	Manager *Manager
	Applier *Applier
	Store   Store
	Power   Power
	Audit   Record
	// Health is asked for the status, nil means that nothing is known.
	Health func() []control.Condition
	Log    *slog.Logger
	// PeerOf says who made a connection; nil means the kernel. For tests.
	PeerOf func(net.Conn) (localapi.Peer, error)

	// What goes on after its answer, one of each at a time: a further one is refused
	// (installs and power) or joined to the one that waits (apply).
	installs chan installation
	powers   chan func(ctx context.Context) error
	applies  chan struct{}

	putting sync.Mutex // one Put at a time

	mu      sync.Mutex
	applied error // why the configuration in force is not applied
}

// installation is a chosen release and who asked for it.
type installation struct {
	release release.Release
	actor   string
}

// Run answers calls on the listener until ctx ends.
func (d *Daemon) Run(ctx context.Context, listener net.Listener) error {
	d.installs, d.powers, d.applies = make(chan installation, 1), make(chan func(context.Context) error, 1), make(chan struct{}, 1)
	d.Manager.Verdict = d.verdict
	server, err := localapi.NewServer(d.methods(), localapi.Options{Codes: control.Codes(), Log: d.Log, PeerOf: d.PeerOf})
	if err != nil {
		return err
	}
	return service.Run(ctx,
		func(ctx context.Context) error { return server.Run(ctx, listener) },
		d.judge, d.install, d.apply, d.end,
		service.Watchdog(d.alive),
		func(context.Context) error { return service.Ready("answering") },
	)
}

// alive proves to systemd that no lock is held for ever.
func (d *Daemon) alive(context.Context) error {
	d.Manager.snapshot()
	d.conditions()
	return nil
}

// judge lets the Manager judge this boot.
func (d *Daemon) judge(ctx context.Context) error {
	if err := d.Manager.Start(ctx); err != nil && ctx.Err() == nil {
		d.Log.Error("this boot was not brought to its end; no update is possible", "error", err)
	}
	return nil
}

// verdict records how a trial ended.
func (d *Daemon) verdict(o Outcome) {
	event := audit.Event{Action: "update.verdict", Actor: "box", Outcome: "done", Detail: map[string]string{"version": o.Release}}
	if !o.Blessed {
		event.Outcome, event.Detail["why"] = "failed", o.Why
	}
	d.record(event)
}

// install carries out what Begin chose.
func (d *Daemon) install(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case i := <-d.installs:
			event := audit.Event{Action: "update.install", Actor: i.actor, Outcome: "done", Detail: map[string]string{"version": i.release.Version}}
			if err := d.Manager.Install(ctx, i.release); err != nil {
				d.Log.Error("update not installed", "version", i.release.Version, "error", err)
				event.Outcome, event.Detail["why"] = "failed", short(err)
			}
			d.record(event)
		}
	}
}

// end powers off or reboots, a moment after the answer.
func (d *Daemon) end(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-d.powers:
			sleep(ctx, answerDelay)
			if err := f(ctx); err != nil {
				d.Log.Error("the system could not be ended", "error", err)
			}
		}
	}
}

// apply brings each accepted configuration to the services, a moment after the
// answer. One that a crash of this daemon interrupted is taken up first.
func (d *Daemon) apply(ctx context.Context) error {
	everything := d.Applier.Left()
	if everything {
		d.wake()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.applies:
			sleep(ctx, answerDelay)
			d.applyCurrent(ctx, everything)
			everything = false
		}
	}
}

// wake has the configuration applied. One that waits already will find the newest.
func (d *Daemon) wake() {
	select {
	case d.applies <- struct{}{}:
	default:
	}
}

func (d *Daemon) applyCurrent(ctx context.Context, everything bool) {
	var err error
	for try := range applyTries {
		if try > 0 {
			sleep(ctx, applyPause)
		}
		var doc *config.Document
		if doc, err = d.Store.Current(); err == nil {
			err = d.Applier.Apply(ctx, doc, everything || try > 0)
		}
		if err == nil || ctx.Err() != nil {
			break
		}
		d.Log.Error("configuration not applied", "try", try+1, "error", err)
	}
	if err != nil && ctx.Err() != nil {
		return // the note stays
	}
	d.mu.Lock()
	d.applied = err
	d.mu.Unlock()
	d.putting.Lock()
	defer d.putting.Unlock()
	if len(d.applies) == 0 {
		if err := d.Applier.Done(); err != nil {
			d.Log.Error("configuration", "error", err)
		}
	}
}

// record writes what was done; the deed is past refusing.
func (d *Daemon) record(e audit.Event) {
	if err := d.Audit.Append(e); err != nil {
		d.Log.Error("not in the audit record", "action", e.Action, "actor", e.Actor, "outcome", e.Outcome, "error", err)
	}
}

// maxDetail bounds an error's text in the audit record, in bytes.
const maxDetail = 1 << 10

func short(err error) string {
	text := err.Error()
	if len(text) > maxDetail {
		text = fmt.Sprintf("%.*s…", maxDetail, text)
	}
	return text
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
