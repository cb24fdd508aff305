package apid

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Bounds of the HTTPS side. An operator's command makes one connection per
// call; a monitor asks a few times a minute.
const (
	maxConnections        = 64 // open at once
	maxConnectionsPerPeer = 16 // of them from one address
	connectRate           = 10 // new connections per second and address
	connectBurst          = 40
	maxCalls              = 16 // running at once
	maxCallsPerCaller     = 4  // of them by one certificate
	callRate              = 2  // calls per second and certificate
	callBurst             = 60
	floodRate             = 0.2 // entries per second about strangers and too many calls
	floodBurst            = 30
	maxTracked            = 1024 // addresses or certificates whose rate is remembered
)

const (
	handshakeTimeout = 10 * time.Second // TLS, with a slow TPM, and the header
	smallBodyTimeout = 10 * time.Second
	largeBodyTimeout = 2 * time.Minute
	answerTimeout    = 20 * time.Second // to write the answer
	idleTimeout      = 30 * time.Second // between calls of one connection
	stopGrace        = 8 * time.Second  // for calls that run when apid stops
	lingerTimeout    = time.Second      // for a refused client to read why
	lingerBytes      = 64 << 10
	maxHeader        = 16 << 10 // bytes
	smallBody        = 64 << 10
	chainBody        = 256 << 10
)

// rates is one token bucket per name. When too many names are remembered the
// idle ones are forgotten; if none is idle, new names share one bucket.
type rates struct {
	limit rate.Limit
	burst int

	mu    sync.Mutex
	all   map[string]*rate.Limiter
	crowd *rate.Limiter
}

func newRates(limit rate.Limit, burst int) *rates {
	return &rates{limit: limit, burst: burst, all: map[string]*rate.Limiter{}, crowd: rate.NewLimiter(limit, burst)}
}

// take reports whether name may do one thing more now.
func (r *rates) take(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.all[name]
	if l == nil {
		if len(r.all) >= maxTracked {
			r.forget()
		}
		if len(r.all) >= maxTracked {
			return r.crowd.Allow()
		}
		l = rate.NewLimiter(r.limit, r.burst)
		r.all[name] = l
	}
	return l.Allow()
}

// forget drops the names whose buckets are full again.
func (r *rates) forget() {
	for name, l := range r.all {
		if l.Tokens() >= float64(r.burst) {
			delete(r.all, name)
		}
	}
}

// counts bounds how many things run at once, in all and by name.
type counts struct {
	most, mostPerName int

	mu    sync.Mutex
	total int
	names map[string]int
}

func newCounts(most, mostPerName int) *counts {
	return &counts{most: most, mostPerName: mostPerName, names: map[string]int{}}
}

// enter reports whether one more of name fits; then leave must follow.
func (c *counts) enter(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= c.most || c.names[name] >= c.mostPerName {
		return false
	}
	c.total++
	c.names[name]++
	return true
}

func (c *counts) leave(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.names[name]--; c.names[name] <= 0 {
		delete(c.names, name)
	}
}

// gate accepts connections within the bounds and closes the others at once,
// before a byte of TLS costs the TPM anything. Several listeners share its
// bounds.
type gate struct {
	net.Listener
	open  *counts
	rates *rates
}

// Accept returns the next connection within the bounds.
func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := peerAddress(conn.RemoteAddr())
		if g.rates.take(peer) && g.open.enter(peer) {
			return &gated{Conn: conn, leave: sync.OnceFunc(func() { g.open.leave(peer) })}, nil
		}
		_ = conn.Close()
	}
}

// gated gives its place back when it is closed.
type gated struct {
	net.Conn
	leave   func()
	refused atomic.Bool // in the handshake: what comes then is not read
}

// Close closes the connection and gives its place back. In TLS 1.3 a client
// sends its request before it learns that it was refused; closing at once
// would answer that with a reset, and the client might never read the alert
// that says why. So a refused one is drained for a moment first.
func (c *gated) Close() error {
	defer c.leave()
	if tcp, ok := c.Conn.(*net.TCPConn); ok && c.refused.Load() {
		_ = tcp.CloseWrite()
		_ = tcp.SetReadDeadline(time.Now().Add(lingerTimeout))
		_, _ = io.Copy(io.Discard, io.LimitReader(tcp, lingerBytes))
	}
	return c.Conn.Close()
}

// peerAddress is an address without its port.
func peerAddress(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
