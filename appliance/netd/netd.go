// Package netd is the service that keeps the box's network as the configuration
// says: packet filter first (package firewall), then links, addresses, routes
// and name servers (package netconf).
//
// # Promises
//
//   - The filter comes before the links: if it cannot be set, no link is touched.
//   - Without a configuration, or with one that does not verify at start, the box
//     drops everything and only its loopback is up.
//   - A configuration that cannot be read later changes nothing; the fault is
//     reported and what was in force stays.
//   - Whatever else changes the network is undone: on each event of the kernel,
//     gathered for a moment, and once a minute in any case, which also covers the
//     filter. Passes are bounded in time and never follow each other faster than
//     once a second.
//   - What cannot be set right (a missing card, no link signal, a duplicate
//     address) is a fault with a remedy: as a milestone, in the log, in the status.
//
// The configuration is read at start, at SIGHUP, and when asked at the socket;
// its signature is verified each time with the owner's key that the image
// carries. In a locked box it is the one that init verified and left in memory.
//
// # Socket
//
// layout.NetdSocket, see package localapi: "GET /v1/status" gives a
// manage.Network, "POST /v1/reload" reads the configuration anew, applies it and
// gives the same; the error says what could not be done.
//
// # Milestones
//
//	netd.up interfaces=N serial=S     N interfaces with a role are up with all their addresses
//	netd.up interfaces=0 why=no-configuration
//	netd.fault link=L text=T          each fault once, when it appears
package netd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/firewall"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// Times of the service.
const (
	passTimeout = 20 * time.Second       // for one pass; the watchdog waits longer
	gather      = 300 * time.Millisecond // for further events after the first
	minGap      = time.Second            // between passes
	retryGap    = 5 * time.Second        // after a pass that failed
	routine     = time.Minute            // between passes without any event
	grace       = 15 * time.Second       // for faults that may pass by themselves
)

// Network is the kernel's network; *netconf.Kernel is one.
type Network interface {
	Converge(ctx context.Context, cfg config.Network) (netconf.State, int, error)
}

// Options are what a Daemon works with. All but Control and Reload are required.
type Options struct {
	// Load gives the configuration; nil without an error means that there is none.
	Load    func() (*config.Document, error)
	Network Network
	// Filter replaces the packet filter and reports whether it changed; it is
	// firewall.Apply.
	Filter func(ctx context.Context, r firewall.Ruleset) (bool, error)
	// Watch calls notify at each event of the network until ctx ends; it is
	// netconf.Watch.
	Watch      func(ctx context.Context, notify func()) error
	Resolver   string // path of the list of name servers
	Control    net.Listener
	Reload     <-chan os.Signal
	Log        *slog.Logger
	Milestones io.Writer
}

// Daemon keeps the network. Make one with New.
type Daemon struct {
	o      Options
	events chan struct{}
	asks   chan chan error // reloads over the socket; the answer is the pass's fault

	begun atomic.Int64 // of the running pass, Unix nanoseconds; 0: none runs

	mu     sync.Mutex
	status manage.Network

	// Only the loop uses what follows.
	doc      *config.Document
	loadErr  error
	pending  map[netconf.Problem]time.Time // when each problem was first seen
	reported map[netconf.Problem]bool
	lastUp   string
}

// New makes a Daemon; Run starts it.
func New(o Options) *Daemon {
	return &Daemon{
		o:        o,
		events:   make(chan struct{}, 1),
		asks:     make(chan chan error),
		pending:  map[netconf.Problem]time.Time{},
		reported: map[netconf.Problem]bool{},
	}
}

// Run keeps the network until ctx ends. What is set then stays set.
func (d *Daemon) Run(ctx context.Context) error {
	tasks := []service.Task{
		d.loop,
		func(ctx context.Context) error { return d.o.Watch(ctx, d.notify) },
	}
	if d.o.Control != nil {
		server, err := localapi.NewServer(d.methods(), localapi.Options{Log: d.o.Log})
		if err != nil {
			return err
		}
		tasks = append(tasks, func(ctx context.Context) error { return server.Run(ctx, d.o.Control) })
	}
	return service.Run(ctx, tasks...)
}

// Healthy fails if a pass hangs.
func (d *Daemon) Healthy(context.Context) error {
	begun := d.begun.Load()
	if begun == 0 {
		return nil
	}
	if age := time.Since(time.Unix(0, begun)); age > passTimeout+gather {
		return fmt.Errorf("network: a pass has been running for %v", age.Round(time.Second))
	}
	return nil
}

// notify remembers that something happened.
func (d *Daemon) notify() {
	select {
	case d.events <- struct{}{}:
	default:
	}
}

func (d *Daemon) methods() []localapi.Method {
	who := []localapi.Caller{localapi.UID(layout.UIDApid), localapi.UID(layout.UIDUpdated)}
	return []localapi.Method{
		{Name: "GET /v1/status", Allow: who, Handler: localapi.Typed(func(context.Context, localapi.Peer, localapi.None) (manage.Network, error) {
			return d.Status(), nil
		})},
		{Name: "POST /v1/reload", Allow: who, Timeout: 2 * passTimeout, Handler: localapi.Typed(func(ctx context.Context, _ localapi.Peer, _ localapi.None) (manage.Network, error) {
			return d.reload(ctx)
		})},
	}
}

// reload asks the loop for a pass with a configuration read anew.
func (d *Daemon) reload(ctx context.Context) (manage.Network, error) {
	answer := make(chan error, 1)
	select {
	case d.asks <- answer:
	case <-ctx.Done():
		return manage.Network{}, ctx.Err()
	}
	select {
	case err := <-answer:
		return d.Status(), err
	case <-ctx.Done():
		return manage.Network{}, ctx.Err()
	}
}

// Status tells how the network is.
func (d *Daemon) Status() manage.Network {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.status
}

// Source says where the configuration is found.
type Source struct {
	LockedMark   string // exists in a locked box
	LockedConfig string // the envelope that init verified in a locked box
	ConfigDir    string // the store of config.Store
	OwnerKey     string // PEM
}

// DefaultSource is that of the box.
func DefaultSource() Source {
	return Source{layout.LockedMark, layout.LockedConfig, layout.ConfigDir, layout.OwnerKey}
}

// Load gives the configuration in force, verified; nil if there is none.
func (s Source) Load() (*config.Document, error) {
	key, err := config.LoadOwnerKey(s.OwnerKey)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.LockedMark); err == nil {
		doc, err := config.OpenFile(s.LockedConfig, key)
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return doc, err
	}
	doc, err := config.NewStore(s.ConfigDir, key).Current()
	if errors.Is(err, config.ErrNone) {
		return nil, nil
	}
	return doc, err
}
