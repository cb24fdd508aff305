package smtpguard

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"time"
)

// body is one message on its way in: a stream that ends in io.EOF if and only if
// CRLF.CRLF came and nothing before it was wrong.
//
// A line starts after CRLF and nowhere else, so "\n.\r\n", "\r.\r\n" and their
// kind neither end a message nor lose a dot; they only spoil it. A spoiled
// message is read to its end, for the peer to be in step, and then refused.
type body struct {
	br   *bufio.Reader
	max  int64 // bytes
	line int   // characters without CRLF

	start bool   // the next byte starts a line
	cr    bool   // the last byte was CR
	width int    // of the line so far
	rest  []byte // read, not yet given out; valid until the next read
	size  int64  // given out so far
	raw   int64  // read so far

	done    bool   // the final dot came
	spoiled *Error // the first fault of content
	broken  error  // the connection failed in the middle
}

var finalDot = []byte(".\r\n")

// startBody follows go-smtp's 354.
func (c *conn) startBody() {
	now := time.Now()
	l := c.s.limits
	c.setWindow(window{until: now.Add(l.Data), idle: l.DataIdle, rate: l.DataRate, grace: now.Add(l.DataStart)})
	c.body = &body{br: c.br, max: c.maxSize(), line: l.TextLine, start: true}
}

// finishBody reads what the session left, so that the next byte is a command
// again; if that cannot be done, nothing more is read from this connection.
func (c *conn) finishBody() {
	if c.body != nil && c.body.drain() != nil {
		c.over = true
	}
	c.body = nil
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if err := b.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: no copying in between.
func (b *body) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if len(b.rest) > 0 {
			n, err := w.Write(b.rest)
			total += int64(n)
			b.rest = b.rest[n:]
			if err != nil {
				return total, err
			}
		}
		switch err := b.fill(); {
		case errors.Is(err, io.EOF):
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// fill gets the next piece of clean content into rest, or says how it ended.
func (b *body) fill() error {
	for len(b.rest) == 0 {
		if b.spoiled != nil {
			if err := b.drain(); err != nil {
				return err
			}
			return b.spoiled
		}
		if b.done {
			return io.EOF
		}
		if err := b.step(); err != nil {
			return err
		}
	}
	return nil
}

// drain reads to the final dot and throws away.
func (b *body) drain() error {
	for !b.done {
		if err := b.step(); err != nil {
			return err
		}
	}
	b.rest = nil
	return nil
}

// clean reports whether the whole message was read and was fine.
func (b *body) clean() bool { return b.done && b.spoiled == nil && b.broken == nil && len(b.rest) == 0 }

// step reads one line, or a piece of a long one, into rest.
func (b *body) step() error {
	if b.broken != nil {
		return b.broken
	}
	piece, err := b.br.ReadSlice('\n')
	b.raw += int64(len(piece))
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return b.fail(err)
	}
	if b.raw > discardFactor*b.max+readBuffer {
		return b.fail(errTooMuch)
	}
	if b.start && bytes.Equal(piece, finalDot) {
		b.done, b.rest = true, nil
		return nil
	}
	if b.start && piece[0] == '.' {
		piece = piece[1:]
	}
	b.inspect(piece)
	b.start = b.endsLine(piece)
	b.cr = len(piece) > 0 && piece[len(piece)-1] == '\r'
	if b.size += int64(len(piece)); b.size > b.max {
		b.spoil(Errorf(552, "5.3.4", "message is larger than %d bytes", b.max))
	}
	b.rest = piece
	if b.spoiled != nil {
		b.rest = nil
	}
	return nil
}

func (b *body) endsLine(piece []byte) bool {
	if bytes.HasSuffix(piece, []byte("\r\n")) {
		return true
	}
	return b.cr && len(piece) == 1 && piece[0] == '\n'
}

// inspect looks for what no message may hold. A piece has at most one LF, at its
// end.
func (b *body) inspect(piece []byte) {
	line, ended := bytes.CutSuffix(piece, []byte("\n"))
	if ended {
		switch {
		case bytes.HasSuffix(line, []byte("\r")):
			line = line[:len(line)-1]
		case len(line) == 0 && b.cr:
		default:
			b.spoil(Errorf(554, "5.6.0", "message has a bare LF; lines must end in CRLF"))
		}
	}
	if b.cr && len(piece) > 0 && piece[0] != '\n' {
		b.spoil(Errorf(554, "5.6.0", "message has a bare CR; lines must end in CRLF"))
	}
	if at := bytes.IndexByte(line, '\r'); at >= 0 && (ended || at < len(line)-1) {
		b.spoil(Errorf(554, "5.6.0", "message has a bare CR; lines must end in CRLF"))
	}
	if bytes.IndexByte(line, 0) >= 0 {
		b.spoil(Errorf(554, "5.6.0", "message has a NUL; encode binary content"))
	}
	b.measure(len(line), ended)
}

func (b *body) measure(n int, ended bool) {
	if b.width += n; b.width > b.line {
		b.spoil(Errorf(554, "5.6.0", "message has a line longer than %d characters; encode it as quoted-printable or base64", b.line))
	}
	if ended {
		b.width = 0
	}
}

func (b *body) spoil(e *Error) {
	if b.spoiled == nil {
		b.spoiled = e
	}
}

var errTooMuch = errors.New("far more than the announced size")

// fail is for the connection: the peer's state is unknown, so it is closed.
func (b *body) fail(err error) error {
	fault := Errorf(421, "4.4.2", "connection failed in the middle of the message").because(err)
	switch {
	case timedOut(err):
		fault = Errorf(421, "4.4.2", "timeout in the middle of the message, closing connection").because(err)
	case errors.Is(err, errTooMuch):
		fault = Errorf(552, "5.3.4", "message is far larger than %d bytes, closing connection", b.max).because(err)
	}
	fault.Close = true
	b.broken = fault
	return fault
}
