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

// Write passes p on in as few pieces as its dots allow.
func (d *dotWriter) Write(p []byte) (int, error) {
	if bytes.IndexByte(p, 0) >= 0 {
		return 0, errBareEnd
	}
	done := 0 // of p, passed on
	for at := 0; at < len(p); {
		if d.cr {
			if p[at] != '\n' {
				return 0, errBareEnd
			}
			d.cr, d.start = false, true
			at++
			continue
		}
		if d.start && p[at] == '.' {
			if err := d.pass(p[done:at], '.'); err != nil {
				return 0, err
			}
			done = at
		}
		text := p[at:]
		if cr := bytes.IndexByte(text, '\r'); cr >= 0 {
			text, d.cr = text[:cr], true
			at++
		}
		if bytes.IndexByte(text, '\n') >= 0 {
			return 0, errBareEnd
		}
		d.start = false
		at += len(text)
	}
	return len(p), d.pass(p[done:])
}

func (d *dotWriter) pass(b []byte, more ...byte) error {
	_, err := d.w.Write(b)
	if err == nil && len(more) > 0 {
		_, err = d.w.Write(more)
	}
	d.failed = err
	return err
}
