package relay

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// selfSigned makes a certificate that is its own authority, for these uses.
func selfSigned(t testing.TB, name string, until time.Time, uses ...x509.ExtKeyUsage) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-2 * time.Hour),
		NotAfter: until, IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: uses}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestWhichServerIsTheTenants(t *testing.T) {
	mx, other := selfSigned(t, "mx.amt.example", time.Now().Add(time.Hour), x509.ExtKeyUsageServerAuth), selfSigned(t, "mx.amt.example", time.Now().Add(time.Hour), x509.ExtKeyUsageServerAuth)
	old := selfSigned(t, "old.amt.example", time.Now().Add(-time.Hour), x509.ExtKeyUsageServerAuth)
	roots := x509.NewCertPool()
	roots.AddCert(mx)
	pin := func(c *x509.Certificate) string { sum := sha256.Sum256(c.Raw); return hex.EncodeToString(sum[:]) }
	for name, test := range map[string]struct {
		in     tenants.Inbound
		server config.Server
		shown  *x509.Certificate
		fault  string
	}{
		"host's name":              {tenants.Inbound{Roots: roots}, config.Server{Host: "mx.amt.example"}, mx, ""},
		"tenant's name":            {tenants.Inbound{Roots: roots, Names: []string{"x.example", "mx.amt.example"}}, config.Server{Host: "10.0.0.1"}, mx, ""},
		"server's own name":        {tenants.Inbound{Roots: roots, Names: []string{"x.example"}}, config.Server{Host: "10.0.0.1", Names: []string{"mx.amt.example"}}, mx, ""},
		"another name":             {tenants.Inbound{Roots: roots, Names: []string{"mx.amt.example"}}, config.Server{Host: "10.0.0.1", Names: []string{"x.example"}}, mx, "names"},
		"another authority":        {tenants.Inbound{Roots: roots}, config.Server{Host: "mx.amt.example"}, other, "authority"},
		"pinned":                   {tenants.Inbound{}, config.Server{Host: "10.0.0.1", Fingerprint: pin(other)}, other, ""},
		"pinned, another is shown": {tenants.Inbound{Roots: roots}, config.Server{Host: "mx.amt.example", Fingerprint: pin(other)}, mx, "pinned"},
		"pinned and over":          {tenants.Inbound{}, config.Server{Host: "10.0.0.1", Fingerprint: pin(old)}, old, "valid"},
	} {
		state := tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, PeerCertificates: []*x509.Certificate{test.shown}}
		err := serverTLS(test.in, test.server).VerifyConnection(state)
		if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%s: %v, want %q", name, err, test.fault)
		}
	}
}

// A route lives as long as what it is made of stays as it is.
func TestRouteFollowsTheConfiguration(t *testing.T) {
	r := New(Options{Log: slog.New(slog.DiscardHandler)})
	a := &tenants.Tenant{ID: "a", Inbound: tenants.Inbound{Servers: []config.Server{{Host: "mx", Port: 25}}}}
	first := r.routes.to(a)
	same := *a
	if r.routes.to(&same) != first {
		t.Error("the route was made anew although nothing changed")
	}
	changed := tenants.Tenant{ID: "a", Inbound: tenants.Inbound{Servers: []config.Server{{Host: "mx", Port: 25, Weight: 1}}}}
	if r.routes.to(&changed) == first {
		t.Error("the old route was kept although a weight changed")
	}
	r.routes.close()
}
