package smtpguard

import (
	"context"
	"fmt"
	"log/slog"
	"net"
)

// handover is the listener that go-smtp serves: what comes out of it is already
// under TLS and guarded.
type handover struct {
	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

func newHandover() *handover {
	h := &handover{conns: make(chan net.Conn)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// give passes c on, unless the server is closing.
func (h *handover) give(c net.Conn) bool {
	select {
	case h.conns <- c:
		return true
	case <-h.ctx.Done():
		return false
	}
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error   { h.cancel(); return nil }
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }

// engineLog receives go-smtp's own complaints: panics and broken connections.
type engineLog struct{ log *slog.Logger }

func (l engineLog) Printf(format string, v ...any) {
	l.log.Warn("smtp engine", "message", fmt.Sprintf(format, v...))
}
func (l engineLog) Println(v ...any) { l.log.Warn("smtp engine", "message", fmt.Sprintln(v...)) }
