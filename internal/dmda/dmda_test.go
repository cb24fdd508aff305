package dmda_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/dmda"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
)

const host = "mx.provider.de-mail.example"

func newPKI(t *testing.T) *dmdatest.PKI {
	t.Helper()
	p, err := dmdatest.NewPKI(dmdatest.PKIOptions{Hosts: []string{host}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func authorities(t *testing.T, p *dmdatest.PKI) []*x509.Certificate {
	t.Helper()
	certs, err := config.Certificates(string(p.CAPEM()))
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestRevocation(t *testing.T) {
	pki := newPKI(t)
	web := httptest.NewServer(pki.CRLHandler())
	defer web.Close()
	cas, dir := authorities(t, pki), t.TempDir()
	leaf := pki.Server().Leaf
	r := dmda.NewRevocation([]string{web.URL + "/ca.crl"}, cas, dir, quiet())

	if err := r.Check(leaf, cas[0]); !errors.Is(err, dmda.ErrNoCRL) {
		t.Fatalf("before the first list: %v", err)
	}
	if r.Stale() == nil {
		t.Error("not stale before the first list")
	}
	for _, mode := range []dmdatest.CRLMode{dmdatest.CRLDown, dmdatest.CRLForeign} {
		pki.SetCRL(mode)
		if err := r.Refresh(t.Context()); err == nil {
			t.Errorf("mode %v: fetched", mode)
		}
	}
	pki.SetCRL(dmdatest.CRLExpired)
	_ = r.Refresh(t.Context())
	if err := r.Check(leaf, cas[0]); !errors.Is(err, dmda.ErrNoCRL) {
		t.Fatalf("with an expired list: %v", err)
	}
	pki.SetCRL(dmdatest.CRLFresh)
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.CheckChain([]*x509.Certificate{leaf, cas[0]}); err != nil || r.Stale() != nil {
		t.Fatalf("with a fresh list: %v, %v", err, r.Stale())
	}
	pki.Revoke(leaf)
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(leaf, cas[0]); !errors.Is(err, dmda.ErrRevoked) {
		t.Fatalf("revoked: %v", err)
	}
	pki.SetCRL(dmdatest.CRLDown)
	again := dmda.NewRevocation([]string{web.URL + "/ca.crl"}, cas, dir, quiet())
	if err := again.Check(leaf, cas[0]); !errors.Is(err, dmda.ErrRevoked) {
		t.Fatalf("after a restart, from the kept list: %v", err)
	}
	if err := again.Check(leaf, authorities(t, newPKI(t))[0]); !errors.Is(err, dmda.ErrNoCRL) {
		t.Fatalf("another issuer's certificate: %v", err)
	}
}

func TestRevocationNilAndUnconfigured(t *testing.T) {
	pki := newPKI(t)
	cas := authorities(t, pki)
	var none *dmda.Revocation
	if err := none.Check(pki.Server().Leaf, cas[0]); err == nil {
		t.Error("a check that nobody set up passed")
	}
	r := dmda.NewRevocation(nil, cas, "", quiet())
	if r.Configured() || r.Check(pki.Server().Leaf, cas[0]) != nil {
		t.Error("without URLs nothing is checked, and Configured says so")
	}
}

// provider starts a simulated provider and returns its address.
func provider(t *testing.T, pki *dmdatest.PKI) (*dmdatest.Provider, string) {
	t.Helper()
	p, err := dmdatest.New(dmdatest.Config{Domain: "provider.de-mail.example", Host: host, Domains: []string{"de-mail.example"}, PKI: pki,
		Mailboxes: []string{"*@gemeinde-b.de-mail.example"},
		Tokens:    []dmdatest.Token{{Name: "box", Accounts: []dmdatest.Account{{Address: "poststelle@gemeinde-a.de-mail.example", Holder: "A"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.Serve(ctx, ln) }()
	t.Cleanup(func() { cancel(); <-done })
	return p, ln.Addr().String()
}

func connector(t *testing.T, pki *dmdatest.PKI, addr string, change func(*dmda.SMTPOptions)) *dmda.SMTP {
	t.Helper()
	web := httptest.NewServer(pki.CRLHandler())
	t.Cleanup(web.Close)
	cert, err := pki.IssueClient("box")
	if err != nil {
		t.Fatal(err)
	}
	r := dmda.NewRevocation([]string{web.URL}, authorities(t, pki), "", quiet())
	if err := r.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	ap, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	o := dmda.SMTPOptions{Domain: "provider.de-mail.example", Host: "127.0.0.1", Port: uint16(ap.Port),
		Trust:       dmda.Trust{Roots: pki.Pool(), Names: []string{"other." + host, host}, Revocation: r},
		Certificate: func(context.Context) (*tls.Certificate, error) { return &cert, nil },
		Helo:        func() string { return "box.example" }}
	if change != nil {
		change(&o)
	}
	s := dmda.NewSMTP(o)
	t.Cleanup(s.Close)
	return s
}

func letter() *nexthop.Message {
	const text = "From: poststelle@gemeinde-a.de-mail.example\r\nTo: amt@gemeinde-b.de-mail.example\r\nSubject: x\r\nDate: Fri, 20 Nov 2026 08:00:00 +0000\r\n" +
		"Message-ID: <1@gemeinde-a.example>\r\n\r\nx\r\n"
	return &nexthop.Message{From: "poststelle@gemeinde-a.de-mail.example", Recipients: []nexthop.Recipient{{Address: "amt@gemeinde-b.de-mail.example"}},
		Size: int64(len(text)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
}

func TestConnector(t *testing.T) {
	pki := newPKI(t)
	p, addr := provider(t, pki)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if res := connector(t, pki, addr, nil).Deliver(ctx, letter()); res[0].Outcome != nexthop.Delivered {
		t.Fatalf("%+v", res)
	}
	if n := len(p.Deliveries()); n != 1 {
		t.Fatalf("%d deliveries", n)
	}
	stranger := newPKI(t)
	strange, err := stranger.IssueClient("box")
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*dmda.SMTPOptions){
		"another name":      func(o *dmda.SMTPOptions) { o.Trust.Names = []string{"mx.other.example"} },
		"another authority": func(o *dmda.SMTPOptions) { o.Trust.Roots = stranger.Pool() },
		"no revocation":     func(o *dmda.SMTPOptions) { o.Trust.Revocation = nil },
		"our certificate from elsewhere": func(o *dmda.SMTPOptions) {
			o.Certificate = func(context.Context) (*tls.Certificate, error) { return &strange, nil }
		},
		"no certificate of ours": func(o *dmda.SMTPOptions) {
			o.Certificate = func(context.Context) (*tls.Certificate, error) { return nil, errors.New("no certificate for this key") }
		},
	} {
		if res := connector(t, pki, addr, change).Deliver(ctx, letter()); res[0].Outcome != nexthop.Temporary {
			t.Errorf("%s: %+v", name, res)
		}
	}
	pki.Revoke(pki.Server().Leaf)
	if res := connector(t, pki, addr, nil).Deliver(ctx, letter()); res[0].Outcome != nexthop.Temporary || !strings.Contains(res[0].Reply.Text, "revoked") {
		t.Errorf("revoked server: %+v", res)
	}
	if n := len(p.Deliveries()); n != 1 {
		t.Errorf("%d deliveries", n)
	}
}
