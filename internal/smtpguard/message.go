package smtpguard

import "errors"

// take gives a message to the session and answers verb for it; after that the
// next byte is a command, or the connection ends.
func (c *conn) take(verb string, b *body) {
	c.in.enlarge()
	text, err := c.receive(b)
	b.end()
	c.tx.reset()
	switch {
	case b.givenUp: // the last chunk was answered already
	case err != nil:
		c.reply(verb, c.settle(verb, err))
	default:
		c.tx.junk = 0
		c.reply(verb, Errorf(250, "2.0.0", "%s", text))
	}
	c.flush() // whose message it is, is not for a later group to know
}

// receive runs the session over the message. Without error it is whole, clean and
// the session's.
func (c *conn) receive(b *body) (text string, err error) {
	err = c.guarded(func() (err error) {
		text, err = c.session.Data(b)
		return err
	})
	if err == nil && !b.clean() {
		err = errors.New("session took a message without reading it to its end")
	}
	if err != nil {
		if drained := b.drain(); drained != nil { // pitfall 2: never go on after this
			return "", drained
		}
	}
	return text, err
}

// settle makes the one typed answer out of an error of the session's, and logs
// what the peer does not see.
func (c *conn) settle(verb string, err error) *Error {
	fault := asError(err)
	if fault.Cause != nil {
		c.s.o.Log.Warn("smtp command failed", "remote", c.peer.Remote.String(), "verb", verb, "error", fault.Error())
	}
	return fault
}
