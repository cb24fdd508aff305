package smtpguard

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
)

// Chunks (RFC 3030, without BINARYMIME). What follows BDAT is a message's bytes
// whatever the answer will be: so a size that cannot be read ends the
// connection, and a chunk that is not wanted is read by its length and thrown
// away. The session reads all chunks as one body; between two of them that body
// confirms the one and reads the command of the other.

// chunkSize reads the argument of BDAT. A fault of it closes, for nobody knows
// where the chunk ends.
func chunkSize(arg string) (size int64, last bool, fault *Error) {
	digits, word, more := strings.Cut(arg, " ")
	if more && !strings.EqualFold(word, "LAST") || strings.Trim(digits, "0123456789") != "" {
		return 0, false, closing(Errorf(501, "5.5.4", "BDAT needs a size and nothing else but LAST, closing connection"))
	}
	size, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, false, closing(Errorf(501, "5.5.4", "BDAT needs a size that can be read, closing connection"))
	}
	return size, more, nil
}

// allowChunk carries out a first BDAT and all that follow it.
func (c *conn) allowChunk(arg string) *Error {
	size, last, fault := chunkSize(arg)
	switch {
	case fault != nil:
		return fault
	case !c.tx.extended:
		return closing(Errorf(503, "5.5.1", "EHLO comes first, closing connection"))
	}
	c.messageWindow()
	b := c.newBody()
	b.chunked, b.more = true, func() error { return c.nextChunk(b) }
	if err := b.announce(size, last); err != nil {
		return asError(err)
	}
	if !c.tx.mail || c.tx.rcpts == 0 {
		if err := b.drain(); err != nil {
			return asError(err)
		}
		return c.noMail()
	}
	c.take("BDAT", b)
	return nil
}

// announce sets the size of the next chunk.
func (b *body) announce(size int64, last bool) error {
	if size > b.budget()-b.raw {
		return b.fail(errTooMuch)
	}
	b.left, b.last = size, last
	return nil
}

// chunkEnd goes on behind a chunk: to the next, or to the end of the message.
func (b *body) chunkEnd() error {
	if !b.last {
		return b.more()
	}
	if !b.start {
		b.spoil(Errorf(554, "5.6.0", "message does not end in CRLF"))
	}
	b.done = true
	return nil
}

// errGivenUp is what the session reads of a message that its sender took back.
var errGivenUp = errors.New("given up by the sender")

// nextChunk confirms a chunk and waits for the next.
func (c *conn) nextChunk(b *body) error {
	c.reply("BDAT", Errorf(250, "2.0.0", "chunk received"))
	for !c.over {
		line, err := c.in.line()
		if err != nil {
			return b.fail(err)
		}
		verb, arg, fault := split(line)
		if fault == nil {
			switch verb {
			case "BDAT":
				size, last, fault := chunkSize(arg)
				if fault != nil {
					b.broken = fault
					return fault
				}
				return b.announce(size, last)
			case "RSET", "QUIT", "EHLO", "HELO":
				c.held = bytes.Clone(line)
				b.givenUp, b.broken = true, errGivenUp
				return errGivenUp
			case "DATA": // what stands behind it may be content
				fault = c.lastInGroup(verb)
			case "NOOP":
				fault = c.trivial(verb)
			}
			if fault == nil {
				fault = Errorf(503, "5.5.1", "a message is coming in chunks: BDAT goes on with it, RSET gives it up")
			}
		}
		if fault.Close {
			b.broken = fault
			return fault
		}
		c.reply(verb, fault)
	}
	return b.fail(errors.New("conversation ended between chunks"))
}
