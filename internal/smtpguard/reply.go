package smtpguard

import (
	"errors"
	"fmt"
	"strings"

	"github.com/emersion/go-smtp"
)

// Error is an answer to a command: code, enhanced code (RFC 3463) and a text for
// the people at the other end. Sessions return it, possibly wrapped.
type Error struct {
	Code     int
	Enhanced [3]int
	Text     string
	// Close ends the connection after the answer.
	Close bool
	// Cause is for the log only; the peer never sees it.
	Cause error
}

// Errorf makes an Error. enhanced is written as in the answer: "5.7.1".
func Errorf(code int, enhanced, format string, args ...any) *Error {
	e := &Error{Code: code, Text: fmt.Sprintf(format, args...)}
	if _, err := fmt.Sscanf(enhanced, "%d.%d.%d", &e.Enhanced[0], &e.Enhanced[1], &e.Enhanced[2]); err != nil {
		panic("smtpguard: enhanced code " + enhanced + " is malformed") // a constant in the caller's source
	}
	return e
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%d %s", e.Code, e.line())
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

func (e *Error) Unwrap() error { return e.Cause }

// Temporary reports whether the peer should try again.
func (e *Error) Temporary() bool { return e.Code/100 == 4 }

func (e *Error) line() string {
	return fmt.Sprintf("%d.%d.%d %s", e.Enhanced[0], e.Enhanced[1], e.Enhanced[2], printable(e.Text))
}

// because attaches a cause for the log.
func (e *Error) because(err error) *Error {
	e.Cause = err
	return e
}

// asError is the one place where errors become answers (pitfall 9): what is not
// typed is a temporary failure of ours, and its text stays here.
func asError(err error) *Error {
	var typed *Error
	if errors.As(err, &typed) {
		return typed
	}
	var engine *smtp.SMTPError
	if errors.As(err, &engine) {
		return &Error{Code: engine.Code, Enhanced: engine.EnhancedCode, Text: engine.Message}
	}
	return Errorf(451, "4.3.0", "temporary failure, please try again later").because(err)
}

// engine turns an Error into what go-smtp looks for by type assertion.
func (e *Error) engine() *smtp.SMTPError {
	return &smtp.SMTPError{Code: e.Code, EnhancedCode: e.Enhanced, Message: printable(e.Text)}
}

// printable keeps an answer on one line of ASCII: an address in it may come from
// the peer.
func printable(s string) string {
	const longest = 400
	if len(s) > longest {
		s = s[:longest]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
