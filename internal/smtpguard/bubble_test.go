package smtpguard

import (
	"bufio"
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of net.Pipe connections, for synctest.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }
func (p *pipes) dial() net.Conn {
	near, far := net.Pipe()
	p.conns <- far
	return near
}

// pipePeer connects over a pipe, for tests under synthetic time.
func pipePeer(t *testing.T, l *pipes) *talk {
	t.Helper()
	c := tls.Client(l.dial(), insecure())
	return &talk{t, c, bufio.NewReader(c)}
}

// inBubble runs story under synthetic time against a guard on pipes.
func inBubble(t *testing.T, b Backend, limits Limits, story func(t *testing.T, s *Server, l *pipes)) {
	t.Helper()
	testCert()
	synctest.Test(t, func(t *testing.T) {
		s, l := New(options(b, limits)), newPipes()
		go func() { _ = s.Serve(l, Implicit) }()
		defer func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.Shutdown(ctx)
			time.Sleep(time.Minute) // synthetic: lets the story's own goroutines see the end
		}()
		story(t, s, l)
	})
}
