package smtpguard

import (
	"errors"
	"fmt"
	"strconv"
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
	e := &Error{Code: code, Text: format}
	if strings.Contains(format, "%") {
		e.Text = fmt.Sprintf(format, args...)
	}
	parts := strings.Split(enhanced, ".")
	for i := range e.Enhanced {
		n, err := strconv.Atoi(parts[min(i, len(parts)-1)])
		if err != nil || len(parts) != len(e.Enhanced) {
			panic("smtpguard: enhanced code " + enhanced + " is malformed") // a constant in the caller's source
		}
		e.Enhanced[i] = n
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
	return string(e.appendLine(nil))
}

func (e *Error) appendLine(b []byte) []byte {
	for i, n := range e.Enhanced {
		if b = strconv.AppendInt(b, int64(n), 10); i < len(e.Enhanced)-1 {
			b = append(b, '.')
		}
	}
	return append(append(b, ' '), printable(e.Text)...)
}

// appendTo appends the answer as it goes out.
func (e *Error) appendTo(b []byte) []byte {
	b = append(strconv.AppendInt(b, int64(e.Code), 10), ' ')
	return append(e.appendLine(b), '\r', '\n')
}

// because attaches a cause for the log.
func (e *Error) because(err error) *Error {
	e.Cause = err
	return e
}

// typed reports whether err says itself what the peer should read.
func typed(err error) bool {
	var own *Error
	var engine *smtp.SMTPError
	return errors.As(err, &own) || errors.As(err, &engine)
}

// asError is the one place where errors become answers (pitfall 9): what is not
// typed, or not a refusal, is a temporary failure of ours, and its text stays
// here. An enhanced code of another class than the code becomes X.0.0.
func asError(err error) *Error {
	var answer *Error
	var engine *smtp.SMTPError
	switch {
	case errors.As(err, &answer):
	case errors.As(err, &engine):
		answer = &Error{Code: engine.Code, Enhanced: engine.EnhancedCode, Text: engineText(engine)}
	}
	if answer == nil || answer.Code < 400 || answer.Code > 599 {
		return Errorf(451, "4.3.0", "temporary failure, please try again later").because(err)
	}
	if class := answer.Code / 100; answer.Enhanced[0] != class {
		fixed := *answer
		fixed.Enhanced = [3]int{class, 0, 0}
		return &fixed
	}
	return answer
}

// engineText is the text of an error of go-smtp's type: its own sentinels get
// words of ours.
func engineText(e *smtp.SMTPError) string {
	switch e {
	case smtp.ErrAuthFailed:
		return "user or password is wrong"
	case smtp.ErrAuthRequired:
		return "authentication comes first"
	case smtp.ErrAuthUnsupported, smtp.ErrAuthUnknownMechanism:
		return "this mechanism is not offered"
	case smtp.ErrDataTooLarge:
		return "message is too large"
	}
	return e.Message
}

// printable keeps an answer on one line of ASCII: an address in it may come from
// the peer.
func printable(s string) string {
	const longest = 400
	if len(s) > longest {
		s = s[:longest]
	}
	clean := func(r rune) bool { return r >= ' ' && r <= '~' }
	if strings.IndexFunc(s, func(r rune) bool { return !clean(r) }) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if clean(r) {
			return r
		}
		return '?'
	}, s)
}
