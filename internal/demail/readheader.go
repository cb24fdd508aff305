package demail

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Bounds of a header block.
const (
	// MaxHeader is the limit in bytes that ReadHeader takes for 0.
	MaxHeader = 1 << 20
	// MaxFields is how many fields a header may have.
	MaxFields = 2000
)

// Errors of ReadHeader.
var (
	// ErrHeaderTooLarge: more bytes or more fields than allowed.
	ErrHeaderTooLarge = errors.New("header too large")
	// ErrHeaderMalformed: bare CR or LF, NUL, a line that is no field, or a torn
	// last line. The text says which, with the line's number and without content.
	ErrHeaderMalformed = errors.New("malformed header")
)

var crlf = []byte("\r\n")

// ReadHeader reads the header block and the empty line behind it; what r gives
// next is the body. At most limit bytes (MaxHeader if 0) and MaxFields fields are
// read. Lines must end in CRLF; NUL is refused anywhere. White space before the
// colon (RFC 5322 §4.5) is taken and kept, so that no field can hide behind it.
// The end of input behind a whole line ends the header too: such a message has an
// empty body (RFC 5322 §3.5).
//
// Errors wrap ErrHeaderTooLarge, ErrHeaderMalformed or the error of r.
func ReadHeader(r *bufio.Reader, limit int) (*Header, error) {
	if limit <= 0 {
		limit = MaxHeader
	}
	h := &Header{}
	for n, used := 1, 0; ; n++ {
		line, err := readLine(r, limit-used)
		used += len(line)
		if err == io.EOF && len(line) == 0 {
			h.noEnd = true
			return h.settle(), nil
		}
		if err == io.EOF {
			err = fmt.Errorf("%w: last line does not end in CRLF", ErrHeaderMalformed)
		}
		if err == nil {
			err = checkLine(line)
		}
		if err == nil && len(line) == len(crlf) {
			return h.settle(), nil
		}
		if err == nil {
			err = h.addLine(line)
		}
		if err != nil {
			return nil, fmt.Errorf("read header, line %d: %w", n, err)
		}
	}
}

// readLine reads up to and with the next LF into memory of its own, at most
// limit bytes. io.EOF comes with what was read before it.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, ErrHeaderTooLarge
		}
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// checkLine accepts a line that has exactly one line end, CRLF, and no NUL.
func checkLine(line []byte) error {
	body, ok := bytes.CutSuffix(line, crlf)
	switch {
	case !ok:
		return fmt.Errorf("%w: bare LF", ErrHeaderMalformed)
	case bytes.IndexByte(body, '\r') >= 0:
		return fmt.Errorf("%w: bare CR", ErrHeaderMalformed)
	case bytes.IndexByte(body, 0) >= 0:
		return fmt.Errorf("%w: NUL", ErrHeaderMalformed)
	}
	return nil
}

// addLine starts a new field or continues the last one.
func (h *Header) addLine(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		if len(h.fields) == 0 {
			return fmt.Errorf("%w: continuation without a field", ErrHeaderMalformed)
		}
		last := &h.fields[len(h.fields)-1]
		last.raw = append(last.raw, line...)
		return nil
	}
	if len(h.fields) >= MaxFields {
		return fmt.Errorf("%w: more than %d fields", ErrHeaderTooLarge, MaxFields)
	}
	colon := bytes.IndexByte(line, ':')
	name := 0
	if colon > 0 {
		name = len(bytes.TrimRight(line[:colon], " \t"))
	}
	if !validName(line[:name]) {
		return fmt.Errorf("%w: no field name", ErrHeaderMalformed)
	}
	h.fields = append(h.fields, Field{raw: line, name: name, value: colon + 1})
	return nil
}

// settle drops the spare capacity that appending lines left behind.
func (h *Header) settle() *Header {
	for i := range h.fields {
		h.fields[i].raw = slices.Clip(h.fields[i].raw)
	}
	return h
}

// validName is field-name of RFC 5322 §3.6.8.
func validName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return len(name) > 0
}
