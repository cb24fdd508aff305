// Package apid is the box's management: it answers operators over HTTPS on the
// management network, and the console over a local socket. The language is
// package internal/manage's.
//
// # Who may do what
//
// A caller is a client certificate. The configuration names an authority for
// each role (owner, hosting, monitor); whichever issued the certificate decides
// the role, and nothing in the certificate does. A certificate of no role, or
// of two, ends in the TLS handshake: strangers meet no HTTP. Beside each method
// (methods.go, one table) stands which roles may call it; what no role stands
// beside, nobody may. Roles follow the configuration at once, also on
// connections that are open.
//
// apid has no power of its own. It asks updated, keyd, netd and relayd over
// their sockets, and they judge again what they are asked: a configuration by
// the owner's signature, a release by both signatures and the owner's order.
//
// # The certificate
//
// The server key is hsm.ManagementServer in keyd. Before the first certificate
// is installed apid shows a self-signed one of that key; whoever connects
// compares its fingerprint (hsm.Fingerprint) with the console's. keyd may come
// late; apid starts without it and waits. The mark apid.ready tells when the
// key is there: address=HOST:PORT[,...] key=sha256:…
//
// # The record
//
// Each call is recorded (internal/audit) with who, certificate, method and
// outcome, the refused ones too; an act twice, before and after. An act that
// cannot be recorded is not done. Handshakes of strangers and calls beyond the
// rate are recorded too, but only a few per minute, with the number of those
// left out: they cost their sender nothing and must not wash the record away.
//
// # Bounds
//
// Connections and calls, in all, per address and per certificate; bodies per
// method; times for handshake, header, body, method and answer (limits.go). One
// act at a time: changes of a box are rare, and two at once never intended.
//
// # The locked box
//
// Without its data volume the box answers status and health, and refuses the
// rest with the reason. keyd then has a passing key; the record lies on a
// passing file system.
//
// # Not done
//
// No HTTP/2, no WebSocket, no page for browsers: what carries an Origin is
// refused. Revocation of client certificates: an authority that went bad is
// replaced by a new configuration.
package apid

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// Options are what a Service needs.
type Options struct {
	// HTTPS are the listeners of the management API; none: there is no
	// configuration, and only the local socket answers.
	HTTPS []net.Listener
	// Local is the console's socket.
	Local net.Listener
	// Config reads the configuration in force. Its error wraps config.ErrNone if
	// there is none.
	Config func() (*config.Document, error)
	// Boot is init's report.
	Boot report.Report
	// AuditDir is the folder of the record.
	AuditDir string
	// RunDir holds the sockets of the services behind apid; "" means layout.RunDir.
	RunDir string
	// Log is the engineers' log; nil means slog.Default.
	Log *slog.Logger
	// Milestones takes the mark apid.ready; nil means nobody.
	Milestones io.Writer
	// PeerOf says who made a local connection; nil means the kernel. For tests.
	PeerOf func(net.Conn) (localapi.Peer, error)
}

// Service is apid. Make one with New.
type Service struct {
	opts     Options
	log      *slog.Logger
	table    []method
	services services
	joiner   *joiner
	identity *identity
	record   *recorder
	access   atomic.Pointer[access]
	misread  atomic.Bool // the configuration could not be read

	rates   *rates
	running *counts
	acting  sync.Mutex // one act at a time
	upload  sync.Mutex // one large body at a time
}

// New prepares a service; it does not speak with anybody yet. A configuration
// or a record that cannot be opened does not stop it: the health says so.
func New(opts Options) (*Service, error) {
	switch {
	case opts.Local == nil:
		return nil, errors.New("apid: no local socket")
	case opts.Config == nil:
		return nil, errors.New("apid: no configuration to read")
	case opts.AuditDir == "":
		return nil, errors.New("apid: no folder for the record")
	}
	if opts.RunDir == "" {
		opts.RunDir = layout.RunDir
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Milestones == nil {
		opts.Milestones = io.Discard
	}
	socket := func(path string) string { return filepath.Join(opts.RunDir, filepath.Base(path)) }
	s := &Service{
		opts: opts,
		log:  opts.Log,
		services: services{
			updated: localapi.Dial(socket(layout.UpdatedSocket), control.Codes()...),
			keys:    keyclient.NewControl(socket(layout.KeydControlSocket)),
			netd:    localapi.Dial(socket(layout.NetdSocket)),
			relayd:  localapi.Dial(socket(layout.RelaydSocket)),
		},
		record:  openRecorder(opts.AuditDir, opts.Log),
		rates:   newRates(callRate, callBurst),
		running: newCounts(maxCalls, maxCallsPerCaller),
	}
	s.table = s.methods()
	s.joiner = &joiner{services: s.services, boot: opts.Boot}
	keys := keyclient.New(socket(layout.KeydSignSocket))
	s.identity = &identity{keys: keys, source: keys.Source(hsm.ManagementServer), names: s.names}
	s.access.Store(&access{})
	if err := s.Reload(); err != nil {
		s.log.Error("configuration cannot be used; nobody may come in", "error", err)
	}
	return s, nil
}

// Reload reads the configuration again. On an error the old one stays in force.
// Addresses to listen on are systemd's affair and need a restart.
func (s *Service) Reload() error {
	doc, err := s.opts.Config()
	if errors.Is(err, config.ErrNone) {
		doc, err = nil, nil
	}
	var a *access
	if err == nil {
		a, err = newAccess(doc)
	}
	s.misread.Store(err != nil)
	if err != nil {
		return fmt.Errorf("apid: %w", err)
	}
	s.access.Store(a)
	return nil
}

// Run answers until ctx ends. It fails when a listener does.
func (s *Service) Run(ctx context.Context) error {
	local, err := localapi.NewServer(s.localMethods(), localapi.Options{Log: s.log, PeerOf: s.opts.PeerOf})
	if err != nil {
		return err
	}
	if err := service.Ready("waiting for the management key"); err != nil {
		s.log.Error("readiness", "error", err)
	}
	err = service.Run(ctx,
		func(ctx context.Context) error { return local.Run(ctx, s.opts.Local) },
		s.serveHTTPS,
		s.announce,
	)
	return errors.Join(err, s.record.close())
}

// announce tells when the management key is there.
func (s *Service) announce(ctx context.Context) error {
	key, err := s.identity.wait(ctx, func(err error) { s.log.Info("waiting for the management key", "error", err) })
	if err != nil {
		return err
	}
	addresses := strings.Join(s.addresses(), ",")
	milestone.Print(s.opts.Milestones, "apid.ready", "address", addresses, "key", key)
	if addresses == "" {
		s.log.Info("no configuration: management answers on the console only")
		addresses = "the console only"
	}
	service.Status("answering on " + addresses)
	return nil
}

// Healthy is for the watchdog: it fails when no status can be had.
func (s *Service) Healthy(ctx context.Context) error {
	free := make(chan struct{})
	go func() {
		s.joiner.mu.Lock()
		defer s.joiner.mu.Unlock()
		close(free)
	}()
	select {
	case <-free:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("apid is stuck: %w", ctx.Err())
	}
}

// localMethods are the local socket's: the status, for the console and root.
func (s *Service) localMethods() []localapi.Method {
	return []localapi.Method{{
		Name:  manage.MethodStatus,
		Allow: []localapi.Caller{localapi.UID(layout.UIDConsole), localapi.UID(0)},
		Handler: localapi.Typed(func(ctx context.Context, _ localapi.Peer, _ localapi.None) (manage.Status, error) {
			return s.status(ctx), nil
		}),
	}}
}

// status is the box as apid knows it and as the services tell.
func (s *Service) status(ctx context.Context) manage.Status {
	a := s.access.Load()
	base := manage.Status{Box: a.box(), Addresses: s.addresses(), Health: s.record.conditions()}
	if a.doc != nil {
		base.Serial = a.doc.Serial
	}
	switch {
	case s.misread.Load():
		base.Health = append(base.Health, manage.Condition{Code: "config.unreadable", Severity: "fault",
			English: "The configuration cannot be read.", German: "Die Konfiguration ist nicht lesbar.",
			Remedy: "bring a signed configuration with a greater serial on a seed volume, and restart"})
	case a.doc == nil:
		base.Health = append(base.Health, manage.Condition{Code: "config.none", Severity: "warning",
			English: "There is no configuration yet. Bring one, signed by the owner, on a volume labelled " + layout.SeedVolume + ".",
			German:  "Es gibt noch keine Konfiguration. Eine vom Eigentümer signierte auf einem Datenträger mit dem Namen " + layout.SeedVolume + " einstecken.",
			Remedy:  "bring a signed configuration on a seed volume, and restart"})
	}
	return s.joiner.status(ctx, base)
}

// addresses are where the management API listens.
func (s *Service) addresses() []string {
	var all []string
	for _, ln := range s.opts.HTTPS {
		all = append(all, ln.Addr().String())
	}
	return all
}

// names are the box's own names.
func (s *Service) names() names {
	doc := s.access.Load().doc
	if doc == nil {
		return names{common: "pforte"}
	}
	n := names{common: doc.Box, dns: []string{doc.Box}}
	for _, i := range doc.Network.ByRole(config.RoleManagement) {
		for _, p := range i.Addresses {
			n.addresses = append(n.addresses, p.Addr())
		}
	}
	return n
}
