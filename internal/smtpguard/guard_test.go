package smtpguard

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
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

var testCert = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "box.example"}, DNSNames: []string{"box.example"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(100 * 365 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

// record is a backend that keeps what it was given.
type record struct {
	mu       sync.Mutex
	from     []string
	to       []string
	messages []string
	failed   []error // what Data saw instead of a whole message
	closed   int

	admit func(*Peer) error
	mail  func(string) error
	rcpt  func(string) error
	data  func(io.Reader) (string, error)
	close func()

	mechanisms []string // AUTH is offered
	known      bool     // and not needed
}

func (r *record) Admit(_ context.Context, p *Peer) (Session, error) {
	if r.admit != nil {
		if err := r.admit(p); err != nil {
			return nil, err
		}
	}
	if len(r.mechanisms) > 0 {
		return &authRecord{record: r, known: r.known}, nil
	}
	return r, nil
}

func (r *record) Mail(from string, _ *smtp.MailOptions) error {
	r.mu.Lock()
	r.from = append(r.from, from)
	r.mu.Unlock()
	if r.mail != nil {
		return r.mail(from)
	}
	return nil
}

func (r *record) Rcpt(to string, _ *smtp.RcptOptions) error {
	r.mu.Lock()
	r.to = append(r.to, to)
	r.mu.Unlock()
	if r.rcpt != nil {
		return r.rcpt(to)
	}
	return nil
}

func (r *record) Data(body io.Reader) (string, error) {
	if r.data != nil {
		return r.data(body)
	}
	var b bytes.Buffer
	_, err := io.Copy(&b, body)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = append(r.failed, err)
		return "", err
	}
	r.messages = append(r.messages, b.String())
	return "taken", nil
}

func (r *record) Reset() {}
func (r *record) Close() {
	r.mu.Lock()
	r.closed++
	r.mu.Unlock()
	if r.close != nil {
		r.close()
	}
}

func (r *record) got() (messages, from, to []string, closed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.messages...), append([]string(nil), r.from...), append([]string(nil), r.to...), r.closed
}

func options(b Backend, l Limits) Options {
	cert := testCert()
	return Options{Hostname: "box.example", TLS: tlsprofile.Server(func() (*tls.Certificate, error) { return &cert, nil }),
		Backend: b, Limits: l, Log: slog.New(slog.DiscardHandler)}
}

// serve starts a guard on loopback and ends it with the test.
func serve(t testing.TB, b Backend, l Limits, mode Mode, change ...func(*Options)) (*Server, string) {
	t.Helper()
	o := options(b, l)
	for _, c := range change {
		c(&o)
	}
	s := New(o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln, mode) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, ln.Addr().String()
}

// talk is a raw SMTP client.
type talk struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

const patience = 10 * time.Second

// insecure is a client's TLS. It offers the server's curve at once: a retry of the
// hello would have both ends of an unbuffered pipe write at the same time.
func insecure() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.CurveP256}}
}

func dialPlain(t testing.TB, addr string) *talk {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &talk{t, c, bufio.NewReader(c)}
}

func dial(t testing.TB, addr string) *talk {
	t.Helper()
	return dialTLS(t, addr, insecure())
}

func dialTLS(t testing.TB, addr string, cfg *tls.Config) *talk {
	t.Helper()
	c := tls.Client(dialPlain(t, addr).Conn, cfg)
	return &talk{t, c, bufio.NewReader(c)}
}

// lockedBuffer takes a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// greetedPeer is past EHLO on an implicit TLS listener.
func greetedPeer(t testing.TB, addr string) *talk {
	t.Helper()
	c := dial(t, addr)
	c.expect("220")
	c.say("EHLO client.example", "250")
	return c
}

func (c *talk) put(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.Conn, s); err != nil {
		c.t.Fatalf("write %q: %v", s, err)
	}
}

// expect reads one answer, which must start with prefix, and returns it.
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
			break
		}
	}
	got := all.String()
	last := got[strings.LastIndex(strings.TrimSuffix(got, "\r\n"), "\n")+1:]
	if !strings.HasPrefix(last, prefix) {
		c.t.Fatalf("answer %q, want %q", got, prefix)
	}
	return got
}

func (c *talk) say(line, prefix string) string {
	c.t.Helper()
	c.put(line + "\r\n")
	return c.expect(prefix)
}

// closed checks that the peer says nothing more and hangs up.
func (c *talk) closed() {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	if len(rest) > 0 {
		c.t.Fatalf("got %q, want the end of the connection", rest)
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatal("connection is still open")
	}
}

func (c *talk) open(recipients ...string) {
	c.t.Helper()
	c.say("MAIL FROM:<a@tenant.example>", "250")
	for _, r := range recipients {
		c.say("RCPT TO:<"+r+">", "250")
	}
	c.say("DATA", "354")
}

// stop ends a server at once.
func stop(s *Server) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
}
