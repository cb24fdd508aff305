package nexthop

import (
	"bufio"
	"bytes"
	"errors"
)

// dotWriter stuffs dots and changes nothing else (RFC 5321 §4.5.2). It refuses
// what would make a reader see another end than ours.
type dotWriter struct {
	w      *bufio.Writer
	start  bool // the next byte starts a line
	cr     bool // the last byte was CR
	failed error
}

var errBareEnd = errors.New("bare CR, bare LF or NUL")

func (d *dotWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n') + 1
		piece := p
		if n > 0 {
			piece = p[:n]
		}
		if err := d.piece(piece, n > 0); err != nil {
			return 0, err
		}
		p = p[len(piece):]
	}
	return total, nil
}

// piece writes a part of one line; ended says that it has the LF.
func (d *dotWriter) piece(b []byte, ended bool) error {
	inner := b
	if ended {
		inner = b[:len(b)-1]
	}
	if d.cr && len(inner) > 0 || bytes.IndexByte(inner, 0) >= 0 {
		return errBareEnd
	}
	cr := bytes.IndexByte(inner, '\r')
	switch {
	case cr >= 0 && cr != len(inner)-1:
		return errBareEnd
	case ended && cr < 0 && !d.cr:
		return errBareEnd
	}
	if d.start && b[0] == '.' {
		if err := d.w.WriteByte('.'); err != nil {
			d.failed = err
			return err
		}
	}
	d.start, d.cr = ended, !ended && cr >= 0
	if _, err := d.w.Write(b); err != nil {
		d.failed = err
		return err
	}
	return nil
}
