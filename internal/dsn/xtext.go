package dsn

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

var (
	errXtext    = errors.New("not xtext (RFC 3461 §4)")
	errOriginal = errors.New("not an original recipient: want a type, a semicolon and an address (RFC 3461 §4.2)")
)

// Xtext encodes a parameter's value (RFC 3461 §4).
func Xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if plain(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "+%02X", s[i])
		}
	}
	return b.String()
}

// ParseXtext is the inverse of Xtext. The result may hold any byte.
func ParseXtext(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case plain(s[i]):
			b.WriteByte(s[i])
		case s[i] == '+' && i+2 < len(s) && upperHex(s[i+1]) && upperHex(s[i+2]):
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", errXtext
			}
			b.WriteByte(byte(n))
			i += 2
		default:
			return "", errXtext
		}
	}
	return b.String(), nil
}

func plain(c byte) bool { return c >= '!' && c <= '~' && c != '+' && c != '=' }

func upperHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }

// Original encodes an original recipient ("rfc822;a@x", decoded) for an ORCPT
// parameter; false if it cannot stand there. Addresses beyond ASCII get the type
// utf-8 and the form of RFC 6533 §3 that every server can read.
func Original(original string) (orcpt string, ok bool) {
	kind, address, found := strings.Cut(original, ";")
	if !found || !atom(kind) || address == "" {
		return "", false
	}
	if strings.EqualFold(kind, utf8Type) || !ascii(address) {
		return utf8Type + ";" + Xtext(escape(address)), true
	}
	return kind + ";" + Xtext(address), true
}

// ParseOriginal is the inverse of Original: the type in lower case, the address
// decoded.
func ParseOriginal(orcpt string) (kind, address string, err error) {
	kind, rest, found := strings.Cut(orcpt, ";")
	if !found || !atom(kind) || rest == "" {
		return "", "", errOriginal
	}
	if address, err = ParseXtext(rest); err != nil {
		return "", "", err
	}
	if kind = strings.ToLower(kind); kind == utf8Type {
		if address, err = unescape(address); err != nil {
			return "", "", err
		}
	}
	return kind, address, nil
}

// Address types.
const (
	mailType = "rfc822"
	utf8Type = "utf-8" // RFC 6533 §3
)

// typed writes an address with its type for a field of a report.
func typed(kind, address string) string {
	address = strings.ToValidUTF8(address, "?")
	if ascii(address) && !strings.EqualFold(kind, utf8Type) {
		return clean(kind) + ";" + clean(address)
	}
	text := clean(escape(address))
	if i := strings.LastIndexByte(text, '\\'); i >= 0 && strings.IndexByte(text[i:], '}') < 0 {
		text = text[:i] // clean cut into an escape
	}
	return utf8Type + ";" + text
}

// escape writes what is not plain ASCII as \x{HEX} (RFC 6533 §3).
func escape(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			b.WriteByte('?')
		case r <= ' ' || r > '~' || r == '\\':
			fmt.Fprintf(&b, `\x{%02X}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// unescape is the inverse of escape; it lets UTF-8 stand as it is.
func unescape(s string) (string, error) {
	var b strings.Builder
	for {
		text, rest, found := strings.Cut(s, `\x{`)
		b.WriteString(text)
		if !found {
			break
		}
		hex, after, closed := strings.Cut(rest, "}")
		n, err := strconv.ParseUint(hex, 16, 21)
		if !closed || err != nil || len(hex) < 2 || !utf8.ValidRune(rune(n)) {
			return "", errXtext
		}
		b.WriteRune(rune(n))
		s = after
	}
	if !utf8.ValidString(b.String()) {
		return "", errXtext
	}
	return b.String(), nil
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// atom reports whether s can be a type: letters, digits and hyphens.
func atom(s string) bool {
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return s != ""
}
