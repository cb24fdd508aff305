// Package keyd is the only process of the box that uses private keys. It holds no
// key itself: a key device (hsm/tpm) does. It says who may have what signed, and
// keeps the certificates beside the keys.
//
// It serves two Unix sockets (internal/localapi; protocol in hsm/keyclient):
//
//   - signer: public key and certificate of a purpose; purpose and digest → signature.
//     Each purpose has its own list of users.
//   - control: certificate request out, certificate in, list. For apid and root.
//
// # Promises
//
//   - Who asks is what the kernel says; a purpose that is not declared for that user is
//     hsm.ErrDenied. There is no method that gives out, takes in, replaces or
//     deletes a private key.
//   - Every signature is counted and logged: purpose, user, process, count; never
//     the digest. Counts reach the disk within a minute and at the end, so after a
//     power cut they may miss the uses of the last minute; the log has them.
//   - A user makes at most signRate signatures per second in the long run and
//     signBurst at once, and has at most maxConcurrent waiting, so that a process
//     that was broken into is no fast oracle and does not starve the other.
//   - A certificate is taken only if it fits the key, is in order up its chain, has
//     not expired and may serve its purpose; else the old one stays. It is durable
//     when Install returns, and replaces the old one at once.
//   - Missing keys are made at the start. Without a key device, or with another one,
//     keyd stays up, says so to every caller, and tries again once a minute.
//   - On a locked box (no data volume) there is a passing management-server key, so that
//     management can say what is wrong, and nothing else.
//
// It does not listen on any network, does not run other programs, and does not
// read the configuration of the box.
//
// # Files
//
// In its state folder: tpm/ (hsm/tpm's), certificates/PURPOSE.pem (the chain as it
// was installed) and uses.json ({"version":1,"uses":{...}}).
package keyd

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

const (
	retryInterval = time.Minute // between tries to open the key device
	flushInterval = time.Minute // between writes of the counts
	maxConcurrent = 32          // calls of one user at once
	signTimeout   = 25 * time.Second
	controlBody   = 128 << 10 // bytes; a chain of certificates
	certificates  = "certificates"
	dirMode       = 0o700
	fileMode      = 0o600
)

// Keys is a key device: at most one key per purpose, made inside, never given out.
type Keys interface {
	// Create makes the key of a purpose unless there is one.
	Create(ctx context.Context, p hsm.Purpose) (created bool, err error)
	// Signer returns the key, or hsm.ErrNoKey. It does not block.
	Signer(p hsm.Purpose) (crypto.Signer, error)
}

// Options are what a Service needs.
type Options struct {
	// Open opens the key device. It is called again after a failure.
	Open func(ctx context.Context) (Keys, error)
	// Dir is the state folder; it is made if need be.
	Dir string
	// Locked says that the data volume could not be unlocked and Dir is passing.
	Locked bool
	// Signers says who may use which key; nil means DefaultSigners.
	Signers map[hsm.Purpose][]localapi.Caller
	// Control says who may use the control socket; nil means DefaultControl.
	Control []localapi.Caller
	// Log is the engineers' log; nil means slog.Default.
	Log *slog.Logger
	// Milestones takes the mark keyd.ready; nil means nobody.
	Milestones io.Writer
	// PeerOf says who made a connection; nil means the kernel. For tests.
	PeerOf func(net.Conn) (localapi.Peer, error)
}

// DefaultSigners is who uses which key on the box: the relay speaks with
// provider and tenants, apid with the management network.
func DefaultSigners() map[hsm.Purpose][]localapi.Caller {
	relayd, apid := localapi.UID(layout.UIDRelayd), localapi.UID(layout.UIDApid)
	return map[hsm.Purpose][]localapi.Caller{
		hsm.ProviderClient:   {relayd},
		hsm.TenantServer:     {relayd},
		hsm.ManagementServer: {apid},
	}
}

// DefaultControl is who may ask for requests and install certificates.
func DefaultControl() []localapi.Caller {
	return []localapi.Caller{localapi.UID(layout.UIDApid), localapi.UID(0)}
}

// Service is keyd. Make one with New.
type Service struct {
	opts   Options
	log    *slog.Logger
	uses   *uses
	bucket *buckets

	mu      sync.RWMutex
	fault   error // why there is no key device; nil: there is one
	entries map[hsm.Purpose]*entry

	installing sync.Mutex // one Install at a time
}

// entry is one key. It is replaced, never changed.
type entry struct {
	signer crypto.Signer // nil with a fault
	public []byte        // SubjectPublicKeyInfo, DER
	chain  *chain        // nil: no certificate
	fault  error         // why the key cannot be used
	flaw   error         // why the installed certificate cannot be used
}

// New prepares a service; it does not touch the key device yet.
func New(opts Options) (*Service, error) {
	if opts.Signers == nil {
		opts.Signers = DefaultSigners()
	}
	if opts.Control == nil {
		opts.Control = DefaultControl()
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Milestones == nil {
		opts.Milestones = io.Discard
	}
	dir := filepath.Join(opts.Dir, certificates)
	if err := durable.MkdirAll(durable.OS{}, dir, dirMode); err != nil {
		return nil, fmt.Errorf("open key state: %w", err)
	}
	for _, d := range []string{opts.Dir, dir} {
		if err := durable.Sweep(d); err != nil {
			return nil, fmt.Errorf("open key state: %w", err)
		}
	}
	return &Service{
		opts:    opts,
		log:     opts.Log,
		uses:    loadUses(filepath.Join(opts.Dir, usesFile), opts.Log),
		bucket:  newBuckets(signRate, signBurst),
		entries: map[hsm.Purpose]*entry{},
		fault:   errors.New("keys are being opened; try again"),
	}, nil
}

// Run opens the key device, makes missing keys, and then serves both sockets
// until ctx ends. It fails when a socket does.
func (s *Service) Run(ctx context.Context, signer, control net.Listener) error {
	signServer, err := s.server(s.signMethods())
	if err != nil {
		return err
	}
	controlServer, err := s.server(s.controlMethods())
	if err != nil {
		return err
	}
	keys, err := s.open(ctx)
	if ctx.Err() != nil {
		return nil
	}
	s.announce(keys, err)
	err = service.Run(ctx,
		func(ctx context.Context) error { return signServer.Run(ctx, signer) },
		func(ctx context.Context) error { return controlServer.Run(ctx, control) },
		s.keepTrying,
		s.keepCounts,
	)
	return errors.Join(err, s.uses.flush())
}

// announce says how the start went: to the harness and to systemd.
func (s *Service) announce(keys int, fault error) {
	status := fmt.Sprintf("%d keys", keys)
	if fault != nil {
		milestone.Print(s.opts.Milestones, "keyd.ready", "keys", keys, "why", fault)
		status = fault.Error()
	} else {
		milestone.Print(s.opts.Milestones, "keyd.ready", "keys", keys)
	}
	if err := service.Ready(status); err != nil {
		s.log.Error("readiness", "error", err)
	}
}

func (s *Service) server(methods []localapi.Method) (*localapi.Server, error) {
	return localapi.NewServer(methods, localapi.Options{
		Codes:         keyCodes(),
		MaxConcurrent: maxConcurrent,
		Log:           s.log,
		PeerOf:        s.opts.PeerOf,
	})
}

// keepTrying opens the key device again as long as there is none.
func (s *Service) keepTrying(ctx context.Context) error {
	tick := time.NewTicker(retryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.mu.RLock()
		missing := s.fault != nil
		s.mu.RUnlock()
		if !missing {
			return nil
		}
		if keys, err := s.open(ctx); err == nil {
			s.announce(keys, nil)
		}
	}
}

// keepCounts writes the counts to disk now and then.
func (s *Service) keepCounts(ctx context.Context) error {
	tick := time.NewTicker(flushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.uses.flush(); err != nil {
			s.log.Error("counts of key uses are not on disk", "error", err)
		}
	}
}

// Healthy is for the watchdog: it fails when the service is stuck.
func (s *Service) Healthy(ctx context.Context) error {
	free := make(chan struct{})
	go func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		close(free)
	}()
	select {
	case <-free:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("keys are stuck: %w", ctx.Err())
	}
}
