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
	h := &reading{text: make([]byte, 0, usualHeader)}
	for n := 1; ; n++ {
		line, err := h.readLine(r, limit)
		if err == io.EOF && len(line) == 0 {
			return h.settle(true), nil
		}
		if err == io.EOF {
			err = fmt.Errorf("%w: last line does not end in CRLF", ErrHeaderMalformed)
		}
		if err == nil {
			err = checkLine(line)
		}
		if err == nil && len(line) == len(crlf) {
			h.text = h.text[:len(h.text)-len(crlf)]
			return h.settle(false), nil
		}
		if err == nil {
			err = h.addLine(line)
		}
		if err != nil {
			return nil, fmt.Errorf("read header, line %d: %w", n, err)
		}
	}
}

// usualHeader is room for what most messages have.
const usualHeader = 2 << 10

// reading is a header on its way in: one text for all fields, so that a field costs
// no memory of its own.
type reading struct {
	text   []byte
	fields []place
}

// place is where a field is in the text.
type place struct{ start, name, value int }

// readLine reads up to and with the next LF to the end of the text, which may grow
// to limit bytes. io.EOF comes with what was read before it.
func (h *reading) readLine(r *bufio.Reader, limit int) ([]byte, error) {
	start := len(h.text)
	for {
		part, err := r.ReadSlice('\n')
		if len(h.text)+len(part) > limit {
			return nil, ErrHeaderTooLarge
		}
		h.text = append(h.text, part...)
		if err != bufio.ErrBufferFull {
			return h.text[start:], err
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

// addLine starts a new field or continues the last one; line is the text's end.
func (h *reading) addLine(line []byte) error {
	if line[0] == ' ' || line[0] == '\t' {
		if len(h.fields) == 0 {
			return fmt.Errorf("%w: continuation without a field", ErrHeaderMalformed)
		}
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
	h.fields = append(h.fields, place{start: len(h.text) - len(line), name: name, value: colon + 1})
	return nil
}

// settle divides the text among the fields. None can grow into the next one.
func (h *reading) settle(noEnd bool) *Header {
	// Few fields are added to most headers, and many to those of outgoing messages.
	out := &Header{noEnd: noEnd, fields: make([]Field, 0, len(h.fields)+spareFields)}
	text := slices.Clip(h.text)
	for i, p := range h.fields {
		end := len(text)
		if i+1 < len(h.fields) {
			end = h.fields[i+1].start
		}
		out.fields = append(out.fields, Field{raw: text[p.start:end:end], name: p.name, value: p.value})
	}
	return out
}

// spareFields is room for what an outgoing message gets.
const spareFields = 12

// validName is field-name of RFC 5322 §3.6.8.
func validName(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c > '~' || c == ':' {
			return false
		}
	}
	return len(name) > 0
}
