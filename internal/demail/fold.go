package demail

import (
	"errors"
	"fmt"
	"strings"
)

// Line lengths without CRLF (RFC 5322 §2.1.1).
const (
	foldAt  = 78
	maxLine = 998
)

// ErrFieldValue: a name or value that cannot be written into a header.
var ErrFieldValue = errors.New("bad header field")

// newField makes a field from an unfolded or an already folded value.
func newField(name, value string) (Field, error) {
	if !validName([]byte(name)) {
		return Field{}, fmt.Errorf("%w: bad name", ErrFieldValue)
	}
	if err := checkValue(value); err != nil {
		return Field{}, fmt.Errorf("%w %s: %w", ErrFieldValue, name, err)
	}
	f := Field{name: len(name), value: len(name) + 1}
	if whole := len(name) + len(": ") + len(value); whole <= foldAt && !strings.Contains(value, "\r\n") {
		f.raw = append(append(append(append(make([]byte, 0, whole+len(crlf)), name...), ": "...), value...), crlf...)
		return f, nil
	}
	line := name + ": " + value
	if !strings.Contains(value, "\r\n") {
		line = fold(line, len(name)+2)
	}
	for l := range strings.SplitSeq(line, "\r\n") {
		if len(l) > maxLine {
			return Field{}, fmt.Errorf("%w %s: line over %d characters cannot be folded", ErrFieldValue, name, maxLine)
		}
	}
	f.raw = append(append(make([]byte, 0, len(line)+len(crlf)), line...), crlf...)
	return f, nil
}

// checkValue refuses control characters; CRLF is allowed where white space and
// then something else follows.
func checkValue(s string) error {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\r' && i+2 < len(s) && s[i+1] == '\n' && isWSP(s[i+2]):
			if next, _, _ := strings.Cut(s[i+2:], "\r\n"); strings.Trim(next, " \t") == "" {
				return errors.New("line of white space only")
			}
			i++
		case c < ' ' && c != '\t' || c == 0x7f:
			return errors.New("control character")
		}
	}
	return nil
}

// fold breaks a line before white space so that no part is longer than foldAt if
// it can be helped. It never breaks before index from (name and colon) and never
// makes a line of white space only. Unfolding gives the same line.
func fold(line string, from int) string {
	var b strings.Builder
	for len(line) > foldAt {
		i := foldPoint(line, from)
		if i < 0 {
			break
		}
		b.WriteString(line[:i])
		b.WriteString("\r\n")
		line, from = line[i:], 1
	}
	b.WriteString(line)
	return b.String()
}

// foldPoint finds the last white space at or before foldAt, else the first one
// behind it, that has text on both sides.
func foldPoint(line string, from int) int {
	first := from + len(line[from:]) - len(strings.TrimLeft(line[from:], " \t"))
	last := len(strings.TrimRight(line, " \t"))
	best := -1
	for i := first; i < last; i++ {
		if !isWSP(line[i]) {
			continue
		}
		if i > foldAt && best >= 0 {
			return best
		}
		best = i
		if i > foldAt {
			return best
		}
	}
	return best
}

func isWSP(c byte) bool { return c == ' ' || c == '\t' }

// foldBlob breaks a text without spaces (base64) into lines of at most 72
// characters; used is how much of the first line is taken.
func foldBlob(s string, used int) string {
	const width = 72
	var b strings.Builder
	for room := max(width-used, 1); len(s) > room; room = width {
		b.WriteString(s[:room])
		b.WriteString("\r\n ")
		s = s[room:]
	}
	b.WriteString(s)
	return b.String()
}
