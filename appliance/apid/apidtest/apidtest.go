// Package apidtest runs a real apid for tests: with the real keyd over keys in
// memory, and stand-ins for updated, netd and relayd that say what a test tells
// them to. Nothing of it can ship: it links software keys.
package apidtest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/hsm/keyd"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// BoxName is the name of every box of this package.
const BoxName = "pforte-gw-01"

// Options change what a box starts with.
type Options struct {
	// Locked makes it a locked box.
	Locked bool
	// Unconfigured leaves out the configuration, and the HTTPS listener with it.
	Unconfigured bool
	// KeylessStart leaves keyd out until StartKeyd.
	KeylessStart bool
	// AuditDir is the folder of the record; "" means a new one.
	AuditDir string
	// LocalPeer is who asks at the local socket; nil means the console.
	LocalPeer *localapi.Peer
	// Document changes the configuration.
	Document func(*config.Document)
}

// Box is a running apid with what stands behind it.
type Box struct {
	Address     string // of the management API
	LocalSocket string
	AuditDir    string
	RunDir      string
	Authorities map[apid.Role]*hsmtest.CA
	Stranger    *hsmtest.CA // an authority that the box does not know
	Document    *config.Document
	Behind      *Behind
	Service     *apid.Service

	// Marks is what apid printed; read it after Ready.
	Marks *Marks

	t    testing.TB
	opts Options
}

// New starts a box; the test's end stops it.
func New(t testing.TB, opts Options) *Box {
	t.Helper()
	run, err := os.MkdirTemp("", "apid") // short: socket paths have a bound
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	b := &Box{
		RunDir:      run,
		LocalSocket: filepath.Join(run, filepath.Base(layout.ApidSocket)),
		AuditDir:    filepath.Join(t.TempDir(), "audit"),
		Stranger:    hsmtest.NewCA(t, "stranger"),
		Authorities: map[apid.Role]*hsmtest.CA{},
		Behind:      newBehind(),
		Marks:       newMarks(),
		t:           t,
		opts:        opts,
	}
	if opts.AuditDir != "" {
		b.AuditDir = opts.AuditDir
	}
	for _, role := range []apid.Role{apid.Owner, apid.Hosting, apid.Monitor} {
		b.Authorities[role] = hsmtest.NewCA(t, string(role)+" CA")
	}
	b.Document = b.document()
	if opts.Document != nil {
		opts.Document(b.Document)
	}
	b.Behind.start(t, run)
	if !opts.KeylessStart {
		b.StartKeyd()
	}
	b.startApid()
	return b
}

func (b *Box) document() *config.Document {
	doc := &config.Document{Version: config.Version, Serial: 7, Box: BoxName}
	doc.Network.Interfaces = []config.Interface{{Name: "mgmt0", Role: config.RoleManagement,
		Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8")}}}
	for role, ca := range b.Authorities {
		doc.Management.Roles = append(doc.Management.Roles, config.RoleAuthority{Name: string(role), CA: string(hsmtest.PEM(ca.Certificate))})
	}
	return doc
}

// StartKeyd starts keyd with new keys.
func (b *Box) StartKeyd() {
	b.t.Helper()
	keys := &hsmtest.SoftKeys{}
	s, err := keyd.New(keyd.Options{
		Open: func(ctx context.Context) (keyd.Keys, error) {
			for _, p := range hsm.Purposes() {
				if _, err := keys.Create(ctx, p); err != nil {
					return nil, err
				}
			}
			return keys, nil
		},
		Dir:    b.t.TempDir(),
		Locked: b.opts.Locked,
		Log:    slog.New(slog.DiscardHandler),
		PeerOf: func(net.Conn) (localapi.Peer, error) { return localapi.Peer{UID: layout.UIDApid}, nil },
	})
	if err != nil {
		b.t.Fatal(err)
	}
	sign, control := listen(b.t, b.RunDir, layout.KeydSignSocket), listen(b.t, b.RunDir, layout.KeydControlSocket)
	background(b.t, func(ctx context.Context) error { return s.Run(ctx, sign, control) })
}

func (b *Box) startApid() {
	b.t.Helper()
	boot := report.Report{Version: "0.1.0", Variant: "dev", Epoch: 1, Slot: report.SlotA, SecureBoot: true, Lockdown: "integrity"}
	if b.opts.Locked {
		boot.Locked = &report.Fault{Code: "tpm-changed", English: "This is not the TPM that locked the data.", German: "Dies ist nicht das TPM, das die Daten verschlossen hat."}
	}
	peer := localapi.Peer{UID: layout.UIDConsole}
	if b.opts.LocalPeer != nil {
		peer = *b.opts.LocalPeer
	}
	opts := apid.Options{
		Local:      listen(b.t, b.RunDir, layout.ApidSocket),
		Config:     func() (*config.Document, error) { return b.Document, nil },
		Boot:       boot,
		AuditDir:   b.AuditDir,
		RunDir:     b.RunDir,
		Log:        slog.New(slog.DiscardHandler),
		Milestones: b.Marks,
		PeerOf:     func(net.Conn) (localapi.Peer, error) { return peer, nil },
	}
	if b.opts.Unconfigured {
		opts.Config = func() (*config.Document, error) { return nil, config.ErrNone }
	} else {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.t.Fatal(err)
		}
		b.Address = ln.Addr().String()
		opts.HTTPS = []net.Listener{ln}
	}
	s, err := apid.New(opts)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Service = s
	background(b.t, s.Run)
}

// Certificate issues a client certificate of the role's authority.
func (b *Box) Certificate(role apid.Role) tls.Certificate {
	b.t.Helper()
	return Client(b.t, b.Authorities[role], "A "+string(role)+" person")
}

// Client issues a client certificate of any authority.
func Client(t testing.TB, ca *hsmtest.CA, name string) tls.Certificate {
	t.Helper()
	key := hsmtest.NewSoftKey(t)
	leaf := ca.Issue(t, key.Public(), x509.ExtKeyUsageClientAuth, nil, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: name}
	})
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, ca.Certificate.Raw}, PrivateKey: key, Leaf: leaf}
}

func listen(t testing.TB, dir, path string) net.Listener {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(dir, filepath.Base(path)))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// background runs f until the test ends, and fails the test when f does.
func background(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("a service of the box: %v", err)
		}
	})
}
