package localapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

const (
	headerTimeout  = 5 * time.Second  // for a request's header
	bodyTimeout    = 20 * time.Second // for a request's header and body
	answerReserve  = 10 * time.Second // to write the answer, on top of the longest method
	stopGrace      = 5 * time.Second  // for calls that run when the server stops
	maxHeader      = 8 << 10          // bytes of a request's header
	connectionsPer = 2                // open connections per user, as a multiple of MaxConcurrent
)

// Options are what a server may be given beyond its methods.
type Options struct {
	// Codes are the service's own errors; see Code.
	Codes []Code
	// MaxConcurrent bounds the calls of one user at once; 0 means
	// DefaultMaxConcurrent. One more is refused with ErrBusy, at once.
	MaxConcurrent int
	// Observe is told of every call after it ended, refused ones too. It must be
	// quick and safe for concurrent use. Nil means that failures are logged.
	Observe func(Record)
	// Log takes panics and failures of the channel; nil means slog.Default.
	Log *slog.Logger
	// PeerOf says who made a connection; nil means PeerOf. For tests.
	PeerOf func(net.Conn) (Peer, error)
}

// Record is one call for log and audit. It holds no arguments and no result.
type Record struct {
	Method string
	Peer   Peer
	Start  time.Time
	Took   time.Duration
	Code   string // "" for a success, else the error's code
	Err    error  // what the handler returned, or why the call was refused
}

// Server answers calls. Make one with NewServer.
type Server struct {
	methods map[string]Method
	codes   []Code
	opts    Options
	longest time.Duration // the longest timeout of a method

	mu      sync.Mutex
	running map[uint32]int // calls by user
	open    map[uint32]int // connections by user
}

// NewServer returns a server of the given methods. It fails when a declaration
// is incomplete or when two have one name.
func NewServer(methods []Method, opts Options) (*Server, error) {
	if opts.MaxConcurrent <= 0 {
		opts.MaxConcurrent = DefaultMaxConcurrent
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.PeerOf == nil {
		opts.PeerOf = PeerOf
	}
	s := &Server{
		methods: map[string]Method{},
		codes:   slices.Concat(opts.Codes, channelCodes()),
		opts:    opts,
		running: map[uint32]int{},
		open:    map[uint32]int{},
	}
	if s.opts.Observe == nil {
		s.opts.Observe = s.logFailure
	}
	for _, m := range methods {
		if err := m.check(); err != nil {
			return nil, err
		}
		if _, twice := s.methods[m.Name]; twice {
			return nil, fmt.Errorf("method %s: declared twice", m.Name)
		}
		if m.MaxBody == 0 {
			m.MaxBody = DefaultMaxBody
		}
		if m.Timeout == 0 {
			m.Timeout = DefaultTimeout
		}
		s.longest = max(s.longest, m.Timeout)
		s.methods[m.Name] = m
	}
	return s, nil
}

// Run answers calls on the listeners until ctx ends, gives running calls five
// seconds to finish, and returns nil. It closes the listeners. It fails when a
// listener does.
func (s *Server) Run(ctx context.Context, listeners ...net.Listener) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	hs := &http.Server{
		Handler:           http.HandlerFunc(s.serveHTTP),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      s.longest + answerReserve,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return base },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*connection).peer)
		},
	}
	hs.SetKeepAlivesEnabled(false)
	done := make(chan error, len(listeners))
	for _, ln := range listeners {
		go func() { done <- hs.Serve(&listener{ln, s}) }()
	}
	var fault error
	left := len(listeners)
	select {
	case <-ctx.Done():
	case fault = <-done:
		left--
	}
	grace, stop := context.WithTimeout(base, stopGrace)
	defer stop()
	if err := hs.Shutdown(grace); err != nil {
		cancel()
		_ = hs.Close()
	}
	for range left {
		<-done
	}
	if fault != nil {
		return fmt.Errorf("serve local calls: %w", fault)
	}
	return nil
}

type peerKey struct{}

// serveHTTP answers one request and reports it.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	record := Record{Method: r.Method + " " + r.URL.Path, Start: time.Now()}
	record.Peer, _ = r.Context().Value(peerKey{}).(Peer)
	result, err := s.call(w, r, record)
	status := http.StatusOK
	var answer []byte
	if err == nil {
		if answer, err = json.Marshal(result); err != nil {
			s.opts.Log.Error("answer cannot be marshalled", "method", record.Method, "error", err)
			err = ErrInternal
		}
	}
	if err != nil {
		var e *Error
		e, status = wireError(s.codes, err)
		record.Code, record.Err = e.Code, err
		answer, _ = json.Marshal(map[string]*Error{"error": e}) // strings always marshal
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(answer, '\n'))
	record.Took = time.Since(record.Start)
	s.opts.Observe(record)
}

// call checks what must hold before the handler runs, in this order: method,
// caller, number of calls, body.
func (s *Server) call(w http.ResponseWriter, r *http.Request, record Record) (any, error) {
	m, ok := s.methods[record.Method]
	switch {
	case !ok || r.URL.RawQuery != "":
		return nil, fmt.Errorf("%w %s", ErrUnknownMethod, record.Method)
	case !Allowed(m.Allow, record.Peer):
		return nil, fmt.Errorf("%s (%s): %w", m.Name, record.Peer, ErrDenied)
	case !s.enter(s.running, record.Peer.UID, s.opts.MaxConcurrent):
		return nil, fmt.Errorf("%s: %w", m.Name, ErrBusy)
	}
	defer s.leave(s.running, record.Peer.UID)
	body, err := readBody(w, r, m.MaxBody)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	// From here on the method's own timeout counts. Without this net/http would
	// take the end of ReadTimeout for a caller that hung up.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("%s: %w", m.Name, err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), m.Timeout)
	defer cancel()
	return s.protect(ctx, m, record.Peer, body)
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	switch tooLarge := (*http.MaxBytesError)(nil); {
	case errors.As(err, &tooLarge):
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	case r.Method == http.MethodGet && len(body) > 0:
		return nil, fmt.Errorf("%w: a GET has no body", ErrBadRequest)
	}
	return body, nil
}

// protect runs the handler and turns its panic into an error.
func (s *Server) protect(ctx context.Context, m Method, peer Peer, body []byte) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.opts.Log.Error("handler panicked", "method", m.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			result, err = nil, fmt.Errorf("%s: %w", m.Name, ErrInternal)
		}
	}()
	return m.Handler(ctx, peer, body)
}

// enter counts one more of uid, unless it already has limit.
func (s *Server) enter(count map[uint32]int, uid uint32, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if count[uid] >= limit {
		return false
	}
	count[uid]++
	return true
}

func (s *Server) leave(count map[uint32]int, uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if count[uid]--; count[uid] <= 0 {
		delete(count, uid)
	}
}

func (s *Server) logFailure(r Record) {
	if r.Err != nil {
		s.opts.Log.Warn("call failed", "method", r.Method, "uid", r.Peer.UID, "pid", r.Peer.PID, "code", r.Code, "error", r.Err)
	}
}

// listener accepts connections, asks who made them, and closes those over the
// user's bound.
type listener struct {
	net.Listener
	server *Server
}

// Accept returns the next connection whose peer is known and within its bound.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := l.server.opts.PeerOf(conn)
		if err != nil {
			l.server.opts.Log.Warn("connection of an unknown peer", "error", err)
			_ = conn.Close()
			continue
		}
		if !l.server.enter(l.server.open, peer.UID, connectionsPer*l.server.opts.MaxConcurrent) {
			l.server.opts.Log.Warn("too many connections", "uid", peer.UID, "pid", peer.PID)
			_ = conn.Close()
			continue
		}
		return &connection{Conn: conn, peer: peer, server: l.server}, nil
	}
}

// connection knows its peer and leaves the count when it is closed.
type connection struct {
	net.Conn
	peer   Peer
	server *Server
	once   sync.Once
}

// Close closes the connection and gives its place back.
func (c *connection) Close() error {
	c.once.Do(func() { c.server.leave(c.server.open, c.peer.UID) })
	return c.Conn.Close()
}
