package localapi

import (
	"context"
	"errors"
	"net/http"
)

// Errors of the channel itself. A handler may return them too.
var (
	// ErrDenied: the caller may not call this method.
	ErrDenied = errors.New("caller may not use this method")
	// ErrUnknownMethod: the server has no method of this name.
	ErrUnknownMethod = errors.New("unknown method")
	// ErrBadRequest: the argument is not what the method takes.
	ErrBadRequest = errors.New("malformed request")
	// ErrTooLarge: the argument exceeds the method's bound.
	ErrTooLarge = errors.New("request too large")
	// ErrBusy: the caller runs too many calls at once; it may try again.
	ErrBusy = errors.New("too many calls at once; try again")
	// ErrTimeout: the server gave up at the method's time bound.
	ErrTimeout = errors.New("the call took too long")
	// ErrInternal: the handler failed in a way that nobody foresaw; the server's
	// log says how.
	ErrInternal = errors.New("internal fault; the service's log says more")
	// ErrUnavailable: no server answers at the socket. Only clients return it.
	ErrUnavailable = errors.New("service does not answer")
)

// failed is the code of an error that no registered sentinel matches.
const failed = "failed"

// Code ties a sentinel error to its name on the wire and its HTTP status.
// Server and client of one service are given the same list; then errors.Is holds
// across the socket. Names are lower case words joined by hyphens.
type Code struct {
	Name   string
	Err    error
	Status int // 400 to 599; 0 means 422
}

// channelCodes come after a service's own.
func channelCodes() []Code {
	return []Code{
		{"denied", ErrDenied, http.StatusForbidden},
		{"unknown-method", ErrUnknownMethod, http.StatusNotFound},
		{"bad-request", ErrBadRequest, http.StatusBadRequest},
		{"too-large", ErrTooLarge, http.StatusRequestEntityTooLarge},
		{"busy", ErrBusy, http.StatusServiceUnavailable},
		{"timeout", ErrTimeout, http.StatusGatewayTimeout},
		{"timeout", context.DeadlineExceeded, http.StatusGatewayTimeout},
		{"internal", ErrInternal, http.StatusInternalServerError},
	}
}

// Error is what a client gets for a call that the server refused or failed.
// errors.Is finds the registered sentinel of its code.
type Error struct {
	Code   string `json:"code"`             // "denied", a registered name, or "failed"
	Text   string `json:"text"`             // for people: fault, then remedy
	Remedy string `json:"remedy,omitempty"` // the remedy alone, when there is one
	kind   error
}

// Error returns the text for people.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the sentinel that belongs to the code, nil for "failed".
func (e *Error) Unwrap() error { return e.kind }

// remedier is an error that knows what to do about it. Its Error text already
// contains the remedy; Remedy returns it alone.
type remedier interface{ Remedy() string }

// Remedy returns the remedy that err carries, across the socket too, or "".
func Remedy(err error) string {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Remedy
	}
	if r := remedier(nil); errors.As(err, &r) {
		return r.Remedy()
	}
	return ""
}

// WithRemedy adds to err what a person can do about it.
func WithRemedy(err error, remedy string) error { return &remedied{err, remedy} }

type remedied struct {
	err    error
	remedy string
}

func (r *remedied) Error() string  { return r.err.Error() + "; " + r.remedy }
func (r *remedied) Unwrap() error  { return r.err }
func (r *remedied) Remedy() string { return r.remedy }

// wireError turns a handler's error into its wire form and HTTP status.
func wireError(codes []Code, err error) (*Error, int) {
	e := &Error{Code: failed, Text: err.Error(), Remedy: Remedy(err), kind: err}
	for _, c := range codes {
		if errors.Is(err, c.Err) {
			e.Code = c.Name
			if c.Status == 0 {
				return e, http.StatusUnprocessableEntity
			}
			return e, c.Status
		}
	}
	if passed := (*Error)(nil); errors.As(err, &passed) {
		e.Code = passed.Code // of a further service behind this one
	}
	return e, http.StatusUnprocessableEntity
}

// bind gives a received error its sentinel.
func (e *Error) bind(codes []Code) *Error {
	for _, c := range codes {
		if c.Name == e.Code {
			e.kind = c.Err
			return e
		}
	}
	return e
}
