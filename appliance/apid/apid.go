// Package apid is the box's management: it answers operators over HTTPS with
// client certificates, and the console over a local socket.
package apid

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// Options are what a Service needs.
type Options struct {
	// HTTPS are the listeners of the management API; none: there is no
	// configuration, and only the local socket answers.
	HTTPS []net.Listener
	// Local is the console's socket.
	Local net.Listener
	// Boot is init's report.
	Boot report.Report
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
	opts   Options
	log    *slog.Logger
	joiner *joiner
}

// New prepares a service; it does not speak with anybody yet.
func New(opts Options) (*Service, error) {
	if opts.Local == nil {
		return nil, errors.New("apid: no local socket")
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
	return &Service{
		opts: opts,
		log:  opts.Log,
		joiner: &joiner{boot: opts.Boot, services: services{
			updated: localapi.Dial(socket(layout.UpdatedSocket), control.Codes()...),
			keys:    keyclient.NewControl(socket(layout.KeydControlSocket)),
			netd:    localapi.Dial(socket(layout.NetdSocket)),
			relayd:  localapi.Dial(socket(layout.RelaydSocket)),
		}},
	}, nil
}

// Run answers until ctx ends. It fails when a listener does.
func (s *Service) Run(ctx context.Context) error {
	local, err := localapi.NewServer(s.localMethods(), localapi.Options{Log: s.log, PeerOf: s.opts.PeerOf})
	if err != nil {
		return err
	}
	if err := service.Ready("answering"); err != nil {
		s.log.Error("readiness", "error", err)
	}
	return service.Run(ctx, func(ctx context.Context) error { return local.Run(ctx, s.opts.Local) })
}

// localMethods are the local socket's: the status, for the console and root.
func (s *Service) localMethods() []localapi.Method {
	return []localapi.Method{{
		Name:  manage.MethodStatus,
		Allow: []localapi.Caller{localapi.UID(layout.UIDConsole), localapi.UID(0)},
		Handler: localapi.Typed(func(ctx context.Context, _ localapi.Peer, _ localapi.None) (manage.Status, error) {
			return s.joiner.status(ctx, manage.Status{}), nil
		}),
	}}
}
