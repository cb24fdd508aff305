package daemon

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	a := &authority{}
	c := a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = c.Leaf, c.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

func (a *authority) issue(t testing.TB, c *x509.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// host issues a certificate for both ends of TLS.
func (a *authority) host(t testing.TB, name string) tls.Certificate {
	return a.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}})
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// arrived is a message in a tenant's mail server.
type arrived struct {
	from string
	to   []string
	raw  []byte
}

// mailServer is a tenant's mail server: go-smtp as it is, with STARTTLS.
type mailServer struct {
	mu      sync.Mutex
	got     []arrived
	changed chan struct{}
	refuse  map[string]*smtp.SMTPError // by recipient
	srv     *smtp.Server
	addr    *net.TCPAddr
}

func newMailServer(t testing.TB, cert tls.Certificate) *mailServer {
	t.Helper()
	m := &mailServer{changed: make(chan struct{}), refuse: map[string]*smtp.SMTPError{}}
	m.srv = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailSession{m: m}, nil }))
	m.srv.Domain, m.srv.EnableDSN, m.srv.EnableSMTPUTF8 = "mail.example", true, true
	m.srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
	m.srv.ErrorLog = discard{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = ln.Addr().(*net.TCPAddr)
	go func() { _ = m.srv.Serve(ln) }()
	t.Cleanup(func() { _ = m.srv.Close() })
	return m
}

type discard struct{}

func (discard) Printf(string, ...any) {}
func (discard) Println(...any)        {}

type mailSession struct {
	m *mailServer
	a arrived
}

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.a = arrived{from: from}
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if e := s.m.refuse[to]; e != nil {
		return e
	}
	s.a.to = append(s.a.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.a.raw = raw
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.got = append(s.m.got, s.a)
	close(s.m.changed)
	s.m.changed = make(chan struct{})
	return nil
}

func (s *mailSession) Reset()        {}
func (s *mailSession) Logout() error { return nil }

func (m *mailServer) setRefusal(to string, code int, enhanced smtp.EnhancedCode) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if code == 0 {
		delete(m.refuse, to)
		return
	}
	m.refuse[to] = &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: "not now or never"}
}

// await waits for the n-th message (from 1).
func (m *mailServer) await(t testing.TB, n int) arrived {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		m.mu.Lock()
		got, changed := m.got, m.changed
		m.mu.Unlock()
		if len(got) >= n {
			return got[n-1]
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("%d messages came to the tenant's server, want %d", len(got), n)
		}
	}
}

func (m *mailServer) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.got)
}

// marks collects milestones.
type marks struct {
	mu      sync.Mutex
	lines   []string
	changed chan struct{}
}

func (m *marks) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, string(p))
	close(m.changed)
	m.changed = make(chan struct{})
	return len(p), nil
}

// await waits for the n-th mark of that name (from 1).
func (m *marks) await(t testing.TB, name string, n int) milestone.Mark {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		m.mu.Lock()
		lines, changed := m.lines, m.changed
		m.mu.Unlock()
		seen := 0
		for _, l := range lines {
			if mark, ok := milestone.Parse(l); ok && mark.Name == name {
				if seen++; seen == n {
					return mark
				}
			}
		}
		select {
		case <-changed:
		case <-limit.C:
			t.Fatalf("mark %s came %d times, want %d; marks:\n%s", name, seen, n, strings.Join(lines, ""))
		}
	}
}

const (
	patience = 20 * time.Second
	boxName  = "box.hosting.example"
	mxName   = "mx.provider.de-mail.example"
	officeA  = "poststelle@gemeinde-a.de-mail.example"
	mailA    = "poststelle@gemeinde-a.example"
	officeB  = "poststelle@gemeinde-b.de-mail.example"
	citizen  = "erika@buerger.de-mail.example"
)

// world is a box with its surroundings: a provider, two tenants' mail servers,
// and their systems' certificates.
type world struct {
	t        testing.TB
	boxCA    *authority
	caA, caB *authority
	pki      *dmdatest.PKI
	provider *dmdatest.Provider
	serverA  *mailServer
	serverB  *mailServer
	clientA  tls.Certificate
	clientB  tls.Certificate

	box, token tls.Certificate
	doc        *config.Document
	fs         vfs.FS
	dir        string
	schedule   queue.Schedule
	guard      smtpguard.Limits
	options    func(*Options)

	running *running
}

// running is one life of the daemon.
type running struct {
	d        *Daemon
	marks    *marks
	reload   chan os.Signal
	stop     context.CancelFunc
	done     chan error
	starttls string
	implicit string
	push     string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, boxCA: newAuthority(t, "box"), caA: newAuthority(t, "a"), caB: newAuthority(t, "b"), fs: vfs.NewMem(), dir: t.TempDir(),
		schedule: queue.Schedule{Waits: []time.Duration{50 * time.Millisecond}, GiveUp: time.Hour}}
	w.box = w.boxCA.host(t, boxName)
	w.clientA, w.clientB = w.caA.host(t, "mail.gemeinde-a.example"), w.caB.host(t, "mail.gemeinde-b.example")
	w.serverA, w.serverB = newMailServer(t, w.clientA), newMailServer(t, w.clientB)
	makeDurable(t, w.fs, w.dir)
	var err error
	if w.pki, err = dmdatest.NewPKI(dmdatest.PKIOptions{Hosts: []string{mxName}}); err != nil {
		t.Fatal(err)
	}
	if w.token, err = w.pki.IssueClient("box"); err != nil {
		t.Fatal(err)
	}
	providerPort := w.startProvider()
	web := httptest.NewServer(w.pki.CRLHandler())
	t.Cleanup(web.Close)
	tenant := func(id string, ca *authority, server *mailServer) config.Tenant {
		return config.Tenant{ID: id, Name: id, Account: "poststelle@" + id + ".de-mail.example", Postmaster: "postmaster@" + id + ".example", Language: "de", MaxSize: 64 << 20,
			Clients:  []config.Client{{Name: "mail server", CA: ca.pem(), Names: []string{"mail." + id + ".example"}}},
			Domains:  []config.Domain{{Name: id + ".de-mail.example"}},
			Mappings: []config.Mapping{{Mail: "poststelle@" + id + ".example", DeMail: "poststelle@" + id + ".de-mail.example"}, {Mail: "bauamt@" + id + ".example", DeMail: "bauamt@" + id + ".de-mail.example"}},
			Inbound: config.Inbound{CA: ca.pem(), Names: []string{"mail." + id + ".example"},
				Servers: []config.Server{{Host: "127.0.0.1", Port: uint16(server.addr.Port), TLS: config.TLSStart}}}}
	}
	w.doc = &config.Document{Version: 1, Serial: 1, Box: "pforte-1",
		Provider: config.Provider{Name: "provider.de-mail.example", Host: "127.0.0.1", Port: providerPort, CA: string(w.pki.CAPEM()),
			ServerNames: []string{mxName}, ClientNames: []string{mxName}, Domains: []string{"de-mail.example"}, CRL: []string{web.URL}},
		Tenants: []config.Tenant{tenant("gemeinde-a", w.caA, w.serverA), tenant("gemeinde-b", w.caB, w.serverB)}}
	return w
}

// makeDurable makes a folder with its parents on a file system in memory.
func makeDurable(t testing.TB, fs vfs.FS, dir string) {
	t.Helper()
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for ; dir != fs.PathDir(dir); dir = fs.PathDir(dir) {
		d, err := fs.OpenDir(fs.PathDir(dir))
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) startProvider() uint16 {
	w.t.Helper()
	accounts := []dmdatest.Account{
		{Address: officeA, Domain: "gemeinde-a.de-mail.example", Holder: "Gemeinde A", Public: true},
		{Address: officeB, Domain: "gemeinde-b.de-mail.example", Holder: "Gemeinde B", Public: true}}
	var err error
	w.provider, err = dmdatest.New(dmdatest.Config{Domain: "provider.de-mail.example", Host: mxName, Domains: []string{"de-mail.example"},
		Mailboxes: []string{"*@buerger.de-mail.example"}, PKI: w.pki, Tokens: []dmdatest.Token{{Name: "box", Accounts: accounts}},
		GatewayRoots: w.boxCA.pool(), GatewayName: boxName})
	if err != nil {
		w.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.provider.Serve(ctx, ln) }()
	w.t.Cleanup(func() { cancel(); <-done })
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// start begins a life of the daemon and waits until it accepts mail.
func (w *world) start() *running {
	w.t.Helper()
	r := w.launch()
	r.marks.await(w.t, "relayd.ready", 1)
	if err := r.d.now().revocation.Refresh(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) launch() *running {
	w.t.Helper()
	r := &running{marks: &marks{changed: make(chan struct{})}, reload: make(chan os.Signal, 1), done: make(chan error, 1)}
	a, b, c := listen(w.t), listen(w.t), listen(w.t)
	r.starttls, r.implicit, r.push = a.Addr().String(), b.Addr().String(), c.Addr().String()
	o := Options{Config: func() (*config.Document, error) { d := *w.doc; return &d, nil }, Dir: w.dir, FS: w.fs, Schedule: w.schedule, Guard: w.guard,
		ServerCertificate: func() (*tls.Certificate, error) { return &w.box, nil },
		ClientCertificate: func() (*tls.Certificate, error) { return &w.token, nil },
		StartTLS:          []net.Listener{a}, Implicit: []net.Listener{b}, Provider: []net.Listener{c}, Reload: r.reload,
		Ready: func(string) error { return nil }, Status: func(string) {}, Log: logger(w.t), Marks: r.marks}
	if w.options != nil {
		w.options(&o)
	}
	var err error
	if r.d, err = New(o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- r.d.Run(ctx) }()
	w.running = r
	w.t.Cleanup(func() { r.end(w.t) })
	return r
}

// end stops the daemon, once.
func (r *running) end(t testing.TB) {
	t.Helper()
	r.stop()
	if err, ok := <-r.done; ok && err != nil {
		t.Errorf("the daemon ended with %v", err)
	}
	select {
	case <-r.done:
	default:
		close(r.done)
	}
}

func logger(t testing.TB) *slog.Logger {
	if os.Getenv("RELAY_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

// talk is a raw SMTP client under TLS.
type talk struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func (w *world) dial(addr string, cert tls.Certificate) *talk {
	w.t.Helper()
	raw, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(patience))
	cfg := tlsprofile.Client()
	cfg.RootCAs, cfg.ServerName, cfg.Certificates = w.boxCA.pool(), boxName, []tls.Certificate{cert}
	c := tls.Client(raw, cfg)
	return &talk{w.t, c, bufio.NewReader(c)}
}

// greeted is a client past EHLO on the implicit TLS port.
func (w *world) greeted(cert tls.Certificate) *talk {
	w.t.Helper()
	c := w.dial(w.running.implicit, cert)
	c.expect("220")
	c.say("EHLO mail.example", "250")
	return c
}

func (c *talk) expect(prefix string) string {
	c.t.Helper()
	var all strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			c.t.Fatalf("answer %q, then %v; want %q", all.String(), err, prefix)
		}
		if len(line) > 3 && line[3] == ' ' {
			if !strings.HasPrefix(line, prefix) {
				c.t.Fatalf("answer %q, want %q", all.String(), prefix)
			}
			return all.String()
		}
	}
}

func (c *talk) say(line, prefix string) string {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, line+"\r\n"); err != nil {
		c.t.Fatal(err)
	}
	return c.expect(prefix)
}

// send goes through a whole transaction up to the answer to the final dot.
func (c *talk) send(from string, message []byte, answer string, to ...string) string {
	c.t.Helper()
	c.say("MAIL FROM:"+from, "250")
	for _, r := range to {
		c.say("RCPT TO:"+r, "250")
	}
	c.say("DATA", "354")
	if _, err := c.Write(stuffed(message)); err != nil {
		c.t.Fatal(err)
	}
	return c.expect(answer)
}

func stuffed(m []byte) []byte {
	m = bytes.ReplaceAll(m, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(m, []byte(".")) {
		m = append([]byte("."), m...)
	}
	return append(m, ".\r\n"...)
}

// compose makes a message of a tenant.
func compose(body string, fields ...string) []byte {
	var b bytes.Buffer
	for _, f := range fields {
		fmt.Fprintf(&b, "%s\r\n", f)
	}
	fmt.Fprintf(&b, "\r\n%s", body)
	return b.Bytes()
}

// letterA is an ordinary letter of tenant A to the citizen.
func letterA(subject string) []byte {
	return compose("Guten Tag\r\n.Punkt\r\n", "From: Poststelle <"+mailA+">", "To: "+citizen, "Subject: "+subject, "Message-ID: <"+subject+"@gemeinde-a.example>",
		"Date: Fri, 20 Nov 2026 08:00:00 +0000")
}
