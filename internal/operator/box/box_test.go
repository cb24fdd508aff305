package box

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// authority issues the server's and the client's certificate of a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t *testing.T, by *authority, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	c := issue(t, nil, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	return &authority{c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// server is a box that answers as h does.
func server(t *testing.T, cert *tls.Certificate, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequireAnyClientCert}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestKnowsTheBox: every way in which something else could answer is ErrStranger,
// and the handler never hears of the call.
func TestKnowsTheBox(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	cert := issue(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"box-1"}; c.IPAddresses = []net.IP{{127, 0, 0, 1}} })
	client := issue(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"box-1"}; c.ExtKeyUsage = c.ExtKeyUsage[1:] })
	key, err := hsm.Fingerprint(cert.Leaf.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	wrong := "sha256:" + strings.Repeat("0", 64)
	for name, tt := range map[string]struct {
		server *tls.Certificate
		opts   Options
		ok     bool
	}{
		"address":                    {cert, Options{Roots: ca.pool()}, true},
		"name":                       {cert, Options{Roots: ca.pool(), Name: "box-1"}, true},
		"key":                        {cert, Options{Key: key}, true},
		"both":                       {cert, Options{Roots: ca.pool(), Key: key}, true},
		"other name":                 {cert, Options{Roots: ca.pool(), Name: "box-2"}, false},
		"other authority":            {cert, Options{Roots: other.pool()}, false},
		"other key":                  {cert, Options{Key: wrong}, false},
		"right key, wrong name":      {cert, Options{Roots: ca.pool(), Name: "box-2", Key: key}, false},
		"right name, wrong key":      {cert, Options{Roots: ca.pool(), Key: wrong}, false},
		"a client's certificate":     {client, Options{Roots: ca.pool(), Name: "box-1"}, false},
		"expired":                    {issue(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"box-1"}; c.NotAfter = time.Now().Add(-time.Minute) }), Options{Roots: ca.pool(), Name: "box-1"}, false},
		"common name does not count": {issue(t, ca, func(c *x509.Certificate) { c.Subject.CommonName = "box-1" }), Options{Roots: ca.pool(), Name: "box-1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			heard := false
			tt.opts.Address = server(t, tt.server, func(w http.ResponseWriter, _ *http.Request) { heard = true; _, _ = io.WriteString(w, "{}") })
			tt.opts.Certificate = issue(t, ca, nil)
			c, err := New(tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			err = c.Call(t.Context(), manage.MethodStatus, nil, nil)
			if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, ErrStranger) || heard != tt.ok {
				t.Errorf("error %v, heard %v; want ok %v", err, heard, tt.ok)
			}
		})
	}
}

// TestAnswers: what comes back is a result, a refusal, or a fault, and never
// taken for another.
func TestAnswers(t *testing.T) {
	ca := newAuthority(t)
	cert := issue(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"box-1"} })
	var answer http.HandlerFunc
	address := server(t, cert, func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	c, err := New(Options{Address: address, Certificate: issue(t, ca, nil), Roots: ca.pool(), Name: "box-1", Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	call := func(h http.HandlerFunc) error {
		answer = h
		var out manage.Done
		return c.Call(t.Context(), manage.MethodCSR, manage.Subject{CommonName: "x"}, &out, "tenant-server")
	}
	text := func(status int, s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, s) }
	}
	if err := call(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/v1/keys/tenant-server/csr" || r.Header.Get("Content-Type") != "application/json" || string(body) != `{"commonName":"x"}` {
			t.Errorf("%s %s %s", r.URL.Path, r.Header, body)
		}
		_, _ = io.WriteString(w, "{}")
	}); err != nil {
		t.Error(err)
	}
	refusal := (*manage.Error)(nil)
	if err := call(text(403, `{"error":{"code":"denied","text":"no"}}`)); !errors.As(err, &refusal) || refusal.Code != "denied" {
		t.Errorf("refusal: %v", err)
	}
	if err := call(text(503, `{"error":{"code":"audit","text":"no"}}`)); !errors.As(err, &refusal) || !errors.Is(err, ErrUnable) {
		t.Errorf("unable: %v", err)
	}
	for name, h := range map[string]http.HandlerFunc{
		"no reason": text(403, `forbidden`),
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
		},
		"no JSON":      text(200, `<html>`),
		"too much":     text(200, strings.Repeat(" ", maxAnswer+1)),
		"empty answer": text(200, ""),
	} {
		if err := call(h); err == nil || errors.As(err, &refusal) || errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, h := range map[string]http.HandlerFunc{
		"cut off": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"too slow": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then net/http sees the caller hang up
			<-r.Context().Done()
		},
	} {
		if err := call(h); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.Call(t.Context(), manage.MethodStatus, nil, nil, "x"); err == nil {
		t.Error("a value for a method without braces")
	}
	if err := c.Call(t.Context(), manage.MethodConfig, json.RawMessage("{"), nil); err == nil {
		t.Error("no error from a box that cuts off")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Call(ended, manage.MethodStatus, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	cert := issue(t, nil, nil)
	for name, o := range map[string]Options{
		"no port":        {Address: "box", Certificate: cert, Key: "sha256:" + strings.Repeat("a", 64)},
		"no host":        {Address: ":8443", Certificate: cert, Key: "sha256:" + strings.Repeat("a", 64)},
		"no certificate": {Address: "box:1", Key: "sha256:" + strings.Repeat("a", 64)},
		"no trust":       {Address: "box:1", Certificate: cert},
		"short key":      {Address: "box:1", Certificate: cert, Key: "sha256:aa"},
		"upper case key": {Address: "box:1", Certificate: cert, Key: "sha256:" + strings.Repeat("A", 64)},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
