package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/units"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

// jobLimit bounds one job of systemd while a configuration is applied; stopping the
// relay takes longest.
const jobLimit = 60 * time.Second

// Services is the service manager: appliance/systemd.
type Services interface {
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	Reload(ctx context.Context) error
}

// Applier makes the running services follow the configuration.
//
// systemd holds the listening sockets (appliance/units). A socket unit cannot be
// started anew while its service runs, and while any socket of a service listens,
// a caller may start the service at any moment. So, for a service whose addresses
// changed: its sockets are stopped, the local one included, then the service; the
// units are written and read by systemd; the network follows; then the sockets are
// started, then the service. A service whose addresses stay keeps its sockets, so
// that nobody finds a closed port: the relay reads the configuration anew, apid is
// restarted.
//
// What fails does not keep the rest from coming up again; Apply reports all of it.
type Applier struct {
	Services Services
	// Network and Relay make netd and relayd read the configuration anew.
	Network func(ctx context.Context) error
	Relay   func(ctx context.Context) error
	Dir     string // of the socket units: layout.SystemdRunDir
	// Pending is a mark in /run: a configuration is accepted and not applied yet. It
	// survives a crash of the daemon, and a reboot needs none.
	Pending    string
	Log        *slog.Logger
	Milestones io.Writer
}

// part is a service with sockets of its own in the configuration.
type part struct {
	service string
	local   string // its socket for other services of the box
	renew   func(ctx context.Context) error

	old, fresh []string // dynamic sockets
	rebind     bool
}

// Announce notes that a configuration is about to be accepted.
func (a *Applier) Announce() error {
	if err := os.WriteFile(a.Pending, nil, 0o600); err != nil {
		return fmt.Errorf("note a pending configuration: %w", err)
	}
	return nil
}

// Left reports whether an accepted configuration was not applied.
func (a *Applier) Left() bool {
	_, err := os.Stat(a.Pending)
	return err == nil
}

// Done removes the note.
func (a *Applier) Done() error {
	if err := os.Remove(a.Pending); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("a configuration stays noted as pending: %w", err)
	}
	return nil
}

// Apply makes the services follow doc. If everything is set, nothing is taken for
// granted: every socket is made anew, as after an Apply that did not end.
func (a *Applier) Apply(ctx context.Context, doc *config.Document, everything bool) error {
	parts, err := a.plan(doc, everything)
	if err != nil {
		return err
	}
	var faults []error
	try := func(f func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, jobLimit)
		defer cancel()
		faults = append(faults, f(ctx))
	}
	start := func(unit string) {
		try(func(ctx context.Context) error { return a.Services.Start(ctx, unit) })
	}
	stop := func(unit string) { try(func(ctx context.Context) error { return a.Services.Stop(ctx, unit) }) }
	rebind := slices.ContainsFunc(parts, func(p part) bool { return p.rebind })
	for _, p := range parts {
		if p.rebind {
			for _, unit := range slices.Concat(p.old, []string{p.local, p.service}) {
				stop(unit)
			}
		}
	}
	if rebind {
		faults = append(faults, units.WriteSockets(a.Dir, doc))
		try(a.Services.Reload)
	}
	try(a.Network)
	for _, p := range parts {
		if !p.rebind {
			try(p.renew)
			continue
		}
		for _, unit := range slices.Concat([]string{p.local}, p.fresh, []string{p.service}) {
			start(unit)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("apply configuration %d: %w", doc.Serial, err)
	}
	milestone.Print(a.Milestones, "updated.applied", "serial", doc.Serial, "rebound", rebind)
	return nil
}

// plan compares the socket units that are there with those that doc asks for.
// apid comes last: the caller of a change is most often connected through it.
func (a *Applier) plan(doc *config.Document, everything bool) ([]part, error) {
	have, err := units.ReadSockets(a.Dir)
	if err != nil {
		return nil, err
	}
	want, _ := units.Sockets(doc)
	parts := []part{
		{service: "relayd.service", local: "relayd.socket", renew: a.Relay},
		{service: "apid.service", local: "apid.socket", renew: func(ctx context.Context) error {
			return a.Services.Restart(ctx, "apid.service")
		}},
	}
	for name, service := range units.DynamicSockets() {
		i := slices.IndexFunc(parts, func(p part) bool { return p.service == service })
		if i < 0 {
			return nil, fmt.Errorf("apply configuration: nobody restarts %s", service)
		}
		p := &parts[i]
		if _, there := have[name]; there || everything {
			p.old = append(p.old, name)
		}
		if _, wanted := want[name]; wanted {
			p.fresh = append(p.fresh, name)
		}
		p.rebind = p.rebind || everything || !bytes.Equal(have[name], want[name])
	}
	for i := range parts {
		slices.Sort(parts[i].old)
		slices.Sort(parts[i].fresh)
	}
	return parts, nil
}
