// Package daemon puts the relay together for the box: configuration, queue,
// certificates, listeners, connector and control, and what happens in which order
// when it starts, changes and stops. cmd/relayd is a thin shell around it.
//
// Start: configuration (all of it, or not at all) → queue opened and recovered →
// delivery → certificates awaited → listeners served. Without certificates no
// connection is accepted, and the status says why.
//
// Change: Reload reads the configuration anew and replaces the snapshot and the
// connector; sessions see it at their next MAIL, deliveries at their next attempt.
// A configuration that cannot be read leaves everything as it is.
//
// Stop: listeners closed and sessions told 421 → attempts ended → queue closed,
// each step within a bound.
//
// A sick queue ends the process with an error: only opening the queue anew tells
// what is on disk. Until then connections get 421.
package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Options make a Daemon. Fields that are not marked optional are required.
type Options struct {
	Config func() (*config.Document, error) // the accepted configuration of now
	Dir    string                           // state folder, must exist
	// ServerCertificate is shown on all listeners, ClientCertificate to the
	// provider. Both are asked for again and again.
	ServerCertificate func() (*tls.Certificate, error)
	ClientCertificate func() (*tls.Certificate, error)

	StartTLS []net.Listener    // port 25, tenants
	Implicit []net.Listener    // port 465, tenants
	Provider []net.Listener    // port 1465
	Control  net.Listener      // optional: control socket (MethodStatus and others)
	Callers  []localapi.Caller // optional: who may use it; apid and updated
	Reload   <-chan os.Signal
	Ready    func(status string) error // told once the process has started
	Status   func(status string)       // told of every change

	Log   *slog.Logger
	Marks io.Writer

	FS       vfs.FS         // optional: of the queue; the operating system's
	Schedule queue.Schedule // optional
	NextHop  nexthop.Limits // optional
	Guard    smtpguard.Limits
}

// Bounds of the daemon. systemd's TimeoutStopSec must be longer than their sum.
const (
	sessionGrace = 8 * time.Second // for sessions, when it stops
	certPoll     = time.Second     // between questions for certificates
	traceAge     = 90 * 24 * time.Hour
	expireEvery  = 24 * time.Hour
)

// Daemon is a relay in the making, running or ended.
type Daemon struct {
	o     Options
	live  *tenants.Live
	queue *queue.Queue
	relay *relay.Relay

	mu         sync.Mutex
	connection *connection
	waiting    error // why no mail is accepted yet; nil: it is
	started    time.Time
	servers    []*smtpguard.Server
	host       string
	hostOf     *x509.Certificate
}

// New reads the configuration and opens the queue.
func New(o Options) (*Daemon, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Callers == nil {
		o.Callers = []localapi.Caller{localapi.UID(layout.UIDApid), localapi.UID(layout.UIDUpdated)}
	}
	d := &Daemon{o: o, started: time.Now(), waiting: errors.New("starting")}
	snap, err := d.snapshot()
	if err != nil {
		return nil, err
	}
	d.live = tenants.NewLive(snap)
	if err := durable.Sweep(o.Dir); err != nil {
		return nil, fmt.Errorf("relayd: %w", err)
	}
	if d.queue, err = queue.Open(o.FS, filepath.Join(o.Dir, "queue"), queue.Options{Logger: o.Log}); err != nil {
		return nil, fmt.Errorf("relayd: open queue: %w", err)
	}
	rec := d.queue.Recovery()
	o.Log.Info("queue is open", "temporary", rec.Temporary, "orphans", rec.Orphans, "uncertain", rec.Uncertain, "quarantined", rec.Quarantined)
	d.connection = d.connect(snap)
	d.relay = relay.New(relay.Options{Queue: d.queue, Tenants: d.live, Connection: d.current, Hostname: d.hostname,
		Log: o.Log, Marks: o.Marks, Schedule: o.Schedule, Limits: o.NextHop})
	return d, nil
}

func (d *Daemon) snapshot() (*tenants.Snapshot, error) {
	doc, err := d.o.Config()
	if err != nil {
		return nil, fmt.Errorf("relayd: read configuration: %w", err)
	}
	snap, err := tenants.New(doc)
	if err != nil {
		return nil, fmt.Errorf("relayd: configuration: %w", err)
	}
	return snap, nil
}

// Run works until ctx ends or the queue falls sick, and closes the queue.
func (d *Daemon) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, d.queue.Close()) }()
	if err := d.o.Ready("waiting for certificates"); err != nil {
		return err
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	fatal := make(chan error, 1)
	fail := func(err error) {
		if err != nil && work.Err() == nil {
			select {
			case fatal <- err:
			default:
			}
		}
		stop()
	}
	tasks.Go(func() { d.reloads(work) })
	tasks.Go(func() { d.expire(work) })
	tasks.Go(func() { d.revocations(work) })
	if d.o.Control != nil {
		tasks.Go(func() { fail(d.control(work)) })
	}
	// Delivery ends after acceptance: what is accepted last is still tried.
	deliver, endDelivery := context.WithCancel(context.WithoutCancel(ctx))
	var delivery sync.WaitGroup
	delivery.Go(func() { fail(d.relay.Deliver(deliver)) })
	d.accept(work, fail)
	stop()
	endDelivery()
	delivery.Wait()
	d.now().smtp.Close()
	select {
	case err := <-fatal:
		return err
	default:
		return nil
	}
}

// accept waits for certificates, serves the listeners until ctx ends, and closes
// what is open.
func (d *Daemon) accept(ctx context.Context, fail func(error)) {
	if !d.awaitCertificates(ctx) {
		return
	}
	tenant, provider := d.guards()
	d.mu.Lock()
	d.servers = []*smtpguard.Server{tenant, provider}
	d.mu.Unlock()
	var serving sync.WaitGroup
	for _, set := range []struct {
		on   *smtpguard.Server
		mode smtpguard.Mode
		list []net.Listener
	}{{tenant, smtpguard.StartTLS, d.o.StartTLS}, {tenant, smtpguard.Implicit, d.o.Implicit}, {provider, smtpguard.Implicit, d.o.Provider}} {
		for _, l := range set.list {
			serving.Go(func() {
				if err := set.on.Serve(l, set.mode); err != nil {
					fail(err)
				}
			})
		}
	}
	d.setWaiting(nil)
	milestone.Print(d.o.Marks, "relayd.ready", "uptime", relay.Uptime())
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), sessionGrace)
	defer cancel()
	var closing sync.WaitGroup
	closing.Go(func() { tenant.Shutdown(grace) })
	closing.Go(func() { provider.Shutdown(grace) })
	closing.Wait()
	serving.Wait()
}

// awaitCertificates asks until both are there; false means that ctx ended.
func (d *Daemon) awaitCertificates(ctx context.Context) bool {
	tick := time.NewTicker(certPoll)
	defer tick.Stop()
	for {
		err := d.certificates()
		d.setWaiting(err)
		if err == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

func (d *Daemon) certificates() error {
	if _, err := d.o.ServerCertificate(); err != nil {
		return fmt.Errorf("server certificate (tenant-server): %w", err)
	}
	if _, err := d.o.ClientCertificate(); err != nil {
		return fmt.Errorf("client certificate (provider-client): %w", err)
	}
	return nil
}

// setWaiting notes and tells why no mail is accepted.
func (d *Daemon) setWaiting(err error) {
	d.mu.Lock()
	old := d.waiting
	d.waiting = err
	d.mu.Unlock()
	switch {
	case err == nil:
		d.o.Status("accepting mail")
	case old == nil || old.Error() != err.Error():
		d.o.Status("waiting: " + err.Error())
		d.o.Log.Warn("no mail is accepted yet", "reason", err)
	}
}

// hostname is the first name in our server certificate, or the box's name.
func (d *Daemon) hostname() string {
	cert, err := d.o.ServerCertificate()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil && cert.Leaf != nil && cert.Leaf != d.hostOf {
		d.hostOf = cert.Leaf
		if d.host = d.live.Snapshot().Box; len(cert.Leaf.DNSNames) > 0 {
			d.host = cert.Leaf.DNSNames[0]
		}
	}
	if d.host == "" {
		return d.live.Snapshot().Box
	}
	return d.host
}

// reloads carries out Reload.
func (d *Daemon) reloads(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.o.Reload:
			if err := d.reload(); err != nil {
				d.o.Log.Error("configuration not taken; the old one stays", "error", err)
			}
		}
	}
}

// reload replaces snapshot and connector. Mail that was accepted is not touched.
func (d *Daemon) reload() error {
	snap, err := d.snapshot()
	if err != nil {
		return err
	}
	fresh := d.connect(snap)
	d.mu.Lock()
	old := d.connection
	d.connection = fresh
	d.mu.Unlock()
	d.live.Set(snap)
	old.smtp.Close()
	d.o.Log.Info("configuration taken", "serial", snap.Serial, "tenants", snap.Tenants())
	return nil
}

// expire deletes old traces now and then.
func (d *Daemon) expire(ctx context.Context) {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := d.queue.Expire(time.Now().Add(-traceAge)); err != nil {
			d.o.Log.Warn("old traces not deleted", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Healthy is for the watchdog: the queue answers.
func (d *Daemon) Healthy(context.Context) error {
	_, err := d.queue.Stats()
	return err
}
