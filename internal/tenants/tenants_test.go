package tenants

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// authority issues certificates for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

func (a *authority) issue(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return out, key
}

func (a *authority) client(name string, usage x509.ExtKeyUsage) *x509.Certificate {
	c, _ := a.issue(&x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{usage}})
	return c
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func document(provider, a, b *authority) *config.Document {
	tenant := func(id string, ca *authority) config.Tenant {
		return config.Tenant{ID: id, Name: id, Account: "poststelle@" + id + ".de-mail.example", Postmaster: "postmaster@" + id + ".example",
			Clients:  []config.Client{{Name: "mail", CA: ca.pem(), Names: []string{"mail." + id + ".example"}}},
			Domains:  []config.Domain{{Name: id + ".de-mail.example"}, {Name: "in." + id + ".de-mail.example", Direction: config.DirectionReceive}},
			Mappings: []config.Mapping{{Mail: "amt@" + id + ".example", DeMail: "amt@" + id + ".de-mail.example"}},
		}
	}
	return &config.Document{Version: 1, Serial: 7, Box: "pforte-1",
		Provider: config.Provider{Name: "provider.de-mail.example", Host: "10.20.0.10", CA: provider.pem(), Domains: []string{"de-mail.example"}},
		Tenants:  []config.Tenant{tenant("gemeinde-a", a), tenant("gemeinde-b", b)}}
}

func TestSystemByCertificate(t *testing.T) {
	provider, a, b := newAuthority(t, "provider"), newAuthority(t, "a"), newAuthority(t, "b")
	doc := document(provider, a, b)
	pinned := newAuthority(t, "pinned").client("anything.example", x509.ExtKeyUsageClientAuth)
	stale, _ := a.issue(&x509.Certificate{DNSNames: []string{"mail.gemeinde-a.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	doc.Tenants[1].Clients = append(doc.Tenants[1].Clients,
		config.Client{Name: "pinned", Fingerprint: fingerprint(pinned), Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}},
		config.Client{Name: "greedy", CA: a.pem(), Names: []string{"both.example"}})
	doc.Tenants[0].Clients = append(doc.Tenants[0].Clients, config.Client{Name: "greedy", CA: a.pem(), Names: []string{"both.example"}})
	s, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	usual, far := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("192.0.2.1")
	tests := []struct {
		name string
		cert *x509.Certificate
		from netip.Addr
		want string
		err  error
	}{
		{"tenant a", a.client("mail.gemeinde-a.example", x509.ExtKeyUsageClientAuth), usual, "gemeinde-a", nil},
		{"upper case name", b.client("Mail.Gemeinde-B.example", x509.ExtKeyUsageClientAuth), usual, "gemeinde-b", nil},
		{"pinned", pinned, netip.MustParseAddr("::ffff:10.0.0.7"), "gemeinde-b", nil},
		{"pinned from elsewhere", pinned, far, "", ErrNetwork},
		{"a's name from b's authority", b.client("mail.gemeinde-a.example", x509.ExtKeyUsageClientAuth), usual, "", ErrStranger},
		{"another name", a.client("other.gemeinde-a.example", x509.ExtKeyUsageClientAuth), usual, "", ErrStranger},
		{"server certificate", a.client("mail.gemeinde-a.example", x509.ExtKeyUsageServerAuth), usual, "", ErrStranger},
		{"expired", stale, usual, "", ErrStranger},
		{"two tenants", a.client("both.example", x509.ExtKeyUsageClientAuth), usual, "", ErrSeveral},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			sys, err := s.System([]*x509.Certificate{test.cert}, test.from, time.Now())
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err == nil && sys.Tenant.ID != test.want {
				t.Fatalf("tenant %s, want %s", sys.Tenant.ID, test.want)
			}
		})
	}
	if _, err := s.System(nil, usual, time.Now()); !errors.Is(err, ErrNoCertificate) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestDomains(t *testing.T) {
	ca := newAuthority(t, "ca")
	s, err := New(document(ca, ca, ca))
	if err != nil {
		t.Fatal(err)
	}
	owner, d, ok := s.Domain("gemeinde-a.de-mail.example")
	if !ok || owner.ID != "gemeinde-a" || !d.Sends || !d.Receives {
		t.Errorf("domain of a: %v %+v %v", owner, d, ok)
	}
	if _, d, ok = s.Domain("in.gemeinde-b.de-mail.example"); !ok || d.Sends || !d.Receives {
		t.Errorf("receiving domain of b: %+v %v", d, ok)
	}
	if _, _, ok = s.Domain("sub.gemeinde-a.de-mail.example"); ok {
		t.Error("a domain that nobody declared belongs to somebody")
	}
	for text, want := range map[string]bool{"x@gemeinde-z.de-mail.example": true, "x@de-mail.example": true, "x@xde-mail.example": false, "x@example.org": false} {
		a, err := demail.ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		if s.IsDeMail(a) != want {
			t.Errorf("IsDeMail(%s) = %v", text, !want)
		}
	}
	for text, want := range map[string]bool{"amt@gemeinde-a.de-mail.example": true, "poststelle@gemeinde-a.de-mail.example": true,
		"other@gemeinde-a.de-mail.example": false, "amt@gemeinde-b.de-mail.example": false} {
		a, _ := demail.ParseAddress(text)
		if _, got := s.Tenant("gemeinde-a").Owns(a); got != want {
			t.Errorf("Owns(%s) = %v", text, got)
		}
	}
}

func TestBrokenDocuments(t *testing.T) {
	ca := newAuthority(t, "ca")
	for name, test := range map[string]struct {
		change func(*config.Document)
		want   string
	}{
		"two tenants with one domain": {func(d *config.Document) { d.Tenants[1].Domains = d.Tenants[0].Domains }, "belongs to tenant"},
		"two tenants with one id":     {func(d *config.Document) { d.Tenants[1].ID = d.Tenants[0].ID }, "twice"},
		"bad direction":               {func(d *config.Document) { d.Tenants[0].Domains[0].Direction = "sideways" }, "direction"},
		"bad account":                 {func(d *config.Document) { d.Tenants[0].Account = "nobody" }, "account"},
		"bad mapping":                 {func(d *config.Document) { d.Tenants[0].Mappings[0].DeMail = "nobody" }, "line 1: \"nobody\" is no De-Mail address"},
		"bad authority":               {func(d *config.Document) { d.Tenants[0].Clients[0].CA = "x" }, "client mail"},
		"bad provider":                {func(d *config.Document) { d.Provider.CA = "x" }, "provider"},
		"bad table":                   {func(d *config.Document) { d.Tenants[0].MappingTable = "mail;deMail\nx;y\n" }, "line 2"},
		"bad direction of a mapping":  {func(d *config.Document) { d.Tenants[0].Mappings[0].Direction = "up" }, "mapping 1: there is no direction"},
		"bad policy":                  {func(d *config.Document) { d.Tenants[0].Integrity = "hope" }, "integrity"},
		"bad option": {func(d *config.Document) {
			d.Tenants[0].Options = []config.DispatchDefault{{Sender: "*", Ask: []string{"x"}}}
		}, "options of *"},
		"bad keyword":             {func(d *config.Document) { d.Tenants[0].Keywords = []config.Keyword{{Text: "k", Ask: []string{"x"}}} }, "keyword k"},
		"bad servers":             {func(d *config.Document) { d.Tenants[0].Inbound.Servers = []config.Server{{Host: "a"}} }, "inbound"},
		"bad secret":              {func(d *config.Document) { d.Tenants[0].Clients[0].User = "x" }, "argon2id"},
		"application for all":     {func(d *config.Document) { d.Tenants[0].Clients[0].Application = true }, "must name its senders"},
		"bad signature authority": {func(d *config.Document) { d.Provider.SignatureAuthorities = []config.SignatureAuthority{{Name: "o"}} }, "signature authority o"},
		"bad fingerprint":         {func(d *config.Document) { d.Tenants[0].Clients[0].Fingerprint = "12" }, "fingerprint"},
	} {
		doc := document(ca, ca, ca)
		test.change(doc)
		if s, err := New(doc); s != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLive(t *testing.T) {
	ca := newAuthority(t, "ca")
	one, err := New(document(ca, ca, ca))
	if err != nil {
		t.Fatal(err)
	}
	live := NewLive(one)
	changed := live.Changed()
	select {
	case <-changed:
		t.Fatal("changed before Set")
	default:
	}
	two := *one
	two.Serial++
	live.Set(&two)
	<-changed
	if live.Snapshot().Serial != one.Serial+1 {
		t.Error("the old snapshot still holds")
	}
}
