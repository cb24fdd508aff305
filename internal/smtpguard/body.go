package smtpguard

import (
	"bytes"
	"errors"
	"io"
)

// body is one message on its way in, by DATA or in chunks (chunk.go): a stream
// that ends in io.EOF if and only if the end came and nothing before it was
// wrong.
//
// A line starts after CRLF and nowhere else, so "\n.\r\n", "\r.\r\n" and their
// kind neither end a message nor lose a dot; they only spoil it. A spoiled
// message is read to its end, for the peer to be in step, and then refused.
type body struct {
	in   *input
	max  int64 // bytes
	line int   // characters without CRLF

	start bool   // the next byte starts a line
	cr    bool   // the last byte was CR
	width int    // of the line so far
	rest  []byte // read, not yet given out; valid until the next read
	size  int64  // of the message so far
	raw   int64  // read so far, with dots and end mark

	chunked bool         // by BDAT
	left    int64        // of the chunk
	last    bool         // the chunk ends the message
	more    func() error // gets the next chunk
	givenUp bool         // the peer took the message back between two chunks

	done    bool   // the end came
	spoiled *Error // the first fault of content
	broken  error  // nothing more can be read
}

var finalDot = []byte(".\r\n")

func (c *conn) newBody() *body {
	return &body{in: &c.in, max: c.maxSize(), line: c.s.limits.TextLine, start: true}
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

// drain reads to where the next byte is a command, and throws away.
func (b *body) drain() error {
	for b.broken == nil && !b.done && (!b.chunked || b.left > 0) {
		_ = b.step() // what fails stays in broken
	}
	b.rest = nil
	return b.broken
}

// clean reports whether the whole message was read and was fine.
func (b *body) clean() bool { return b.done && b.spoiled == nil && b.broken == nil && len(b.rest) == 0 }

var errEnded = errors.New("the message is over")

// end makes the body useless: its buffer goes to somebody else.
func (b *body) end() { b.rest, b.done, b.spoiled, b.broken = nil, false, nil, errEnded }

// step reads one piece into rest: lines that need no change, as many as came.
func (b *body) step() error {
	switch {
	case b.broken != nil:
		return b.broken
	case b.chunked && b.left == 0:
		return b.chunkEnd()
	}
	piece, err := b.in.peek(1)
	switch {
	case err != nil:
		return b.fail(err)
	case b.chunked:
		piece = piece[:min(int64(len(piece)), b.left)]
	case b.start && piece[0] == '.':
		return b.dot()
	}
	piece = piece[:b.scan(piece)]
	b.in.skip(len(piece))
	b.left -= int64(len(piece)) // counts in chunks only
	if err := b.read(len(piece)); err != nil {
		return err
	}
	if b.size += int64(len(piece)); b.size > b.max {
		b.spoil(Errorf(552, "5.3.4", "message is larger than %d bytes", b.max))
	}
	if b.spoiled == nil {
		b.rest = piece
	}
	return nil
}

// read counts n bytes off the wire.
func (b *body) read(n int) error {
	if b.raw += int64(n); b.raw > b.budget() {
		return b.fail(errTooMuch)
	}
	return nil
}

// budget is how much is read for one message, at most.
func (b *body) budget() int64 { return discardFactor*b.max + bodyBuffer }

// dot decides about a line that starts with one: it ends the message, or loses it
// (RFC 5321 §4.5.2). A line has at least CRLF behind it.
func (b *body) dot() error {
	piece, err := b.in.peek(len(finalDot))
	if err != nil {
		return b.fail(err)
	}
	if bytes.HasPrefix(piece, finalDot) {
		b.in.skip(len(finalDot))
		b.done = true
		return nil
	}
	b.in.skip(1)
	b.start = false
	return b.read(1)
}

// scan looks through p, up to a line that starts with a dot, and returns how far
// it came.
func (b *body) scan(p []byte) (at int) {
	for at < len(p) && (at == 0 || b.chunked || !b.start || p[at] != '.') {
		n := bytes.IndexByte(p[at:], '\n')
		if n < 0 {
			b.partOfLine(p[at:])
			at = len(p)
			break
		}
		b.endOfLine(p[at : at+n])
		at += n + 1
	}
	if bytes.IndexByte(p[:at], 0) >= 0 {
		b.spoil(Errorf(554, "5.6.0", "message has a NUL; encode binary content"))
	}
	return at
}

// endOfLine takes what stood before an LF.
func (b *body) endOfLine(p []byte) {
	line, crlf := bytes.CutSuffix(p, []byte("\r"))
	if len(p) == 0 {
		crlf = b.cr
	}
	b.inspect(p, line)
	if !crlf {
		b.spoil(Errorf(554, "5.6.0", "message has a bare LF; lines must end in CRLF"))
	}
	b.start, b.cr, b.width = crlf, false, 0
}

// partOfLine takes what is not followed by an LF yet.
func (b *body) partOfLine(p []byte) {
	line, cr := bytes.CutSuffix(p, []byte("\r"))
	b.inspect(p, line)
	b.start, b.cr = false, cr
}

// inspect takes p, of which line is all but a CR at its end.
func (b *body) inspect(p, line []byte) {
	if b.cr && len(p) > 0 || bytes.IndexByte(line, '\r') >= 0 {
		b.spoil(Errorf(554, "5.6.0", "message has a bare CR; lines must end in CRLF"))
	}
	if b.width += len(line); b.width > b.line {
		b.spoil(Errorf(554, "5.6.0", "message has a line longer than %d characters; encode it as quoted-printable or base64", b.line))
	}
}

func (b *body) spoil(e *Error) {
	if b.spoiled == nil {
		b.spoiled = e
	}
	b.rest = nil
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
	case errors.Is(err, errLongLine), errors.Is(err, errBareLine):
		fault = lineError(err)
	}
	b.broken = closing(fault)
	return b.broken
}
