package smtpguard

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
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
	br     *bufio.Reader // over source: what the peer sent, decrypted
	peer   Peer
	ctx    context.Context
	cancel context.CancelFunc
	once   sync.Once
	opened time.Time

	session Session
	tx      transaction
	pending []byte // of a command, on its way to go-smtp
	answer  []byte // of go-smtp, so far
	body    *body  // while a message is coming in
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
	c.br = bufio.NewReaderSize(source{c}, readBuffer)
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
	c.br.Reset(source{c})
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
		if _, err := readLine(c.br); err != nil {
			return
		}
	}
	c.send(fmt.Appendf(nil, "%d %s\r\n", fault.Code, fault.line()))
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

// Read gives go-smtp the next command line, and after a message its end mark.
func (c *conn) Read(p []byte) (n int, err error) {
	defer func() {
		if r := recover(); r != nil { // go-smtp does not recover here
			c.s.o.Log.Error("panic in the SMTP guard", "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			c.over = true
			n, err = 0, errOver
		}
	}()
	if len(c.pending) == 0 {
		if c.body != nil {
			c.finishBody()
			c.pending = []byte(".\r\n")
		} else if c.pending = c.nextCommand(); c.pending == nil {
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

// send writes to the peer, and ends the reading side if that fails.
func (c *conn) send(b []byte) {
	c.mu.Lock()
	wire := c.wire
	c.mu.Unlock()
	_ = wire.SetWriteDeadline(time.Now().Add(c.s.limits.Write))
	if _, err := wire.Write(b); err != nil {
		c.over = true
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

// window says how long the next read may take.
type window struct {
	until time.Time     // absolute end
	idle  time.Duration // per read, 0: only until
	rate  int64         // bytes per second that push the end of grace back, 0: none
	grace time.Time
	read  int64 // bytes read in this window
	wakes bool  // a draining server ends it
}

func (w window) deadline(now time.Time) time.Time {
	d := w.until
	if w.idle > 0 {
		d = earlier(d, now.Add(w.idle))
	}
	if w.rate > 0 {
		d = earlier(d, w.grace.Add(time.Duration(float64(w.read)/float64(w.rate)*float64(time.Second))))
	}
	return d
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (c *conn) setWindow(w window) {
	c.mu.Lock()
	c.window = w
	c.mu.Unlock()
}

// arm sets the deadline of the next read; c.mu is held.
func (c *conn) arm() {
	d := c.window.deadline(time.Now())
	if c.draining && c.window.wakes {
		d = time.Unix(1, 0)
	}
	_ = c.wire.SetReadDeadline(d)
}

// source is the network under the read buffer.
type source struct{ c *conn }

func (s source) Read(p []byte) (int, error) {
	s.c.mu.Lock()
	s.c.arm()
	wire := s.c.wire
	s.c.mu.Unlock()
	n, err := wire.Read(p)
	s.c.mu.Lock()
	s.c.window.read += int64(n)
	s.c.mu.Unlock()
	return n, err
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
