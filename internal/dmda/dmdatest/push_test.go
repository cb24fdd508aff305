package dmdatest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// gateway is a server that takes what the provider pushes, and refuses
// recipients named refuse@.
type gateway struct {
	mu      sync.Mutex
	clients []string
	raw     [][]byte
	rcpt    []string
}

func (g *gateway) NewSession(c *smtp.Conn) (smtp.Session, error) {
	state, _ := c.TLSConnectionState()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clients = append(g.clients, state.PeerCertificates[0].Subject.CommonName)
	return &gatewaySession{g}, nil
}

type gatewaySession struct{ *gateway }

func (s *gatewaySession) Reset()                               {}
func (s *gatewaySession) Logout() error                        { return nil }
func (s *gatewaySession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *gatewaySession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "refuse@") {
		return reply(550, "5.1.1", "unknown")
	}
	s.rcpt = append(s.rcpt, to)
	return nil
}

func (s *gatewaySession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw = append(s.raw, b)
	return err
}

// startGateway listens with a certificate of pki for gate.example.
func startGateway(t *testing.T, pki *PKI) (*gateway, string) {
	t.Helper()
	cert, err := pki.withKey(hostTemplate([]string{"gate.example"}, x509.ExtKeyUsageServerAuth))
	if err != nil {
		t.Fatal(err)
	}
	config := tlsprofile.Server(func() (*tls.Certificate, error) { return &cert, nil })
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pki.Pool()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{}
	srv := smtp.NewServer(g)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return g, l.Addr().String()
}

func TestPush(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.GatewayName = "gate.example" })
	g, address := startGateway(t, w.pki)
	body := []byte("Zeile\r\n.\r\n..\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n\r\n\r\n")
	c, err := w.Push(t.Context(), address, DeMail{
		From: other, To: []string{postA, postB}, CC: []string{"x@gemeinde-a.de-mail.example"}, Subject: "Grüße aus dem Amt", Body: body,
		Options: demail.Options{ConfirmReceipt: true}, PrivateID: "7", ReplyTo: other, Fields: [][2]string{{"x-odd", "1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.raw) != 1 || !bytes.Equal(g.raw[0], c.Raw) || g.clients[0] != "mail."+domain || len(g.rcpt) != 3 {
		t.Fatalf("arrived: %d messages for %q from %q", len(g.raw), g.rcpt, g.clients)
	}
	h, got, err := split(g.raw[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, faults := demail.Validate(h); faults != nil {
		t.Error(faults)
	}
	if _, err := demail.VerifyIntegrity(h, bytes.NewReader(got), demail.VerifyOptions{}); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got, body) || c.BodySHA256 != sha256.Sum256(body) || h.Get("message-id") != c.MessageID || h.Get("x-odd") != "1" {
		t.Error("body or numbers are not the composed ones")
	}
	if err := w.PushComposed(t.Context(), address, c); err != nil || len(g.raw) != 2 {
		t.Errorf("the same again: %v", err)
	}
	_, err = w.Push(t.Context(), address, DeMail{From: other, To: []string{postA}, BCC: "b@gemeinde-a.de-mail.example"})
	if err != nil || g.rcpt[len(g.rcpt)-1] != "b@gemeinde-a.de-mail.example" || len(g.rcpt) != 7 {
		t.Errorf("blind copy: %v, %q", err, g.rcpt)
	}
}

func TestWholeLines(t *testing.T) {
	for in, want := range map[string]bool{
		"": true, "a": true, "a\r\n": true, "a\r\n\r\nb": true, "\r\n": true,
		"\n": false, "a\n": false, "a\r": false, "a\rb\r\n": false, "a\r\r\n": false, "a\r\n\n": false, "\x00": false, "\r": false,
	} {
		if got := wholeLines([]byte(in)); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func TestPushRefused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.GatewayName = "gate.example" })
	_, address := startGateway(t, w.pki)
	_, err := w.Push(t.Context(), address, DeMail{From: other, To: []string{"refuse@gemeinde-a.de-mail.example"}})
	if step, code := code(err); step != "RCPT" || code != 550 {
		t.Errorf("refusal: %v", err)
	}
	for name, d := range map[string]DeMail{
		"no recipient": {From: other}, "bad recipient": {From: other, To: []string{"x"}},
		"injection": {From: other, To: []string{postA}, PrivateID: "a\r\nX: y"},
	} {
		if _, err := w.Push(t.Context(), address, d); err == nil {
			t.Errorf("%s was pushed", name)
		}
	}
	stranger, err := NewPKI(PKIOptions{Hosts: []string{"x.example"}})
	if err != nil {
		t.Fatal(err)
	}
	_, foreign := startGateway(t, stranger)
	if _, err := w.Push(t.Context(), foreign, DeMail{From: other, To: []string{postA}}); err == nil {
		t.Error("a gateway that nobody certified got a De-Mail")
	}
	w.cfg.GatewayName = "other.example"
	if _, err := w.Push(t.Context(), address, DeMail{From: other, To: []string{postA}}); err == nil {
		t.Error("a gateway of another name got a De-Mail")
	}
}

func TestPushStopsWithContext(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.Push(ctx, l.Addr().String(), DeMail{From: other, To: []string{postA}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestComposeProofs(t *testing.T) {
	w := newWorld(t, nil)
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := w.pki.IssueSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	opt := demail.VerifyOptions{Roots: w.pki.Pool(), Revocation: func(_, _ *x509.Certificate) error { return nil }}
	for name, c := range map[string]struct {
		d    DeMail
		alg  string
		want error
	}{
		"plain":         {DeMail{}, "sha256", nil},
		"authoritative": {DeMail{Options: demail.Options{Authoritative: true}}, "sha256/ec-dsa", nil},
		"RSA-PSS":       {DeMail{Integrity: &demail.IntegrityOptions{Signer: key, PSS: true, Certificate: cert}}, "sha256/rsassa-pss", nil},
		"ident":         {DeMail{Type: demail.TypeIdentification}, "sha256/ec-dsa", nil},
		"notification":  {DeMail{Type: demail.TypeNotification, Notify: demail.NotifyOther}, "sha256", nil},
		"not signed": {DeMail{Options: demail.Options{Authoritative: true}, Integrity: &demail.IntegrityOptions{}},
			"", demail.ErrUnsigned},
		"spoiled body": {DeMail{Spoil: func(_ *demail.Header, b []byte) []byte { return append(b, 'x') }}, "", demail.ErrBodyHash},
		"spoiled header": {DeMail{Spoil: func(h *demail.Header, b []byte) []byte {
			_ = h.Replace("subject", "other")
			return b
		}}, "", demail.ErrHeaderHash},
	} {
		c.d.From, c.d.To = other, []string{postA}
		m, err := w.Compose(c.d)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		h, body, err := split(m.Raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		res, err := demail.VerifyIntegrity(h, bytes.NewReader(body), opt)
		if !errors.Is(err, c.want) || err == nil && res.Algorithm.String() != c.alg {
			t.Errorf("%s: %v, %v", name, res.Algorithm, err)
		}
		if _, faults := demail.Validate(h); faults.Err() != nil {
			t.Errorf("%s: %v", name, faults)
		}
	}
}

// TestOpenSSLBelievesAStoredMessage checks a message as it lies in the mailbox
// with openssl alone: certificate chain, body hash, signature.
func TestOpenSSLBelievesAStoredMessage(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.send(t, postA, []string{other}, "x-de-mail-authoritative: yes\r\n"+simple); err != nil {
		t.Fatal(err)
	}
	d := w.Deliveries()[0]
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	unb64 := func(s string) []byte {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	leaf := file("leaf.der", unb64(d.Header.Get(demail.FieldSignatureCertificate)))
	ca := file("ca.pem", w.pki.CAPEM())
	crl, err := w.pki.CRL()
	if err != nil {
		t.Fatal(err)
	}
	crlFile := file("crl.pem", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crl}))
	if out := openssl(t, "verify", "-crl_check", "-CRLfile", crlFile, "-CAfile", ca, leaf); !strings.Contains(out, "OK") {
		t.Errorf("chain: %s", out)
	}
	raw := fieldText(d.Header, demail.FieldIntegrity)
	tags := map[string]string{}
	_, list, _ := strings.Cut(raw, ":")
	for _, part := range strings.Split(list, ";") {
		k, v, _ := strings.Cut(part, "=")
		tags[strings.TrimSpace(k)] = v
	}
	signed := ""
	for _, name := range strings.Split(tags["h"], ":") {
		signed += fieldText(d.Header, strings.TrimSpace(name))
	}
	signed += raw[:strings.LastIndex(raw, " b=")+3]
	key := file("key.pem", []byte(openssl(t, "x509", "-inform", "DER", "-in", leaf, "-pubkey", "-noout")))
	out := openssl(t, "dgst", "-sha256", "-verify", key, "-signature", file("sig", unb64(tags["b"])), file("signed", []byte(signed)))
	if !strings.Contains(out, "Verified OK") {
		t.Errorf("signature: %s", out)
	}
	if out := openssl(t, "dgst", "-sha256", "-binary", file("body", []byte("Hallo\r\n"))); out != string(unb64(tags["bh"])) {
		t.Error("body hash")
	}
}

// fieldText is the raw first field of that name.
func fieldText(h *demail.Header, name string) string {
	for _, f := range h.Fields() {
		if f.Is(name) {
			return string(f.Raw())
		}
	}
	return ""
}

func openssl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("openssl", args...).Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("openssl is missing: apt-get install openssl")
	}
	if err != nil {
		t.Errorf("openssl %s: %v", args[0], err)
	}
	return string(out)
}

func TestIssueFromCSR(t *testing.T) {
	w := newWorld(t, nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	chain, err := w.pki.IssueFromCSR(csr, "gateway-1")
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil || len(cert.Certificate) != 2 {
		t.Fatal(err)
	}
	if _, err := w.dial(t, cert); err != nil {
		t.Error(err)
	}
	der[len(der)-1] ^= 1
	spoiled := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	for _, b := range [][]byte{nil, []byte("x"), spoiled, pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: []byte("x")})} {
		if _, err := w.pki.IssueFromCSR(b, "gateway-1"); err == nil {
			t.Errorf("%.20q was certified", b)
		}
	}
}

func TestCRL(t *testing.T) {
	w := newWorld(t, nil)
	srv := httptest.NewServer(w.pki.CRLHandler())
	defer srv.Close()
	get := func() (*x509.RevocationList, error) {
		resp, err := srv.Client().Get(srv.URL)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		return x509.ParseRevocationList(b)
	}
	w.pki.Revoke(w.gateway.Leaf)
	for mode, ok := range map[CRLMode]bool{CRLFresh: true, CRLExpired: true, CRLForeign: false} {
		w.pki.SetCRL(mode)
		l, err := get()
		if err != nil {
			t.Fatal(err)
		}
		if (l.CheckSignatureFrom(w.pki.ca) == nil) != ok || l.NextUpdate.Before(time.Now()) != (mode == CRLExpired) {
			t.Errorf("mode %d: list until %v", mode, l.NextUpdate)
		}
		if n := len(l.RevokedCertificateEntries); n != 1 || l.RevokedCertificateEntries[0].SerialNumber.Cmp(w.gateway.Leaf.SerialNumber) != 0 {
			t.Errorf("mode %d: %d entries", mode, n)
		}
	}
	w.pki.SetCRL(CRLDown)
	if _, err := get(); err == nil {
		t.Error("the list is up")
	}
}

func TestStoredPKI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	opt := PKIOptions{Hosts: []string{"mail." + domain}}
	first, isNew, err := LoadOrNewPKI(dir, opt)
	if err != nil || !isNew {
		t.Fatal(err)
	}
	again, isNew, err := LoadOrNewPKI(dir, opt)
	if err != nil || isNew || !again.ca.Equal(first.ca) {
		t.Fatalf("second load: %v", err)
	}
	cert, err := again.IssueClient("x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: first.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "ca-key.pem")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the authority's key is readable: %v", info.Mode())
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrNewPKI(dir, opt); err == nil {
		t.Error("a broken folder was overwritten")
	}
}
