// Package localapi is how the processes of the box ask each other: HTTP/1.1
// with JSON over Unix sockets.
//
// A server declares each method with its name ("POST /v1/sign"), with the users
// or groups that may call it, and with bounds on body and time. Who calls is
// what the kernel says (SO_PEERCRED, unix(7)), fixed when the connection was
// made; nothing in a request says who sends it. A method without a declared
// caller does not exist, and nobody is allowed by being root: root must be
// declared like everybody else.
//
// # Promises
//
//   - Deny by default: unknown method, undeclared caller, unknown field, body over
//     the bound: refused, with a code, before the handler runs.
//   - Every call is bounded in body, time and number at once. The last is counted
//     per user, so that one process in a loop does not lock out another.
//   - A panicking handler costs one call, not the process.
//   - Errors keep their meaning: what the server returned as a registered sentinel
//     satisfies errors.Is with the same sentinel at the client (see Code).
//   - Every call, refused ones too, is reported to one observer for log and audit.
//
// # Not done
//
// No streams, no calls that outlive their request, no TCP, no encryption: a
// Unix socket leaves neither the kernel nor the box. One connection carries one
// call: a whole call takes about 0.1 ms, and no caller ever meets a connection
// that died while it was idle.
//
// # Format
//
// A call with arguments is a POST whose body is one JSON object; a GET has no
// body and no arguments. 200 answers with the result as JSON. Every other status
// answers {"error": {"code": "...", "text": "...", "remedy": "..."}}: the code
// is for machines, the text for people (fault, then remedy), the remedy is again
// alone for user interfaces.
package localapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of a Method and of Options.
const (
	// DefaultMaxBody bounds the body of a call, in bytes.
	DefaultMaxBody = 64 << 10
	// DefaultTimeout bounds a call, from its header to its answer.
	DefaultTimeout = 30 * time.Second
	// DefaultMaxConcurrent bounds the calls that one user runs at once.
	DefaultMaxConcurrent = 16
	// MaxResponse bounds what a client reads of one answer, in bytes.
	MaxResponse = 4 << 20
)

// Peer is the process at the other end of a connection, as the kernel saw it
// when the connection was made. GID is its primary group. The process may have
// ended since: PID is for the log, never for a decision.
type Peer struct {
	UID, GID uint32
	PID      int32
}

// String is the form for logs.
func (p Peer) String() string { return fmt.Sprintf("uid=%d gid=%d pid=%d", p.UID, p.GID, p.PID) }

// Caller is one permission: a user, or a primary group. Its zero value allows nobody.
type Caller struct {
	kind byte
	id   uint32
}

// UID allows one user.
func UID(id uint32) Caller { return Caller{'u', id} }

// GID allows everyone whose primary group it is. (The kernel does not hand
// supplementary groups along; they still open the socket's file.)
func GID(id uint32) Caller { return Caller{'g', id} }

// allows reports whether peer p has permission c.
func (c Caller) allows(p Peer) bool {
	return c.kind == 'u' && p.UID == c.id || c.kind == 'g' && p.GID == c.id
}

// String is the form for logs and documentation: "uid 903".
func (c Caller) String() string {
	switch c.kind {
	case 'u':
		return fmt.Sprintf("uid %d", c.id)
	case 'g':
		return fmt.Sprintf("gid %d", c.id)
	}
	return "nobody"
}

// Allowed reports whether one of the callers is peer p.
func Allowed(callers []Caller, p Peer) bool {
	return slices.ContainsFunc(callers, func(c Caller) bool { return c.allows(p) })
}

// Handler answers one call. The request is its body, at most MaxBody bytes of
// unchecked JSON, empty for a GET; use Typed to decode it. The result must be
// marshallable as JSON. The context ends at the method's timeout, when the
// caller hangs up, and a little after the server was told to stop.
type Handler func(ctx context.Context, peer Peer, request json.RawMessage) (any, error)

// Method is one thing that a server can be asked.
type Method struct {
	Name    string        // verb and path: "GET /v1/status", "POST /v1/sign"
	Allow   []Caller      // who may call; at least one
	MaxBody int64         // in bytes; 0 means DefaultMaxBody
	Timeout time.Duration // 0 means DefaultTimeout
	Handler Handler
}

// check reports what is wrong with a declaration.
func (m Method) check() error {
	verb, path, ok := strings.Cut(m.Name, " ")
	switch {
	case !ok || verb != "GET" && verb != "POST" || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " ?#%"):
		return fmt.Errorf("method %q: want a name such as \"POST /v1/sign\"", m.Name)
	case len(m.Allow) == 0 || slices.Contains(m.Allow, Caller{}):
		return fmt.Errorf("method %s: declares no caller", m.Name)
	case m.Handler == nil:
		return fmt.Errorf("method %s: no handler", m.Name)
	case m.MaxBody < 0 || m.Timeout < 0:
		return fmt.Errorf("method %s: negative bound", m.Name)
	}
	return nil
}

// None is the argument or result of a method that has none.
type None struct{}

// Typed makes a Handler of a function with a typed argument. Its JSON is read
// strictly: an unknown field or anything behind the value is ErrBadRequest.
func Typed[In, Out any](f func(ctx context.Context, peer Peer, in In) (Out, error)) Handler {
	return func(ctx context.Context, peer Peer, request json.RawMessage) (any, error) {
		var in In
		if err := decode(request, &in); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
		}
		return f(ctx, peer, in)
	}
}

func decode(body []byte, v any) error {
	if len(body) == 0 {
		body = []byte("{}")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// PeerOf asks the kernel who made the connection; c is a Unix stream connection.
func PeerOf(c net.Conn) (Peer, error) {
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("peer credentials: %T is no Unix connection", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	var cred *unix.Ucred
	var fault error
	err = raw.Control(func(fd uintptr) {
		cred, fault = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, fault); err != nil {
		return Peer{}, fmt.Errorf("peer credentials: %w", err)
	}
	return Peer{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, nil
}
