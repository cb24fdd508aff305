package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/daemon"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// Names and addresses of the world around the box.
const (
	BoxName  = "box.hosting.example"
	Provider = "mx.provider.de-mail.example"
	Citizen  = "erika@buerger.de-mail.example"
)

// Tenants of the world.
var names = [...]string{"gemeinde-a", "gemeinde-b"}

// TenantMail and TenantDeMail are the addresses of the n-th tenant's office, and
// TenantHost is its mail server's name.
func TenantMail(n int) string   { return "poststelle@" + names[n] + ".example" }
func TenantDeMail(n int) string { return "poststelle@" + names[n] + ".de-mail.example" }
func TenantHost(n int) string   { return "mail." + names[n] + ".example" }

// World is who knows whom around one box: a provider with its authority and
// revocation list, two tenants with theirs, and the box's own certificates.
type World struct {
	Box     tls.Certificate // the box's server certificate
	Token   tls.Certificate // its certificate towards the provider
	BoxCA   *Authority
	Tenants [len(names)]tls.Certificate // of the tenants' systems, for both ends of TLS
	CAs     [len(names)]*Authority
	PKI     *dmdatest.PKI
	crl     *httptest.Server
}

// NewWorld makes all keys and serves the revocation list until Close.
func NewWorld() (*World, error) {
	w := &World{}
	var err error
	if w.BoxCA, err = NewAuthority("box"); err != nil {
		return nil, err
	}
	if w.Box, err = w.BoxCA.Issue(BoxName); err != nil {
		return nil, err
	}
	for i := range names {
		if w.CAs[i], err = NewAuthority(names[i]); err != nil {
			return nil, err
		}
		if w.Tenants[i], err = w.CAs[i].Issue(TenantHost(i), "127.0.0.1"); err != nil {
			return nil, err
		}
	}
	if w.PKI, err = dmdatest.NewPKI(dmdatest.PKIOptions{Hosts: []string{Provider}}); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	if w.Token, err = w.PKI.IssueClient("box"); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	w.crl = httptest.NewServer(w.PKI.CRLHandler())
	return w, nil
}

// Close ends the revocation list's server.
func (w *World) Close() { w.crl.Close() }

// Document is a configuration with both tenants. servers are the ports of the
// tenants' mail servers (STARTTLS), 0 for one that takes nothing.
func (w *World) Document(provider int, servers ...int) *config.Document {
	doc := &config.Document{Version: 1, Serial: 1, Box: "pforte-1",
		Provider: config.Provider{Name: "provider.de-mail.example", Host: "127.0.0.1", Port: uint16(provider), CA: string(w.PKI.CAPEM()),
			ServerNames: []string{Provider}, ClientNames: []string{Provider}, Domains: []string{"de-mail.example"}, CRL: []string{w.crl.URL}}}
	for i, id := range names {
		t := config.Tenant{ID: id, Name: id, Account: TenantDeMail(i), Postmaster: "postmaster@" + id + ".example", Language: "de", MaxSize: 64 << 20,
			Clients:  []config.Client{{Name: "mail server", CA: w.CAs[i].PEM(), Names: []string{TenantHost(i)}}},
			Domains:  []config.Domain{{Name: id + ".de-mail.example"}},
			Mappings: []config.Mapping{{Mail: TenantMail(i), DeMail: TenantDeMail(i)}},
			Inbound:  config.Inbound{CA: w.CAs[i].PEM(), Names: []string{TenantHost(i)}}}
		if i < len(servers) && servers[i] != 0 {
			t.Inbound.Servers = []config.Server{{Host: "127.0.0.1", Port: uint16(servers[i]), TLS: config.TLSStart}}
		}
		doc.Tenants = append(doc.Tenants, t)
	}
	return doc
}

// BoxOptions make a Box. Log and FS may be nil.
type BoxOptions struct {
	Document      *config.Document
	Server, Token tls.Certificate
	Dir           string // its state, on a real disk
	FS            vfs.FS
	Log           *slog.Logger
	Schedule      queue.Schedule
}

// Box is Pforte's relay, running in this process: the code of relayd, with
// software keys.
type Box struct {
	StartTLS, Implicit, Push int // ports of the tenants, and of the provider

	marks *marks
	stop  context.CancelFunc
	done  chan error
}

// Accepted is how many messages the box has taken so far.
func (b *Box) Accepted() int { return int(b.marks.accepted.Load()) }

// sessions is how many connections one address may open to the box: the load
// generator is one address.
const sessions = 500

// StartBox returns when the box accepts mail.
func StartBox(ctx context.Context, o BoxOptions) (*Box, error) {
	b := &Box{done: make(chan error, 1)}
	var sets [3][]net.Listener
	for i, port := range []*int{&b.StartTLS, &b.Implicit, &b.Push} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("peers: box: %w", err)
		}
		sets[i], *port = []net.Listener{l}, l.Addr().(*net.TCPAddr).Port
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b.marks = &marks{ready: make(chan struct{}, 1)}
	leaf := func(c tls.Certificate) func() (*tls.Certificate, error) {
		return func() (*tls.Certificate, error) { return &c, nil }
	}
	if o.Server.Leaf == nil || o.Token.Leaf == nil {
		return nil, errors.New("peers: box: certificates without leaf")
	}
	d, err := daemon.New(daemon.Options{Config: func() (*config.Document, error) { c := *o.Document; return &c, nil }, Dir: o.Dir, FS: o.FS,
		ServerCertificate: leaf(o.Server), ClientCertificate: leaf(o.Token), StartTLS: sets[0], Implicit: sets[1], Provider: sets[2],
		Reload: make(chan os.Signal), Ready: func(string) error { return nil }, Status: func(string) {}, Log: o.Log, Marks: b.marks,
		Schedule: o.Schedule, Guard: smtpguard.Limits{PerAddress: sessions}})
	if err != nil {
		return nil, fmt.Errorf("peers: box: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = cancel
	go func() { b.done <- d.Run(run) }()
	select {
	case <-b.marks.ready:
		return b, nil
	case err := <-b.done:
		cancel()
		return nil, fmt.Errorf("peers: box ended at its start: %w", err)
	case <-time.After(startLimit):
		cancel()
		return nil, errors.New("peers: box does not become ready")
	}
}

// Stop ends the box in good order.
func (b *Box) Stop() error {
	b.stop()
	return <-b.done
}

// Failed yields the error of a box that ended by itself.
func (b *Box) Failed() <-chan error { return b.done }

// marks follows what the box tells of itself.
type marks struct {
	ready    chan struct{}
	accepted atomic.Int64
}

func (m *marks) Write(p []byte) (int, error) {
	mark, _ := milestone.Parse(string(p))
	switch mark.Name {
	case "relayd.ready":
		select {
		case m.ready <- struct{}{}:
		default:
		}
	case "relayd.accepted":
		m.accepted.Add(1)
	}
	return len(p), nil
}

// ParseCertificate reads what EncodePEM wrote.
func ParseCertificate(text string) (tls.Certificate, error) {
	c, err := tls.X509KeyPair([]byte(text), []byte(text))
	if err != nil {
		return c, fmt.Errorf("peers: %w", err)
	}
	if c.Leaf == nil {
		c.Leaf, err = x509.ParseCertificate(c.Certificate[0])
	}
	return c, err
}
