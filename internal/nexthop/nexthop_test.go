package nexthop

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
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

const serverName = "mx.example"

var serverCert = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
})

func clientTLS(name string) *tls.Config {
	cfg := tlsprofile.Client()
	cfg.RootCAs = x509.NewCertPool()
	cfg.RootCAs.AddCert(serverCert().Leaf)
	cfg.ServerName = name
	return cfg
}

func serverTLS() *tls.Config {
	cert := serverCert()
	return tlsprofile.Server(func() (*tls.Certificate, error) { return &cert, nil })
}

func ctxFor(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// sink is a guarded server that keeps messages.
type sink struct {
	mu       sync.Mutex
	mail     []string
	opts     []smtp.MailOptions
	rcpts    []smtp.RcptOptions
	messages [][]byte
}

func (s *sink) Admit(context.Context, *smtpguard.Peer) (smtpguard.Session, error) { return s, nil }
func (s *sink) Mail(from string, o *smtp.MailOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mail, s.opts = append(s.mail, from), append(s.opts, *o)
	if from == "reject@x.example" {
		return smtpguard.Errorf(550, "5.7.1", "not you")
	}
	return nil
}
func (s *sink) Rcpt(to string, o *smtp.RcptOptions) error {
	if strings.HasPrefix(to, "later") {
		return smtpguard.Errorf(451, "4.2.0", "later")
	}
	if strings.HasPrefix(to, "never") {
		return smtpguard.Errorf(550, "5.1.1", "no such user")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcpts = append(s.rcpts, *o)
	return nil
}
func (s *sink) Data(r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, b)
	return "taken", nil
}
func (s *sink) Reset() {}
func (s *sink) Close() {}

func (s *sink) start(t *testing.T, mode smtpguard.Mode) string {
	t.Helper()
	srv := smtpguard.New(smtpguard.Options{Hostname: serverName, TLS: serverTLS(), Backend: s, Log: slog.New(slog.DiscardHandler)})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(ln, mode) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		srv.Shutdown(ctx)
	})
	return ln.Addr().String()
}

func message(body string, to ...string) *Message {
	m := &Message{From: "a@x.example", Size: int64(len(body)), Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }}
	for _, r := range to {
		m.Recipients = append(m.Recipients, Recipient{Address: r})
	}
	return m
}

func route(s ...Server) *Route {
	return NewRoute(func(context.Context) ([]Server, error) { return s, nil },
		Limits{Connect: 5 * time.Second, Greeting: 5 * time.Second, Command: 5 * time.Second, DataStart: 5 * time.Second, DataBlock: 5 * time.Second, DataEnd: 5 * time.Second})
}

func TestDeliversByteForByte(t *testing.T) {
	for _, mode := range []Mode{StartTLS, Implicit} {
		s := &sink{}
		addr := s.start(t, smtpguard.Mode(mode))
		r := route(Server{Address: addr, Mode: mode, TLS: clientTLS(serverName), Helo: "box.example"})
		defer r.Close()
		body := ".\r\n..\r\n.x\r\n\r\nSubject: \xfc\r\n\r\n" + strings.Repeat("line\r\n", 20000) + ".\r\n"
		for range 3 {
			results := r.Deliver(ctxFor(t), message(body, "b@x.example", "later@x.example", "never@x.example"))
			for i, want := range []Outcome{Delivered, Temporary, Permanent} {
				if results[i].Outcome != want || results[i].Server != serverName {
					t.Fatalf("recipient %d: %+v", i, results[i])
				}
			}
			if results[2].Reply != (Reply{550, "5.1.1", "no such user"}) {
				t.Errorf("reply %+v", results[2].Reply)
			}
		}
		for i, got := range s.messages {
			if string(got) != body {
				t.Fatalf("message %d differs", i)
			}
		}
		if len(s.messages) != 3 {
			t.Fatalf("%d messages", len(s.messages))
		}
	}
}

func TestManyRecipientsAreGrouped(t *testing.T) {
	s := &sink{}
	r := route(Server{Address: s.start(t, smtpguard.Implicit), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	var to []string
	for i := range 3*pipelineGroup + 1 {
		to = append(to, fmt.Sprintf("b%d@x.example", i))
	}
	for i, res := range r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", to...)) {
		if res.Outcome != Delivered {
			t.Fatalf("recipient %d: %+v", i, res)
		}
	}
	m := message("Subject: x\r\n\r\nx\r\n", to...)
	m.From = "reject@x.example"
	for i, res := range r.Deliver(ctxFor(t), m) {
		if res.Outcome != Permanent || res.Reply.Enhanced != "5.7.1" {
			t.Fatalf("recipient %d of a refused sender: %+v", i, res)
		}
	}
}

func TestDSNParameters(t *testing.T) {
	s := &sink{}
	r := route(Server{Address: s.start(t, smtpguard.Implicit), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	m := message("Subject: x\r\n\r\nx\r\n", "b@x.example")
	m.ENVID, m.RET, m.EightBit, m.UTF8 = "a+b=c", "HDRS", true, true
	m.Recipients[0].Notify, m.Recipients[0].Original = "SUCCESS,FAILURE", "rfc822;b+c@x.example"
	if res := r.Deliver(ctxFor(t), m); res[0].Outcome != Delivered || res[0].Relayed {
		t.Fatalf("%+v", res)
	}
	if o := s.opts[0]; o.EnvelopeID != "a+b=c" || o.Return != "HDRS" || !o.UTF8 || o.Body != smtp.Body8BitMIME || o.Size != m.Size {
		t.Errorf("MAIL options %+v", o)
	}
	if o := s.rcpts[0]; fmt.Sprint(o.Notify) != "[SUCCESS FAILURE]" || o.OriginalRecipient != "b+c@x.example" {
		t.Errorf("RCPT options %+v", o)
	}
}

// script is a server of a few lines: it says the answers in turn, one per line
// that it reads, and one at the start.
type script struct {
	answers []string
	got     []string
	mu      sync.Mutex
}

func (s *script) serve(t *testing.T, after func(c net.Conn, s *script)) string {
	t.Helper()
	return serveTLS(t, func(c net.Conn) {
		s.play(c)
		if after != nil {
			after(c, s)
		}
	})
}

// serveTLS serves connections under TLS until the test ends, and gives the address.
func serveTLS(t testing.TB, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				c := tls.Server(raw, serverTLS())
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return ln.Addr().String()
}

func (s *script) play(c net.Conn) {
	r := bufio.NewReader(c)
	for i, answer := range s.answers {
		if i > 0 {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			s.mu.Lock()
			s.got = append(s.got, line)
			s.mu.Unlock()
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
	rest, _ := io.ReadAll(r)
	s.mu.Lock()
	s.got = append(s.got, string(rest))
	s.mu.Unlock()
}

func (s *script) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.got, "")
}

const hello = "250-mx.example\r\n250-8BITMIME\r\n250 SIZE 1000\r\n"

func TestUnfitServers(t *testing.T) {
	body := "Subject: x\r\n\r\nx\r\n"
	bad := errors.New("disk")
	tests := []struct {
		name    string
		answers []string
		change  func(*Message)
		outcome Outcome
		code    string
		unsure  bool
		never   string // must not have been sent
	}{
		{"no 8BITMIME", []string{"220 x\r\n", "250 mx.example\r\n"}, func(m *Message) { m.EightBit = true }, Permanent, "5.6.3", false, "MAIL"},
		{"no SMTPUTF8", []string{"220 x\r\n", hello}, func(m *Message) { m.UTF8 = true }, Permanent, "5.6.7", false, "MAIL"},
		{"too large", []string{"220 x\r\n", hello}, func(m *Message) { m.Size = 1001 }, Permanent, "5.3.4", false, "MAIL"},
		{"quoted recipient", []string{"220 x\r\n", hello}, func(m *Message) { m.Recipients[0].Address = `"a> SIZE=1"@x.example` }, Permanent, "5.1.3", false, "MAIL"},
		{"injecting recipient", []string{"220 x\r\n", hello}, func(m *Message) { m.Recipients[0].Address = "a@x.example>\r\nDATA" }, Permanent, "5.1.3", false, "MAIL"},
		{"busy greeting", []string{"421 4.3.2 later\r\n"}, nil, Temporary, "4.3.0", false, "EHLO"},
		{"unfriendly greeting", []string{"554 5.7.1 go away\r\n"}, nil, Temporary, "4.3.0", false, "EHLO"},
		{"greeting of nonsense", []string{"hello\r\n"}, nil, Temporary, "4.5.0", false, "EHLO"},
		{"endless greeting", []string{strings.Repeat("220-x\r\n", maxReplyLines+5)}, nil, Temporary, "4.5.0", false, "EHLO"},
		{"endless line", []string{"220 " + strings.Repeat("x", 2*maxReplyLine) + "\r\n"}, nil, Temporary, "4.4.2", false, "EHLO"},
		{"two codes in one answer", []string{"220 x\r\n", "250-mx.example\r\n550 x\r\n"}, nil, Temporary, "4.5.0", false, "MAIL"},
		{"EHLO refused", []string{"220 x\r\n", "502 no\r\n"}, nil, Temporary, "4.3.0", false, "MAIL"},
		{"DATA refused", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "554 5.5.1 no\r\n"}, nil, Permanent, "5.5.1", false, "Subject"},
		{"DATA answered 250", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "250 sure\r\n"}, nil, Temporary, "2.0.0", false, "Subject"},
		{"bare LF in the body", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
			func(m *Message) { *m = *message("Subject: x\r\n\r\na\n.\r\nb\r\n", "b@x.example") }, Permanent, "5.6.0", false, "\r\n.\r\n"},
		{"bare CR in the body", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
			func(m *Message) { *m = *message("Subject: x\r\n\r\na\rb\r\n", "b@x.example") }, Permanent, "5.6.0", false, "\r\n.\r\n"},
		{"no CRLF at the end", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
			func(m *Message) { *m = *message("Subject: x\r\n\r\na", "b@x.example") }, Permanent, "5.6.0", false, "\r\n.\r\n"},
		{"torn body", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
			func(m *Message) {
				m.Open = func() (io.ReadCloser, error) {
					return io.NopCloser(io.MultiReader(strings.NewReader(body), errReader{bad})), nil
				}
			}, Temporary, "4.3.0", false, "\r\n.\r\n"},
		{"body cannot be opened", []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
			func(m *Message) { m.Open = func() (io.ReadCloser, error) { return nil, bad } }, Temporary, "4.3.0", false, "\r\n.\r\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := &script{answers: test.answers}
			m := message(body, "b@x.example")
			if test.change != nil {
				test.change(m)
			}
			r := route(Server{Address: s.serve(t, nil), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
			res := r.Deliver(ctxFor(t), m)
			r.Close()
			if len(res) != 1 || res[0].Outcome != test.outcome || res[0].Reply.Enhanced != test.code || res[0].Unsure != test.unsure {
				t.Fatalf("%+v, want %v %s", res, test.outcome, test.code)
			}
			if strings.Contains(s.all(), test.never) {
				t.Errorf("%q was sent: %q", test.never, s.all())
			}
		})
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

func TestNoAnswerAfterTheEndIsUnsure(t *testing.T) {
	s := &script{answers: []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n"}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		c := tls.Server(raw, serverTLS())
		defer c.Close()
		br := bufio.NewReader(c)
		for i, a := range s.answers {
			if i > 0 {
				_, _ = br.ReadString('\n')
			}
			_, _ = io.WriteString(c, a)
		}
		for {
			line, err := br.ReadString('\n')
			if err != nil || line == ".\r\n" {
				return // taken, and closed without an answer
			}
		}
	}()
	r := route(Server{Address: ln.Addr().String(), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example"))
	if res[0].Outcome != Temporary || !res[0].Unsure {
		t.Fatalf("%+v", res)
	}
}

func TestWithoutDSNItIsRelayed(t *testing.T) {
	s := &script{answers: []string{"220 x\r\n", hello, "250 ok\r\n", "250 ok\r\n", "354 go\r\n"}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	got := make(chan string, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		c := tls.Server(raw, serverTLS())
		defer c.Close()
		br := bufio.NewReader(c)
		var all strings.Builder
		for i, a := range s.answers {
			if i > 0 {
				line, _ := br.ReadString('\n')
				all.WriteString(line)
			}
			_, _ = io.WriteString(c, a)
		}
		for {
			line, err := br.ReadString('\n')
			if err != nil || line == ".\r\n" {
				break
			}
		}
		_, _ = io.WriteString(c, "250 ok\r\n")
		got <- all.String()
		_, _ = br.ReadString('\n')
	}()
	r := route(Server{Address: ln.Addr().String(), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	m := message("Subject: x\r\n\r\nx\r\n", "b@x.example")
	m.ENVID, m.RET, m.Recipients[0].Notify = "x", "FULL", "SUCCESS"
	if res := r.Deliver(ctxFor(t), m); res[0].Outcome != Delivered || !res[0].Relayed {
		t.Fatalf("%+v", res)
	}
	if sent := <-got; strings.Contains(sent, "NOTIFY") || strings.Contains(sent, "ENVID") || !strings.Contains(sent, "SIZE=17") {
		t.Errorf("sent %q", sent)
	}
}

func TestNothingWithoutTLS(t *testing.T) {
	for name, answers := range map[string][]string{
		"no STARTTLS":               {"220 x\r\n", "250 mx.example\r\n"},
		"STARTTLS refused":          {"220 x\r\n", "250-mx.example\r\n250 STARTTLS\r\n", "454 4.7.0 no\r\n"},
		"answers ahead of TLS":      {"220 x\r\n", "250-mx.example\r\n250 STARTTLS\r\n", "220 go\r\n250 injected\r\n"},
		"no handshake after the go": {"220 x\r\n", "250-mx.example\r\n250 STARTTLS\r\n", "220 go\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: answers}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := ln.Accept()
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(2 * time.Second))
					s.play(c)
					c.Close()
				}
			}()
			r := route(Server{Address: ln.Addr().String(), Mode: StartTLS, TLS: clientTLS(serverName), Helo: "box.example"})
			res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example"))
			<-done
			if res[0].Outcome != Temporary {
				t.Fatalf("%+v", res)
			}
			if strings.Contains(s.all(), "MAIL") {
				t.Fatalf("sent in plain text: %q", s.all())
			}
		})
	}
}

func TestWrongCertificate(t *testing.T) {
	s := &sink{}
	addr := s.start(t, smtpguard.Implicit)
	stranger := clientTLS(serverName)
	stranger.RootCAs = x509.NewCertPool()
	for name, cfg := range map[string]*tls.Config{"another name": clientTLS("other.example"), "another authority": stranger} {
		r := route(Server{Address: addr, Mode: Implicit, TLS: cfg, Helo: "box.example"})
		res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example"))
		if res[0].Outcome != Temporary || res[0].Reply.Enhanced != "4.7.5" {
			t.Errorf("%s: %+v", name, res)
		}
	}
	if len(s.mail) > 0 {
		t.Errorf("mail was offered: %q", s.mail)
	}
}

func TestSecondServerAndStaleConnection(t *testing.T) {
	s := &sink{}
	addr := s.start(t, smtpguard.Implicit)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deadAddr := dead.Addr().String()
	dead.Close()
	r := route(Server{Address: deadAddr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"},
		Server{Address: addr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	if res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered {
		t.Fatalf("%+v", res)
	}
	r.mu.Lock()
	if len(r.idle) != 1 {
		t.Fatalf("%d idle connections", len(r.idle))
	}
	_ = r.idle[0].wire.Close() // as a server does that is tired of waiting
	r.mu.Unlock()
	if res := r.Deliver(ctxFor(t), message("Subject: y\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered {
		t.Fatalf("after the idle connection died: %+v", res)
	}
	if len(s.messages) != 2 {
		t.Fatalf("%d messages", len(s.messages))
	}
}

func TestCancelledDelivery(t *testing.T) {
	s := &script{answers: []string{"220 x\r\n", hello}}
	r := route(Server{Address: s.serve(t, nil), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	res := r.Deliver(ctx, message("Subject: x\r\n\r\nx\r\n", "b@x.example"))
	if res[0].Outcome != Temporary || time.Since(start) > 3*time.Second {
		t.Fatalf("%+v after %v", res, time.Since(start))
	}
}

// A server that stops reading must not hold the writer for ever (pitfall 5).
func TestServerThatStopsReading(t *testing.T) {
	s := &script{answers: []string{"220 x\r\n", "250-mx.example\r\n250 SIZE 100000000\r\n", "250 ok\r\n", "250 ok\r\n"}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	hold := make(chan struct{})
	defer close(hold)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		c := tls.Server(raw, serverTLS())
		defer c.Close()
		br := bufio.NewReader(c)
		for i, a := range append(s.answers, "354 go\r\n") {
			if i > 0 {
				_, _ = br.ReadString('\n')
			}
			_, _ = io.WriteString(c, a)
		}
		<-hold
	}()
	r := NewRoute(func(context.Context) ([]Server, error) {
		return []Server{{Address: ln.Addr().String(), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"}}, nil
	}, Limits{DataBlock: 300 * time.Millisecond})
	defer r.Close()
	body := strings.Repeat(strings.Repeat("x", 98)+"\r\n", 200_000)
	start := time.Now()
	res := r.Deliver(ctxFor(t), message(body, "b@x.example"))
	if res[0].Outcome != Temporary || res[0].Unsure || time.Since(start) > 10*time.Second {
		t.Fatalf("%+v after %v", res, time.Since(start))
	}
}

// A refused message does not cost its connection, also when a server wants the
// empty message for nobody that pipelining may lead to (RFC 2920 §3.1).
func TestNobodyAcceptedWithPipelining(t *testing.T) {
	hi := "250-mx.example\r\n250 PIPELINING\r\n"
	for name, answers := range map[string][]string{
		"data refused": {"220 x\r\n", hi, "250 ok\r\n", "550 5.1.1 no\r\n", "554 5.5.1 nobody\r\n", "250 reset\r\n",
			"250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
		"data invited": {"220 x\r\n", hi, "250 ok\r\n", "550 5.1.1 no\r\n", "354 go\r\n", "554 5.5.1 nobody\r\n", "250 reset\r\n",
			"250 ok\r\n", "250 ok\r\n", "354 go\r\n", "", "", "", "250 taken\r\n"},
	} {
		s := &script{answers: answers}
		r := route(Server{Address: s.serve(t, nil), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
		defer r.Close()
		if res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "never@x.example")); res[0].Outcome != Permanent || res[0].Reply.Code != 550 {
			t.Fatalf("%s: %+v", name, res)
		}
		if res := r.Deliver(ctxFor(t), message("Subject: y\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered {
			t.Fatalf("%s: second message: %+v", name, res)
		}
		if n := r.Stats().Connections; n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

// A server that refuses MAIL and wants the message all the same gets nothing more.
func TestDataInvitedAfterMailWasRefused(t *testing.T) {
	s := &script{answers: []string{"220 x\r\n", "250-mx.example\r\n250 PIPELINING\r\n", "550 5.7.1 not you\r\n", "503 no\r\n", "354 go\r\n", "250 what\r\n"}}
	r := route(Server{Address: s.serve(t, nil), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	if res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Permanent || res[0].Reply.Code != 550 {
		t.Fatalf("%+v", res)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.idle) != 0 {
		t.Error("the connection was kept")
	}
}

// A server that has had enough of a connection says 421 when it is used again.
func TestTiredConnectionIsReplaced(t *testing.T) {
	tired := &script{answers: []string{"220 x\r\n", "250-mx.example\r\n250 SIZE 1000\r\n", "421 4.4.2 enough\r\n"}}
	first := Server{Address: tired.serve(t, nil), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"}
	s := &sink{}
	r := route(Server{Address: s.start(t, smtpguard.Implicit), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	c, err := Dial(ctxFor(t), first, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	r.give(c)
	if res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered {
		t.Fatalf("%+v", res)
	}
	fresh := &script{answers: tired.answers}
	again := route(Server{Address: fresh.serve(t, nil), Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer again.Close()
	if res := again.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Temporary || !res[0].Lost || res[0].Reply.Code != 421 {
		t.Errorf("421 on a fresh connection: %+v", res)
	}
}

// counting counts the writes that reach the kernel.
type counting struct {
	net.Conn
	writes int
}

func (c *counting) Write(p []byte) (int, error) { c.writes++; return c.Conn.Write(p) }

// A message costs one write for its envelope and one for every 64 KiB of content.
func TestFewWrites(t *testing.T) {
	addr := discarding(t, "PIPELINING", "SIZE 100000000")
	c, err := Dial(ctxFor(t), Server{Address: addr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"}, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	count := &counting{Conn: c.wire.Conn}
	c.wire.Conn = count
	for size, most := range map[int]int{10 << 10: 2, 10 << 20: 2 + 10<<20/copyBuffer + 8} {
		count.writes = 0
		body := "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72)
		if res, err := c.Send(ctxFor(t), message(body, "b@x.example", "c@x.example")); err != nil || res[1].Outcome != Delivered {
			t.Fatal(res, err)
		}
		if count.writes > most {
			t.Errorf("%d bytes took %d writes, want at most %d", size, count.writes, most)
		}
	}
}

// At load a connection is made once for many messages, and not used for ever.
func TestConnectionsAreUsedAgain(t *testing.T) {
	addr := discarding(t, "PIPELINING")
	r := route(Server{Address: addr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer r.Close()
	const messages, workers = MaxReuseMessages + 500, 4
	var left sync.WaitGroup
	for range workers {
		left.Go(func() {
			for range messages / workers {
				if res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered {
					t.Error(res)
					return
				}
			}
		})
	}
	left.Wait()
	if s := r.Stats(); s.Messages != messages || s.Connections > 2*workers {
		t.Errorf("%+v", s)
	}
	one := route(Server{Address: addr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"})
	defer one.Close()
	for range MaxReuseMessages + 1 {
		one.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example"))
	}
	if s := one.Stats(); s.Connections != 2 {
		t.Errorf("%d connections for one message more than the bound", s.Connections)
	}
}

// A server that cannot be reached is tried last for a while, and a fallback only
// then.
func TestDownServersAreSkipped(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := ln.Addr().String()
	ln.Close()
	make := func(addr string, fallback bool) Server {
		return Server{Address: addr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example", Fallback: fallback}
	}
	up, last := &sink{}, &sink{}
	upAddr, lastAddr := up.start(t, smtpguard.Implicit), last.start(t, smtpguard.Implicit)
	r := route(make(lastAddr, true), make(dead, false), make(upAddr, false))
	defer r.Close()
	for range 5 {
		if res := r.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered {
			t.Fatalf("%+v", res)
		}
		r.drop()
	}
	if s := r.Stats(); s.Failures != 1 || len(up.messages) != 5 || len(last.messages) != 0 {
		t.Errorf("%+v, %d and %d messages", s, len(up.messages), len(last.messages))
	}
	only := route(make(lastAddr, true), make(dead, false))
	defer only.Close()
	if res := only.Deliver(ctxFor(t), message("Subject: x\r\n\r\nx\r\n", "b@x.example")); res[0].Outcome != Delivered || len(last.messages) != 1 {
		t.Fatalf("the fallback was not used: %+v", res)
	}
	if age := only.idle[0].maxAge(); age != downFor {
		t.Errorf("the fallback's connection is kept for %v", age)
	}
}

// drop ends waiting connections.
func (r *Route) drop() {
	for c := r.take(); c != nil; c = r.take() {
		c.Close()
	}
}

func FuzzDotWriter(f *testing.F) {
	for _, s := range []string{"", ".\r\n", "a\r\n.b\r\n", "a\n.\r\n", "\r\r\n", "x", "a\r", "\x00\r\n"} {
		f.Add([]byte(s), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, split int) {
		var out bytes.Buffer
		bw := bufio.NewWriter(&out)
		w := &dotWriter{w: bw, start: true}
		at := max(0, min(split, len(in)))
		_, err := w.Write(in[:at])
		if err == nil {
			_, err = w.Write(in[at:])
		}
		_ = bw.Flush()
		bare := bytes.Contains(bytes.ReplaceAll(in, []byte("\r\n"), nil), []byte("\r")) ||
			bytes.Contains(bytes.ReplaceAll(in, []byte("\r\n"), nil), []byte("\n")) || bytes.IndexByte(in, 0) >= 0
		if err != nil {
			if !bare {
				t.Fatalf("%q was refused: %v", in, err)
			}
			return
		}
		if bare && !(w.cr && bytes.HasSuffix(in, []byte("\r"))) {
			t.Fatalf("%q passed", in)
		}
		if bytes.HasPrefix(out.Bytes(), []byte(".\r\n")) || bytes.Contains(out.Bytes(), []byte("\r\n.\r\n")) {
			t.Fatalf("%q became %q, which has an end mark", in, out.Bytes())
		}
		var back []byte
		for i, line := range bytes.SplitAfter(out.Bytes(), []byte("\r\n")) {
			_ = i
			back = append(back, bytes.TrimPrefix(line, []byte("."))...)
		}
		if !bytes.Equal(back, in) {
			t.Fatalf("%q came back as %q", in, back)
		}
	})
}
