package smtpguard

import (
	"errors"
	"io"

	"github.com/emersion/go-smtp"
)

// engineSession is what go-smtp sees of a Session: every call passes the guard's
// limits, its recover and its typed errors.
type engineSession struct{ c *conn }

type engineAuthSession struct {
	engineSession
	guardedAuth
}

func newEngineSession(ec *smtp.Conn) (smtp.Session, error) {
	c, ok := ec.Conn().(*conn)
	if !ok || c.session == nil {
		return nil, errors.New("connection is not guarded")
	}
	s := engineSession{c}
	if a, ok := c.session.(Authenticator); ok {
		return engineAuthSession{s, guardedAuth{c, a}}, nil
	}
	return s, nil
}

// result keeps the verdict on the command for the guard to answer with, and tells
// go-smtp of it in its own type.
func (s engineSession) result(verb string, err error) error {
	if err == nil {
		return nil
	}
	s.c.verdict = s.c.settle(verb, err)
	return &smtp.SMTPError{Code: s.c.verdict.Code, EnhancedCode: s.c.verdict.Enhanced}
}

func (s engineSession) Mail(from string, o *smtp.MailOptions) error {
	return s.result("MAIL", s.c.guarded(func() error { return s.c.session.Mail(from, o) }))
}

func (s engineSession) Rcpt(to string, o *smtp.RcptOptions) error {
	return s.result("RCPT", s.c.guarded(func() error { return s.c.session.Rcpt(to, o) }))
}

// Data is never called: the guard takes messages without go-smtp.
func (s engineSession) Data(io.Reader) error {
	return s.result("DATA", errors.New("the engine was given a message"))
}

func (s engineSession) Reset() {
	if s.c.guarded(func() error { s.c.session.Reset(); return nil }) != nil {
		s.c.over = true // it panicked: what it still holds is unknown
	}
}

// Logout does nothing: conn.Close ends the session, also one that never greeted.
func (s engineSession) Logout() error { return nil }
