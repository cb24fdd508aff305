package smtpguard

import (
	"slices"
	"strings"

	"github.com/emersion/go-sasl"
)

// Authenticator is a Session that also takes SMTP AUTH (RFC 4954), which comes
// only under TLS, because nothing else is spoken there. Which mechanisms are
// offered to this peer and who may use them is its business, and so is to refuse
// MAIL with 530 5.7.0 until it knows who talks; the guard keeps the order and
// counts refusals.
type Authenticator interface {
	// AuthMechanisms may change until the peer has authenticated itself; none
	// means that AUTH is not offered.
	AuthMechanisms() []string
	// Auth starts an exchange. An untyped error, here or of the exchange, is a 454.
	Auth(mechanism string) (sasl.Server, error)
}

// mechanisms is what AUTH is offered with.
func (c *conn) mechanisms() (names []string) {
	if a, ok := c.session.(Authenticator); ok {
		_ = c.guarded(func() error { names = a.AuthMechanisms(); return nil })
	}
	return names
}

func (c *conn) allowAuth(arg string) (string, *Error) {
	mechanisms, words := c.mechanisms(), strings.Fields(arg)
	switch {
	case len(mechanisms) == 0:
		return "", Errorf(502, "5.5.1", "AUTH is not offered")
	case !c.tx.extended:
		return "", Errorf(503, "5.5.1", "EHLO comes first")
	case c.tx.authed:
		return "", Errorf(503, "5.5.1", "already authenticated")
	case c.tx.mail:
		return "", Errorf(503, "5.5.1", "AUTH is not allowed in a transaction")
	case len(words) == 0 || len(words) > 2:
		return "", Errorf(501, "5.5.4", "AUTH needs a mechanism, and at most one response")
	case !slices.ContainsFunc(mechanisms, func(m string) bool { return strings.EqualFold(m, words[0]) }):
		return "", Errorf(504, "5.5.4", "this mechanism is not offered")
	}
	return arg, c.lastInGroup("AUTH")
}

// guardedAuth puts recover and typed errors around SASL.
type guardedAuth struct {
	c     *conn
	inner Authenticator
}

func (g guardedAuth) AuthMechanisms() []string { return g.c.mechanisms() }

func (g guardedAuth) Auth(mechanism string) (server sasl.Server, err error) {
	err = g.c.guarded(func() (err error) {
		server, err = g.inner.Auth(mechanism)
		return err
	})
	return guardedSASL{g.c, server}, authResult(g.c, err)
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
	return challenge, done, authResult(g.c, err)
}

// authResult is result, with RFC 4954's own code for a failure of ours.
func authResult(c *conn, err error) error {
	if err != nil && !typed(err) {
		err = Errorf(454, "4.7.0", "authentication is not possible at the moment, please try again later").because(err)
	}
	return engineSession{c}.result("AUTH", err)
}
