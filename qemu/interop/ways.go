package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// way is one role of one peer: where letters go in, and where they come out.
type way struct {
	name string
	peer string
	in   func() (*client, error)
	to   string // expected recipient at the end
	end  *capture
	box  *peers.Box
	// direct: the client speaks to Pforte itself, not to a peer before it.
	direct bool
	// peerExt is what the peer offers where it takes mail.
	peerExt map[string]bool
	// chunkLog is the log of a peer that speaks BDAT to Pforte.
	chunkLog string
	letter   func(body []byte, fields ...[2]string) (*letter, error)
}

// stopper is a running peer.
type stopper interface{ Stop() }

// jailed makes a runner's start of one of package peers.
func jailed(start func(context.Context, string, peers.Wiring) (*peers.Process, error)) func(context.Context, string, peers.Wiring) (stopper, error) {
	return func(ctx context.Context, dir string, w peers.Wiring) (stopper, error) { return start(ctx, dir, w) }
}

// runner is a peer that can be started.
type runner struct {
	name  string
	start func(ctx context.Context, dir string, w peers.Wiring) (stopper, error)
	way   peers.Way // to Pforte
	only  bool      // it only takes mail
	noTLS bool      // its own TLS does not work: it is spoken by a proxy before it
	// chunkLog is where it writes, below its folder, that it handed on by BDAT. ""
	// for who never does.
	chunkLog string
}

func runners() []runner {
	// Debian 12 has it off for old clients; Postfix itself says it should be on.
	strict := func(ctx context.Context, dir string, w peers.Wiring) (*peers.Process, error) {
		return peers.Postfix(ctx, dir, w, "smtpd_forbid_bare_newline = yes", "smtpd_forbid_bare_newline_exclusions =", "minimal_backoff_time = 5s",
			"queue_run_delay = 5s", "maillog_file = /data/maillog", "maillog_file_prefixes = /data")
	}
	return []runner{
		{name: "postfix", start: jailed(strict), way: peers.StartTLS},
		{name: "exim", start: jailed(peers.Exim), way: peers.ImplicitTLS, chunkLog: "lib/mainlog"},
		// 6.8 of Debian 12 cannot sign with OpenSSL 3: every handshake ends in "EVP lib"
		{name: "opensmtpd", start: jailed(peers.OpenSMTPD), way: peers.ImplicitTLS, noTLS: true},
		{name: "sendmail", start: jailed(peers.Sendmail), way: peers.StartTLS},
		{name: "aiosmtpd", start: aiosmtpd, only: true},
	}
}

// stage is what stands around one peer.
type stage struct {
	dir   string
	world *peers.World
	own   *peers.Authority // issues the certificate of the peer behind Pforte
	close []func()
	ways  []*way
}

func (s *stage) end() {
	for i := len(s.close) - 1; i >= 0; i-- {
		s.close[i]()
	}
}

// open starts two instances of a peer and two boxes: one peer behind Pforte, and
// one before it.
func open(ctx context.Context, r runner, world *peers.World, dir string) (s *stage, err error) {
	s = &stage{dir: dir, world: world}
	if s.own, err = peers.NewAuthority("peer"); err != nil {
		return s, err
	}
	if err = s.behind(ctx, r); err == nil && !r.only {
		err = s.before(ctx, r)
	}
	if err != nil {
		s.end()
	}
	return s, err
}

func (s *stage) capture(cfg *tls.Config) (*capture, error) {
	c, err := newCapture(cfg)
	if err == nil {
		s.close = append(s.close, c.close)
	}
	return c, err
}

// run starts a peer; its folder tells what it did.
func (s *stage) run(ctx context.Context, r runner, name string, w peers.Wiring) error {
	p, err := r.start(ctx, filepath.Join(s.dir, name), w)
	if err == nil {
		s.close = append(s.close, p.Stop)
	}
	return err
}

// start runs a box.
func (s *stage) start(ctx context.Context, name string, doc *config.Document) (*peers.Box, error) {
	dir := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	b, err := peers.StartBox(ctx, peers.BoxOptions{Document: doc, Server: s.world.Box, Token: s.world.Token, Dir: filepath.Join(dir, "state"),
		Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		log.Close()
		return nil, err
	}
	s.close = append(s.close, func() { _ = b.Stop(); log.Close() })
	return b, nil
}

// behind builds the ways in which the peer takes mail from Pforte.
func (s *stage) behind(ctx context.Context, r runner) error {
	end, err := s.capture(nil)
	if err != nil {
		return err
	}
	cert, err := s.own.Issue(peers.Provider)
	if err != nil {
		return err
	}
	w := peers.Wiring{Host: "front.peer.example", Cert: cert, ClientCA: string(s.world.PKI.CAPEM()), Next: end.port, Way: peers.NoTLS}
	open := []*int{&w.Plain, &w.Implicit, &w.StartTLS}
	if r.noTLS {
		open, w.Cert = open[:1], tls.Certificate{}
	}
	if err := ports(open...); err != nil {
		return err
	}
	if err := s.run(ctx, r, "front", w); err != nil {
		return err
	}
	provider, server, mode := w.Implicit, w.StartTLS, config.TLSStart
	if r.noTLS {
		if provider, err = s.pipe(w.Plain, &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: s.world.PKI.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}, nil); err != nil {
			return err
		}
		if server, err = s.pipe(w.Plain, &tls.Config{Certificates: []tls.Certificate{cert}}, nil); err != nil {
			return err
		}
		mode = config.TLSImplicit
	}
	doc := s.world.Document(provider, server)
	doc.Tenants[0].Inbound.Servers[0].TLS = mode
	doc.Tenants[0].Inbound.CA, doc.Tenants[0].Inbound.Names = s.own.PEM(), []string{peers.Provider}
	doc.Provider.CA += s.own.PEM()
	doc.Provider.CRL = nil // the peer's authority has none
	box, err := s.start(ctx, "box-behind", doc)
	if err != nil {
		return err
	}
	probe, err := dial(w.Plain, nil)
	if err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	probe.Close()
	push := func() (*client, error) { return dial(box.Push, s.tls(s.world.PKI.Client())) }
	hand := func() (*client, error) { return dial(box.Implicit, s.tls(s.world.Tenants[0])) }
	s.ways = append(s.ways,
		&way{name: "receiving", peer: r.name, in: push, to: peers.TenantMail(0), end: end, box: box, direct: true, peerExt: probe.ext, letter: s.fromProvider},
		&way{name: "next hop", peer: r.name, in: hand, to: peers.Citizen, end: end, box: box, direct: true, peerExt: probe.ext, letter: fromTenant})
	return nil
}

// before builds the way in which the peer hands mail to Pforte.
func (s *stage) before(ctx context.Context, r runner) error {
	box, end, err := s.toProvider(ctx)
	if err != nil {
		return err
	}
	w := peers.Wiring{Host: "client.peer.example", Next: box.Implicit, Way: r.way, NextName: peers.BoxName, NextCA: s.world.BoxCA.PEM(), Token: s.world.Tenants[0]}
	if r.way == peers.StartTLS {
		w.Next = box.StartTLS
	}
	if r.noTLS {
		w.Way, w.Token = peers.NoTLS, tls.Certificate{}
		if w.Next, err = s.pipe(box.Implicit, nil, s.tls(s.world.Tenants[0])); err != nil {
			return err
		}
	}
	if err := ports(&w.Plain); err != nil {
		return err
	}
	if err := s.run(ctx, r, "client", w); err != nil {
		return err
	}
	in := func() (*client, error) { return dial(w.Plain, nil) }
	probe, err := in()
	if err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	probe.Close()
	submitting := &way{name: "submitting", peer: r.name, in: in, to: peers.Citizen, end: end, box: box, peerExt: probe.ext, letter: fromTenant}
	if r.chunkLog != "" {
		submitting.chunkLog = filepath.Join(s.dir, "client", r.chunkLog)
	}
	s.ways = append(s.ways, submitting)
	return nil
}

// toProvider is a box with this program as the provider.
func (s *stage) toProvider(ctx context.Context) (*peers.Box, *capture, error) {
	end, err := s.capture(&tls.Config{Certificates: []tls.Certificate{s.world.PKI.Server()}, ClientCAs: s.world.PKI.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		CurvePreferences: []tls.CurveID{tls.CurveP256}})
	if err != nil {
		return nil, nil, err
	}
	box, err := s.start(ctx, "box-before", s.world.Document(end.port))
	return box, end, err
}

func (s *stage) tls(own tls.Certificate) *tls.Config {
	return &tls.Config{ServerName: peers.BoxName, RootCAs: s.world.BoxCA.Pool(), Certificates: []tls.Certificate{own}, CurvePreferences: []tls.CurveID{tls.CurveP256}}
}

func ports(all ...*int) (err error) {
	for _, p := range all {
		if *p, err = peers.FreePort(); err != nil {
			return err
		}
	}
	return nil
}

// fromTenant is an ordinary letter of a tenant to a citizen.
func fromTenant(body []byte, fields ...[2]string) (*letter, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: Poststelle <%s>\r\nTo: <%s>\r\nSubject: interop\r\nDate: Fri, 20 Nov 2026 08:00:00 +0000\r\nMessage-ID: <%s@mail.intern.example>\r\n",
		peers.TenantMail(0), peers.Citizen, name())
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\r\n", f[0], f[1])
	}
	b.WriteString("\r\n")
	b.Write(body)
	return &letter{from: peers.TenantMail(0), to: peers.Citizen, raw: b.Bytes()}, nil
}

// fromProvider is a De-Mail to a tenant.
func (s *stage) fromProvider(body []byte, fields ...[2]string) (*letter, error) {
	p, err := dmdatest.New(dmdatest.Config{Domain: "provider.de-mail.example", Host: peers.Provider, Domains: []string{"de-mail.example"}, PKI: s.world.PKI,
		Tokens: []dmdatest.Token{{Name: "box", Accounts: []dmdatest.Account{{Address: peers.TenantDeMail(0), Holder: "Gemeinde A"}}}}})
	if err != nil {
		return nil, err
	}
	c, err := p.Compose(dmdatest.DeMail{From: peers.Citizen, To: []string{peers.TenantDeMail(0)}, Subject: "interop", Fields: fields, Body: body})
	if err != nil {
		return nil, err
	}
	if !bytes.HasSuffix(c.Raw, body) {
		return nil, errors.New("composed message has another body")
	}
	return &letter{from: c.From, to: c.Recipients[0], raw: c.Raw}, nil
}
