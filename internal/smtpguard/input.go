package smtpguard

import (
	"bytes"
	"errors"
	"io"
	"sync"
)

// input is what came from the peer and was not used yet. Commands come through a
// small buffer of the connection's own, messages through a large one that a pool
// lends for as long as a message lasts: an idle connection holds little.
type input struct {
	src   io.Reader
	buf   []byte // own or large
	r, w  int    // buf[r:w] is not used yet
	own   [commandBuffer]byte
	large *[bodyBuffer]byte
}

var bodyBuffers = sync.Pool{New: func() any { return new([bodyBuffer]byte) }}

func (in *input) init(src io.Reader) { in.src, in.buf = src, in.own[:] }

// buffered is how much was read and not used.
func (in *input) buffered() int { return in.w - in.r }

// skip uses n buffered bytes. They stay readable until the next fill.
func (in *input) skip(n int) { in.r += n }

// maxEmptyReads bounds reads that bring nothing and no error.
const maxEmptyReads = 100

// fill reads once from the peer. There must be room: callers ask for less than a
// buffer holds.
func (in *input) fill() error {
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	for range maxEmptyReads {
		n, err := in.src.Read(in.buf[in.w:])
		in.w += n
		switch {
		case n > 0:
			return nil // an error comes again with the next read
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// peek returns all that is buffered, at least n bytes of it, reading where needed.
func (in *input) peek(n int) ([]byte, error) {
	for in.buffered() < n {
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
	return in.buf[in.r:in.w], nil
}

// enlarge lends the large buffer.
func (in *input) enlarge() {
	if in.large != nil {
		return
	}
	in.large, _ = bodyBuffers.Get().(*[bodyBuffer]byte)
	in.move(in.large[:])
}

// shrink gives the large buffer back, once what is left fits without it.
func (in *input) shrink() {
	if in.large == nil || in.buffered() > commandBuffer {
		return
	}
	in.move(in.own[:])
	bodyBuffers.Put(in.large)
	in.large = nil
}

func (in *input) move(to []byte) {
	in.w = copy(to, in.buf[in.r:in.w])
	in.r, in.buf = 0, to
}

// Faults of a line that end the connection: what follows cannot be trusted to be
// a command.
var (
	errLongLine = errors.New("line too long")
	errBareLine = errors.New("bare CR, bare LF or NUL in a command")
)

// line returns the next line without its CRLF; it is valid until the next read.
func (in *input) line() ([]byte, error) {
	in.shrink()
	for seen := 0; ; {
		at := bytes.IndexByte(in.buf[in.r+seen:in.w], '\n')
		if at < 0 {
			if seen = in.buffered(); seen >= maxCommandLine {
				return nil, errLongLine
			}
			if err := in.fill(); err != nil {
				return nil, err
			}
			continue
		}
		whole := in.buf[in.r : in.r+seen+at+1]
		if len(whole) > maxCommandLine {
			return nil, errLongLine
		}
		in.skip(len(whole))
		line, clean := bytes.CutSuffix(whole, []byte("\r\n"))
		if !clean || bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
			return nil, errBareLine
		}
		return line, nil
	}
}
