package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errEmpty = errors.New("nothing in the queue")

func testCodes() []Code { return []Code{{"queue-empty", errEmpty, 0}} }

type question struct {
	Name string `json:"name"`
}

type answer struct {
	Text string `json:"text"`
	UID  uint32 `json:"uid"`
}

func me() uint32 { return uint32(os.Getuid()) }

// testMethods are what the tests call.
func testMethods() []Method {
	allow := []Caller{UID(me())}
	return []Method{
		{Name: "POST /v1/greet", Allow: allow, MaxBody: 100, Handler: Typed(func(_ context.Context, p Peer, q question) (answer, error) {
			return answer{"hello " + q.Name, p.UID}, nil
		})},
		{Name: "GET /v1/empty", Allow: allow, Handler: Typed(func(context.Context, Peer, None) (None, error) {
			return None{}, WithRemedy(errEmpty, "send mail first")
		})},
		{Name: "GET /v1/odd", Allow: allow, Handler: Typed(func(context.Context, Peer, None) (None, error) {
			return None{}, errors.New("odd day")
		})},
		{Name: "GET /v1/panic", Allow: allow, Handler: Typed(func(context.Context, Peer, None) (None, error) {
			panic("secret state")
		})},
		{Name: "GET /v1/others", Allow: []Caller{UID(me() + 1), GID(uint32(os.Getgid()) + 1)}, Handler: Typed(func(context.Context, Peer, None) (None, error) {
			return None{}, nil
		})},
		{Name: "GET /v1/group", Allow: []Caller{GID(uint32(os.Getgid()))}, Handler: Typed(func(context.Context, Peer, None) (None, error) {
			return None{}, nil
		})},
		{Name: "GET /v1/unmarshallable", Allow: allow, Handler: func(context.Context, Peer, json.RawMessage) (any, error) {
			return make(chan int), nil
		}},
	}
}

// start runs a server of methods on a real Unix socket and returns its path.
func start(t *testing.T, methods []Method, opts Options) string {
	t.Helper()
	s, err := NewServer(methods, opts)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "la") // t.TempDir may exceed the 108 bytes of a socket path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return path
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestCall(t *testing.T) {
	c := Dial(start(t, testMethods(), Options{Codes: testCodes(), Log: quiet()}), testCodes()...)
	var a answer
	if err := c.Call(t.Context(), "POST /v1/greet", question{"world"}, &a); err != nil {
		t.Fatal(err)
	}
	if want := (answer{"hello world", me()}); a != want {
		t.Errorf("answer %v, want %v", a, want)
	}
	if err := c.Call(t.Context(), "GET /v1/group", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	c := Dial(start(t, testMethods(), Options{Codes: testCodes(), Log: quiet()}), testCodes()...)
	tests := []struct {
		name, method string
		in           any
		kind         error
		code, remedy string
	}{
		{"registered error", "GET /v1/empty", nil, errEmpty, "queue-empty", "send mail first"},
		{"other error", "GET /v1/odd", nil, nil, "failed", ""},
		{"panic", "GET /v1/panic", nil, ErrInternal, "internal", ""},
		{"unmarshallable", "GET /v1/unmarshallable", nil, ErrInternal, "internal", ""},
		{"wrong caller", "GET /v1/others", nil, ErrDenied, "denied", ""},
		{"no such method", "GET /v1/none", nil, ErrUnknownMethod, "unknown-method", ""},
		{"wrong verb", "GET /v1/greet", nil, ErrUnknownMethod, "unknown-method", ""},
		{"query", "GET /v1/group?x=1", nil, ErrUnknownMethod, "unknown-method", ""},
		{"body in GET", "GET /v1/group", question{"x"}, ErrBadRequest, "bad-request", ""},
		{"unknown field", "POST /v1/greet", map[string]string{"nome": "x"}, ErrBadRequest, "bad-request", ""},
		{"wrong type", "POST /v1/greet", []int{1}, ErrBadRequest, "bad-request", ""},
		{"two values", "POST /v1/greet", json.RawMessage(`{} {}`), nil, "", ""},
		{"too large", "POST /v1/greet", question{strings.Repeat("x", 100)}, ErrTooLarge, "too-large", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := c.Call(t.Context(), tt.method, tt.in, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			if tt.kind != nil && !errors.Is(err, tt.kind) {
				t.Errorf("error %q is not %q", err, tt.kind)
			}
			var e *Error
			if tt.code != "" && (!errors.As(err, &e) || e.Code != tt.code) {
				t.Errorf("error %#v, want code %s", err, tt.code)
			}
			if got := Remedy(err); got != tt.remedy || !strings.Contains(err.Error(), tt.remedy) {
				t.Errorf("remedy %q in %q, want %q", got, err, tt.remedy)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the panic's value reached the caller: %q", err)
			}
		})
	}
}

// TestRawRequests sends what a Client never would.
func TestRawRequests(t *testing.T) {
	path := start(t, testMethods(), Options{Log: quiet()})
	for name, request := range map[string]string{
		"two values":      "POST /v1/greet HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n{} {}",
		"not JSON":        "POST /v1/greet HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n\x00\xff{",
		"chunked too big": "POST /v1/greet HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + strings.Repeat("x", 255) + "\r\n0\r\n\r\n",
		"huge header":     "GET /v1/group HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n",
		"not HTTP":        "EHLO there\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go io.WriteString(conn, request) // the server may stop reading midway
			b, _ := io.ReadAll(conn)         // and reset the connection
			if bytes.HasPrefix(b, []byte("HTTP/1.1 200")) {
				t.Errorf("accepted: %q", b)
			}
		})
	}
}

func TestObserverSeesEveryCall(t *testing.T) {
	records := make(chan Record, 10)
	c := Dial(start(t, testMethods(), Options{Observe: func(r Record) { records <- r }}))
	_ = c.Call(t.Context(), "POST /v1/greet", question{"secret name"}, nil)
	_ = c.Call(t.Context(), "GET /v1/others", nil, nil)
	for _, want := range []struct{ method, code string }{{"POST /v1/greet", ""}, {"GET /v1/others", "denied"}} {
		r := <-records
		if r.Method != want.method || r.Code != want.code || (r.Err == nil) != (want.code == "") {
			t.Errorf("record %+v, want %v", r, want)
		}
		if r.Peer.UID != me() || r.Peer.PID != int32(os.Getpid()) || r.Start.IsZero() {
			t.Errorf("record %+v: not our peer", r)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	err := Dial(filepath.Join(t.TempDir(), "none")).Call(t.Context(), "GET /v1/x", nil, nil)
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
}

// block returns a method that runs until release is closed.
func block(started chan<- struct{}, release <-chan struct{}) Method {
	return Method{Name: "GET /v1/block", Allow: []Caller{UID(0), UID(1), UID(me())}, Handler: Typed(func(ctx context.Context, _ Peer, _ None) (None, error) {
		started <- struct{}{}
		select {
		case <-release:
			return None{}, nil
		case <-ctx.Done():
			return None{}, ctx.Err()
		}
	})}
}

func TestBusyIsPerUser(t *testing.T) {
	started, release := make(chan struct{}, 2), make(chan struct{})
	var mu sync.Mutex
	uid := uint32(0)
	path := start(t, []Method{block(started, release)}, Options{
		MaxConcurrent: 1,
		Log:           quiet(),
		PeerOf: func(net.Conn) (Peer, error) {
			mu.Lock()
			defer mu.Unlock()
			return Peer{UID: uid}, nil
		},
	})
	c := Dial(path)
	results := make(chan error, 2)
	call := func() { results <- c.Call(t.Context(), "GET /v1/block", nil, nil) }
	go call()
	<-started
	if err := c.Call(t.Context(), "GET /v1/block", nil, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("second call of one user: %v, want ErrBusy", err)
	}
	mu.Lock()
	uid = 1
	mu.Unlock()
	go call()
	<-started
	close(release)
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownPeerIsCutOff(t *testing.T) {
	path := start(t, testMethods(), Options{Log: quiet(), PeerOf: func(net.Conn) (Peer, error) { return Peer{}, errors.New("no idea") }})
	if err := Dial(path).Call(t.Context(), "GET /v1/group", nil, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
}

func TestDeclarations(t *testing.T) {
	ok := Typed(func(context.Context, Peer, None) (None, error) { return None{}, nil })
	root := []Caller{UID(0)}
	for name, methods := range map[string][]Method{
		"no caller":   {{Name: "GET /a", Handler: ok}},
		"zero caller": {{Name: "GET /a", Allow: []Caller{{}}, Handler: ok}},
		"no handler":  {{Name: "GET /a", Allow: root}},
		"no verb":     {{Name: "/a", Allow: root, Handler: ok}},
		"other verb":  {{Name: "DELETE /a", Allow: root, Handler: ok}},
		"pattern":     {{Name: "GET /a?b", Allow: root, Handler: ok}},
		"negative":    {{Name: "GET /a", Allow: root, Handler: ok, MaxBody: -1}},
		"twice":       {{Name: "GET /a", Allow: root, Handler: ok}, {Name: "GET /a", Allow: root, Handler: ok}},
	} {
		if _, err := NewServer(methods, Options{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if Allowed([]Caller{{}}, Peer{}) {
		t.Error("the zero Caller allows somebody")
	}
}

// pipes is a listener without a kernel, for tests with a synthetic clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }
func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started := make(chan struct{}, 1)
		m := block(started, nil)
		m.Timeout = time.Hour
		s, err := NewServer([]Method{m}, Options{Log: quiet(), PeerOf: func(net.Conn) (Peer, error) { return Peer{}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		p := newPipes()
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, p) }()

		begin := time.Now()
		conn := p.dial()
		if _, err := io.ReadAll(conn); err != nil || time.Since(begin) != headerTimeout {
			t.Errorf("a silent caller: %v after %v, want the end after %v", err, time.Since(begin), headerTimeout)
		}

		call := func() (string, time.Duration) {
			begin := time.Now()
			conn := p.dial()
			io.WriteString(conn, "GET /v1/block HTTP/1.1\r\nHost: x\r\n\r\n")
			b, _ := io.ReadAll(conn)
			return string(b), time.Since(begin)
		}
		if got, took := call(); !strings.Contains(got, `"code":"timeout"`) || took != time.Hour {
			t.Errorf("a slow handler: %q after %v, want a timeout after an hour", got, took)
		}
		<-started

		go func() { <-started; cancel() }()
		if got, took := call(); strings.HasPrefix(got, "HTTP/1.1 200") || took != stopGrace {
			t.Errorf("a call when the server stops: %q after %v, want its end after %v", got, took, stopGrace)
		}
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
}

// FuzzDecode: strict decoding never panics, and what it takes is one JSON value.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"", "{}", `{"name":"x"}`, `{"name":"x"}{}`, `{"nome":1}`, "[", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q question
		if err := decode(b, &q); err == nil && len(b) > 0 && !json.Valid(b) {
			t.Errorf("took invalid JSON %q", b)
		}
	})
}

func BenchmarkCall(b *testing.B) {
	s, err := NewServer(testMethods(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	go s.Run(b.Context(), ln)
	c := Dial(path)
	for b.Loop() {
		if err := c.Call(b.Context(), "POST /v1/greet", question{"x"}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
