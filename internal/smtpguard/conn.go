package smtpguard

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"
)

// conn is one guarded connection. To go-smtp it is a net.Conn out of which
// checked commands come and into which answers go. All of it runs on one
// goroutine, but for drain and cut.
type conn struct {
	s      *Server
	mode   Mode
	raw    net.Conn
	in     input  // what the peer sent, decrypted
	out    []byte // answers that wait to be sent
	held   []byte // a command that ended a message, to be carried out next
	peer   Peer
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	opened time.Time

	session Session
	tx      transaction
	command []byte // for go-smtp
	pending []byte // what it has not read of that
	answer  []byte // of go-smtp, so far
	verdict *Error // of the session on the command that go-smtp has
	over    bool   // nothing more is read; the engine sees the end

	mu       sync.Mutex // guards what follows
	wire     net.Conn   // raw, later tls
	window   window     // the deadline of the next read
	draining bool
}

// errOver is what go-smtp reads when the guard has ended the conversation.
var errOver = io.EOF

func newConn(s *Server, raw net.Conn, mode Mode) *conn {
	c := &conn{s: s, raw: raw, wire: raw, mode: mode, opened: time.Now(), tx: transaction{await: greeting}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.peer.Remote, c.peer.Local = addrPort(raw.RemoteAddr()), addrPort(raw.LocalAddr())
	c.in.init(source{c})
	return c
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		p := t.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// open brings the connection under TLS, has it admitted and gives it to go-smtp.
func (c *conn) open() {
	defer func() {
		if p := recover(); p != nil {
			c.s.o.Log.Error("panic before the session", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			c.Close()
		}
	}()
	if err := c.secure(); err != nil {
		c.s.o.Log.Info("connection ended before mail", "remote", c.peer.Remote.String(), "reason", err.Error())
		c.Close()
		return
	}
	if fault := c.admit(); fault != nil {
		c.s.o.Log.Info("connection not admitted", "remote", c.peer.Remote.String(), "reason", fault.Error())
		c.turnAway(fault)
		return
	}
	if !c.s.hand.give(c) {
		c.turnAway(c.closing())
	}
}

// secure does everything before mail: the plain phase and the handshake.
func (c *conn) secure() error {
	if c.mode == StartTLS {
		if err := c.plain(); err != nil {
			return err
		}
	}
	_ = c.raw.SetDeadline(time.Now().Add(c.s.limits.Handshake))
	secured := tls.Server(c.raw, c.s.o.TLS)
	if err := secured.HandshakeContext(c.ctx); err != nil {
		return fmt.Errorf("tls handshake: %w", err)
	}
	_ = c.raw.SetDeadline(time.Time{})
	c.mu.Lock()
	c.wire = secured
	c.mu.Unlock()
	c.peer.TLS = secured.ConnectionState()
	return nil
}

func (c *conn) admit() (fault *Error) {
	if c.mode == Implicit {
		if err := c.s.o.Ready(); err != nil {
			return notReady(err)
		}
	}
	err := c.guarded(func() (err error) {
		c.session, err = c.s.o.Backend.Admit(c.ctx, &c.peer)
		return err
	})
	if err != nil {
		return asError(err)
	}
	return nil
}

// maxSize is the largest message that this peer may send.
func (c *conn) maxSize() int64 {
	limit := c.s.limits.MessageBytes
	if s, ok := c.session.(Sizer); ok {
		limit = min(limit, s.MaxSize())
	}
	return limit
}

func notReady(err error) *Error {
	return Errorf(421, "4.3.0", "the mail service is not ready, please try again later").because(err)
}

func (c *conn) closing() *Error {
	return Errorf(421, "4.3.2", "%s is closing, please try again later", c.s.o.Hostname)
}

// turnAway answers with fault where the peer waits for an answer, and closes:
// instead of a greeting, or to the first command after STARTTLS.
func (c *conn) turnAway(fault *Error) {
	defer c.Close()
	if c.mode == StartTLS {
		c.setWindow(window{until: time.Now().Add(c.s.limits.Plain)})
		if _, err := c.in.line(); err != nil {
			return
		}
	}
	c.bye(fault)
}

// guarded runs a call into the backend; a panic in it becomes a 421.
func (c *conn) guarded(call func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.s.o.Log.Error("panic in an SMTP session", "remote", c.peer.Remote.String(), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			fault := Errorf(421, "4.3.0", "internal fault, please try again later")
			fault.Close = true
			err = fault
		}
	}()
	return call()
}

// Read gives go-smtp the next command line.
func (c *conn) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil { // go-smtp does not recover here
			c.s.o.Log.Error("panic in the SMTP guard", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			c.over = true
			n, err = 0, errOver
		}
	}()
	if len(c.pending) == 0 {
		if c.pending = c.nextCommand(); c.pending == nil {
			return 0, errOver
		}
	}
	n = copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// Write takes an answer of go-smtp, which writes line by line.
func (c *conn) Write(p []byte) (int, error) {
	const longest = 16 << 10
	if len(c.answer)+len(p) > longest {
		return 0, errors.New("smtpguard: the engine's answer is too long")
	}
	if len(c.answer) == 0 && finalLine(p) == len(p) {
		return len(p), c.answered(p)
	}
	c.answer = append(c.answer, p...)
	for {
		last := finalLine(c.answer)
		if last < 0 {
			return len(p), nil
		}
		whole := c.answer[:last]
		rest := bytes.Clone(c.answer[last:])
		err := c.answered(whole)
		c.answer = append(c.answer[:0], rest...)
		if err != nil {
			return 0, err
		}
	}
}

// finalLine returns the end of the first whole answer in b, or -1: its last line
// has a space after the code (RFC 5321 §4.2).
func finalLine(b []byte) int {
	for at := 0; ; {
		n := bytes.IndexByte(b[at:], '\n')
		if n < 0 {
			return -1
		}
		line := b[at : at+n+1]
		at += n + 1
		if len(line) > 3 && line[3] != '-' {
			return at
		}
	}
}

// Close ends the connection and its session, once.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.over = true
		c.cancel()
		if c.session != nil {
			_ = c.guarded(func() error { c.session.Close(); return nil })
		}
		c.flush()
		c.mu.Lock()
		wire := c.wire
		c.mu.Unlock()
		_ = wire.Close()
		c.s.leave(c)
	})
	return nil
}

// drain asks the connection to end at its next command; an idle one is woken.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.arm()
}

// cut ends the connection now, whatever it does.
func (c *conn) cut() { _ = c.raw.Close(); c.cancel() }

// Deadlines are the guard's own: go-smtp's are not used.
func (c *conn) LocalAddr() net.Addr              { return c.raw.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr             { return c.raw.RemoteAddr() }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
