package smtpguard

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// Mode says how a listener comes to TLS.
type Mode int

// Modes.
const (
	StartTLS Mode = iota // port 25: plain greeting, then STARTTLS and nothing else
	Implicit             // ports 465 and 1465: TLS from the first byte (RFC 8314 §3.3)
)

// Peer is who is at the other end of a connection that is under TLS.
type Peer struct {
	Remote, Local netip.AddrPort
	TLS           tls.ConnectionState
	Helo          string // the peer's own name, not verified; set when commands come
	Extended      bool   // it said EHLO
}

// Backend decides who may talk, and serves those.
type Backend interface {
	// Admit is called once per connection after its handshake. An error is the
	// answer that ends it: 421 4.7.0 for one too many of a tenant's, say. What it
	// counts, Session.Close takes back; that follows exactly once if and only if a
	// Session was returned. ctx ends with the connection.
	Admit(ctx context.Context, peer *Peer) (Session, error)
}

// Session serves one connection. Its methods are called from one goroutine at a
// time. Addresses are as the guard promises. Errors should be *Error.
type Session interface {
	Mail(from string, o *smtp.MailOptions) error
	Rcpt(to string, o *smtp.RcptOptions) error
	// Data reads the message to its end and takes the responsibility for it: when
	// it returns without error, the peer reads 250 and text. r ends in io.EOF only
	// if the message is whole and clean; on any other error nothing may be kept.
	Data(r io.Reader) (text string, err error)
	// Reset ends the transaction.
	Reset()
	// Close ends the session; nothing is called after it.
	Close()
}

// Sizer is a Session with a limit of its own for messages, in bytes; it counts
// where it is below Limits.MessageBytes, and is what the peer is told.
type Sizer interface{ MaxSize() int64 }

// Options make a Server. All but Limits, NoDSN and Ready are required.
type Options struct {
	Hostname string // in greetings
	TLS      *tls.Config
	Backend  Backend
	Limits   Limits
	Log      *slog.Logger
	// NoDSN is for a Backend that cannot report to whom it takes mail from: DSN is
	// not announced, its parameters get 555, and the peer, who knows that, keeps the
	// duty to report (RFC 3461 §5.2.2).
	NoDSN bool
	// Ready is asked at each connection; an error means 421 for it.
	Ready func() error
}

// Server serves SMTP on listeners. Its methods may be called from any goroutine.
type Server struct {
	o      Options
	limits Limits
	engine *smtp.Server
	hand   *handover

	mu       sync.Mutex
	conns    map[*conn]struct{}
	perAddr  map[netip.Prefix]int
	total    int
	draining bool
	idle     sync.WaitGroup // connections and accept loops
}

// New makes a server; Serve makes it work.
func New(o Options) *Server {
	s := &Server{o: o, limits: o.Limits.withDefaults(), conns: map[*conn]struct{}{}, perAddr: map[netip.Prefix]int{},
		hand: newHandover()}
	if s.o.Ready == nil {
		s.o.Ready = func() error { return nil }
	}
	e := smtp.NewServer(smtp.BackendFunc(newEngineSession))
	e.Domain = o.Hostname
	e.MaxRecipients = s.limits.Recipients
	e.MaxLineLength = maxCommandLine
	e.AllowInsecureAuth = true // go-smtp cannot see that the guard's connections are TLS
	e.EnableSMTPUTF8 = true
	e.EnableDSN = !o.NoDSN
	e.ErrorLog = engineLog{o.Log}
	// ReadTimeout, WriteTimeout, MaxMessageBytes: the guard's (pitfalls 1, 3, 14).
	// Debug stays nil: it would write passwords and messages (pitfall 17).
	s.engine = e
	s.idle.Go(func() { _ = e.Serve(s.hand) })
	return s
}

// acceptPause is the wait after a failed accept, such as "too many open files".
const acceptPause = 100 * time.Millisecond

// Serve accepts connections on l until Shutdown, which closes l. It may run for
// several listeners at once.
func (s *Server) Serve(l net.Listener, mode Mode) error {
	stop := context.AfterFunc(s.hand.ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if s.closing() {
				return nil
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				s.o.Log.Warn("accept failed", "listener", l.Addr().String(), "error", err)
				time.Sleep(acceptPause)
				continue
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		s.welcome(c, mode)
	}
}

// welcome counts a connection in and starts its goroutine, or turns it away.
func (s *Server) welcome(raw net.Conn, mode Mode) {
	c := newConn(s, raw, mode)
	if err := s.enter(c); err != nil {
		s.o.Log.Info("connection refused", "remote", c.peer.Remote.String(), "reason", err.Error())
		if mode == StartTLS {
			_ = raw.SetWriteDeadline(time.Now().Add(refusalWrite))
			_, _ = raw.Write(err.appendTo(nil))
		}
		_ = raw.Close()
		return
	}
	go c.open()
}

// refusalWrite bounds the one line for a connection too many; it is written by
// the accept loop.
const refusalWrite = 100 * time.Millisecond

// enter reserves a place for c. Every nil is followed by one leave.
func (s *Server) enter(c *conn) *Error {
	key := addressKey(c.peer.Remote.Addr())
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.draining:
		return Errorf(421, "4.3.2", "%s is closing, please try again later", s.o.Hostname)
	case s.total >= s.limits.Connections:
		return Errorf(421, "4.7.0", "too many connections, please try again later")
	case s.perAddr[key] >= s.limits.PerAddress:
		return Errorf(421, "4.7.0", "too many connections from your address, please close some")
	}
	s.total++
	s.perAddr[key]++
	s.conns[c] = struct{}{}
	s.idle.Add(1)
	return nil
}

func (s *Server) leave(c *conn) {
	key := addressKey(c.peer.Remote.Addr())
	s.mu.Lock()
	delete(s.conns, c)
	s.total--
	if s.perAddr[key]--; s.perAddr[key] == 0 {
		delete(s.perAddr, key)
	}
	s.mu.Unlock()
	s.idle.Done()
}

// Connections returns how many are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *Server) closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// Shutdown closes the listeners, answers 421 to every connection at its next
// command outside of a transaction (RFC 5321 §3.8), and cuts those that remain
// when ctx ends. It returns when every goroutine of the server has ended.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	if !s.draining {
		s.draining = true
		s.hand.cancel()
	}
	for c := range s.conns {
		c.drain()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() { s.idle.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		s.mu.Lock()
		for c := range s.conns {
			c.cut()
		}
		s.mu.Unlock()
		<-done
	}
	_ = s.engine.Close()
}

// addressKey is what counts as one address: an IPv4 address, or an IPv6 /64.
func addressKey(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}
