package smtpguard

import (
	"errors"
	"io"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Authenticator is a Session that also takes SMTP AUTH (RFC 4954). Which
// mechanisms and who may use them is its business; the guard counts refusals.
type Authenticator interface {
	AuthMechanisms() []string
	Auth(mechanism string) (sasl.Server, error)
}

// engineSession is what go-smtp sees of a Session: every call passes the guard's
// limits, its recover and its typed errors.
type engineSession struct{ c *conn }

type engineAuthSession struct {
	engineSession
	Authenticator
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

// result makes the one typed answer out of what a session returned.
func (s engineSession) result(verb string, err error) error {
	if err == nil {
		return nil
	}
	fault := asError(err)
	if fault.Cause != nil {
		s.c.s.o.Log.Warn("smtp command failed", "remote", s.c.peer.Remote.String(), "verb", verb, "error", fault.Error())
	}
	if fault.Close {
		s.c.over = true
	}
	return fault.engine()
}

func (s engineSession) Mail(from string, o *smtp.MailOptions) error {
	if limit := s.c.maxSize(); o.Size > limit {
		return Errorf(552, "5.3.4", "message is larger than %d bytes", limit).engine()
	}
	return s.result("MAIL", s.c.guarded(func() error { return s.c.session.Mail(from, o) }))
}

func (s engineSession) Rcpt(to string, o *smtp.RcptOptions) error {
	return s.result("RCPT", s.c.guarded(func() error { return s.c.session.Rcpt(to, o) }))
}

// Data gives the session the guard's own reader of the message; go-smtp's stays
// unread and finds the end mark.
func (s engineSession) Data(io.Reader) error {
	b := s.c.body
	if b == nil {
		return s.result("DATA", errors.New("no message is coming in"))
	}
	var text string
	err := s.c.guarded(func() (err error) {
		text, err = s.c.session.Data(b)
		return err
	})
	if err == nil && !b.clean() {
		err = errors.New("session took a message without reading it to its end")
	}
	if err != nil {
		if drained := b.drain(); drained != nil { // pitfall 2: never go on after this
			err = drained
		}
		return s.result("DATA", err)
	}
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: printable(text)}
}

func (s engineSession) Reset() {
	_ = s.c.guarded(func() error { s.c.session.Reset(); return nil })
}

// Logout does nothing: conn.Close ends the session, also one that never greeted.
func (s engineSession) Logout() error { return nil }

// guardedAuth puts recover and typed errors around SASL.
type guardedAuth struct {
	c     *conn
	inner Authenticator
}

func (g guardedAuth) AuthMechanisms() (names []string) {
	_ = g.c.guarded(func() error { names = g.inner.AuthMechanisms(); return nil })
	return names
}

func (g guardedAuth) Auth(mechanism string) (server sasl.Server, err error) {
	err = g.c.guarded(func() (err error) {
		server, err = g.inner.Auth(mechanism)
		return err
	})
	return guardedSASL{g.c, server}, engineSession{g.c}.result("AUTH", err)
}

type guardedSASL struct {
	c     *conn
	inner sasl.Server
}

func (g guardedSASL) Next(response []byte) (challenge []byte, done bool, err error) {
	err = g.c.guarded(func() (err error) {
		challenge, done, err = g.inner.Next(response)
		return err
	})
	return challenge, done, engineSession{g.c}.result("AUTH", err)
}
