package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		want int
	}{
		"help":              {[]string{"--help"}, exitDone},
		"no such verb":      {[]string{"srve"}, exitUsage},
		"no such flag":      {[]string{"serve", "--prot", "1"}, exitUsage},
		"an argument":       {[]string{"serve", "now"}, exitUsage},
		"no request":        {[]string{"issue"}, exitUsage},
		"no gateway":        {[]string{"push", "--to", "a@b.example"}, exitUsage},
		"no such request":   {[]string{"issue", "--csr", filepath.Join(dir, "none")}, exitFailed},
		"bad account":       {[]string{"serve", "--account", "x"}, exitFailed},
		"bad address":       {[]string{"serve", "--account", "x=X"}, exitFailed},
		"bad token":         {[]string{"serve", "--token", "../x"}, exitFailed},
		"bad listener":      {[]string{"serve", "--listen", "127.0.0.1:99999"}, exitFailed},
		"nobody there":      {[]string{"push", "--gateway", "127.0.0.1:1", "--to", "a@b.example"}, exitFailed},
		"no such body":      {[]string{"push", "--gateway", "127.0.0.1:1", "--to", "a@b.example", "--body", filepath.Join(dir, "none")}, exitFailed},
		"no such algorithm": {[]string{"push", "--gateway", "127.0.0.1:1", "--to", "a@b.example", "--algorithm", "md5"}, exitFailed},
		"none to serve by":  {[]string{"serve", "--algorithm", "sha1/rsa"}, exitFailed},
		"not the gateway's": {[]string{"serve", "--gateway", "127.0.0.1:1", "--ca", "main.go"}, exitFailed},
		"authority is not":  {[]string{"push", "--gateway", "127.0.0.1:1", "--to", "a@b.example", "--ca", "main.go"}, exitFailed},
	} {
		code, err := run(t.Context(), append(c.args, "--dir="+filepath.Join(dir, "pki")), &bytes.Buffer{})
		if code != c.want || (err == nil) != (c.want == exitDone) {
			t.Errorf("%s: %d, %v, want %d", name, code, err, c.want)
		}
	}
}

// story is what serve prints, with a way to wait for it.
type story struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func (s *story) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

// line waits for a line with this beginning.
func (s *story) line(t *testing.T, prefix string) string {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		text := s.text.String()
		s.mu.Unlock()
		for l := range strings.Lines(text) {
			if strings.HasPrefix(l, prefix) && strings.HasSuffix(l, "\n") {
				return strings.TrimSpace(l)
			}
		}
		select {
		case <-s.more:
		case <-limit:
			t.Fatalf("no line %q in:\n%s", prefix, text)
		}
	}
}

// TestServe plays a gateway: a certificate by request, a message in, the line that
// tells of it.
func TestServe(t *testing.T) {
	dir := t.TempDir()
	pkiDir := filepath.Join(dir, "pki")
	s := &story{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan int, 1)
	go func() {
		code, _ := run(ctx, []string{"serve", "--dir", pkiDir, "--listen", "127.0.0.1:0"}, s)
		served <- code
	}()
	_, address, _ := strings.Cut(s.line(t, "provider "), " listens on ")
	if swaks := s.line(t, "try: swaks"); !strings.Contains(swaks, filepath.Join(pkiDir, "token-gateway-key.pem")) {
		t.Errorf("swaks line: %s", swaks)
	}
	cert := certify(t, dir, pkiDir)
	pki, err := dmdatest.LoadPKI(pkiDir)
	if err != nil {
		t.Fatal(err)
	}
	config := tlsprofile.Client()
	config.ServerName, config.RootCAs, config.Certificates = "localhost", pki.Pool(), []tls.Certificate{cert}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	const from = "poststelle@gemeinde-a.de-mail.example"
	message := "From: " + from + "\r\nSubject: geheim\r\nx-de-mail-authoritative: yes\r\n\r\nx\r\n"
	if err := smtp.NewClient(conn).SendMail(from, []string{"max.mustermann@de-mail.example"}, strings.NewReader(message)); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	line := s.line(t, "taken ")
	if !strings.Contains(line, "from "+from+" to max.mustermann@de-mail.example: 3 bytes") || !strings.HasSuffix(line, "signed, authoritative") {
		t.Errorf("told: %s", line)
	}
	if strings.Contains(s.text.String(), "geheim") {
		t.Error("the subject is told")
	}
	cancel()
	if code := <-served; code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// certify makes a key and has issue answer its request.
func certify(t *testing.T, dir, pkiDir string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, chain := filepath.Join(dir, "gate.csr"), filepath.Join(dir, "gate.pem")
	if err := os.WriteFile(csr, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, err := run(t.Context(), []string{"issue", "--dir", pkiDir, "--csr", csr, "--out", chain}, &bytes.Buffer{}); code != exitDone {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code, err := run(t.Context(), []string{"issue", "--dir", pkiDir, "--csr", csr}, &out); code != exitDone || !strings.HasPrefix(out.String(), "-----BEGIN CERTIFICATE") {
		t.Errorf("to standard output: %v", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chainPEM, err := os.ReadFile(chain)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(chainPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestAnswersArePushed plays two providers: the second stands for the gateway and
// gets what the first one confirms.
func TestAnswersArePushed(t *testing.T) {
	dir := t.TempDir()
	pkiDir := filepath.Join(dir, "pki")
	ctx, cancel := context.WithCancel(t.Context())
	serve := func(args ...string) (*story, string, chan int) {
		s, served := &story{more: make(chan struct{}, 1)}, make(chan int, 1)
		go func() {
			code, _ := run(ctx, append([]string{"serve", "--dir", pkiDir, "--listen", "127.0.0.1:0"}, args...), s)
			served <- code
		}()
		_, address, _ := strings.Cut(s.line(t, "provider "), " listens on ")
		return s, address, served
	}
	// Its own client certificate names provider.de-mail.example, and its system
	// address is an account of that token.
	gate, gateway, gateServed := serve("--token", "provider.de-mail.example", "--account", "versandbestaetigung@provider.de-mail.example=System", "--mailbox", "*@gemeinde-a.de-mail.example")
	s, address, served := serve("--gateway", gateway, "--algorithm", "sha384/ec-dsa")
	pki, err := dmdatest.LoadPKI(pkiDir)
	if err != nil {
		t.Fatal(err)
	}
	config := tlsprofile.Client()
	config.ServerName, config.RootCAs, config.Certificates = "localhost", pki.Pool(), []tls.Certificate{certify(t, dir, pkiDir)}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const from = "poststelle@gemeinde-a.de-mail.example"
	message := "From: " + from + "\r\nSubject: geheim\r\nx-de-mail-confirmation-of-dispatch: yes\r\n\r\nx\r\n"
	if err := smtp.NewClient(conn).SendMail(from, []string{"max.mustermann@de-mail.example"}, strings.NewReader(message)); err != nil {
		t.Fatal(err)
	}
	line := s.line(t, "answered ")
	if !strings.HasSuffix(line, "to "+from+" about [max.mustermann@de-mail.example]: confirmation of dispatch, pushed") {
		t.Errorf("told: %s", line)
	}
	if line := gate.line(t, "taken "); !strings.Contains(line, "from versandbestaetigung@provider.de-mail.example to "+from) {
		t.Errorf("the gateway: %s", line)
	}
	if strings.Contains(s.text.String(), "geheim") {
		t.Error("the subject is told")
	}
	cancel()
	if a, b := <-served, <-gateServed; a != exitDone || b != exitDone {
		t.Errorf("exit codes %d, %d", a, b)
	}
}

// TestPushRefused pushes to another provider, which knows no such sender.
func TestPushRefused(t *testing.T) {
	pkiDir := filepath.Join(t.TempDir(), "pki")
	s := &story{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan int, 1)
	go func() {
		// Its own client certificate names provider.de-mail.example: make that the token.
		code, _ := run(ctx, []string{"serve", "--dir", pkiDir, "--listen", "127.0.0.1:0", "--token", "provider.de-mail.example"}, s)
		served <- code
	}()
	_, address, _ := strings.Cut(s.line(t, "provider "), " listens on ")
	args := []string{"push", "--dir", pkiDir, "--gateway", address, "--to", "poststelle@gemeinde-b.de-mail.example"}
	if code, err := run(t.Context(), args, &bytes.Buffer{}); code != exitRefused || !strings.Contains(err.Error(), "MAIL: 550") {
		t.Errorf("stranger: %d, %v", code, err)
	}
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, []byte("a\nb\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	args = append(args, "--from", "poststelle@gemeinde-a.de-mail.example", "--body", body)
	if code, err := run(t.Context(), args, &out); code != exitDone || !strings.HasPrefix(out.String(), "pushed ") {
		t.Errorf("known: %d, %v", code, err)
	}
	if line := s.line(t, "taken "); !strings.Contains(line, ": 6 bytes") {
		t.Errorf("told: %s", line)
	}
	cancel()
	<-served
}
