package demail

import (
	"errors"
	"fmt"
	"strings"
)

// MaxRecipients is how many addresses one recipient field may hold. RFC 5321
// §4.5.3.1.8 asks for a hundred; a level-normal account may reach 300 a day.
const MaxRecipients = 5000

// ErrRecipients is wrapped by every error of ParseRecipients and Format.
var ErrRecipients = errors.New("bad recipient list")

// Recipients is the content of x-de-mail-chosen-recipient and
// x-de-mail-actual-recipient (TR-01201-3.4 §3.1.8, §3.1.15).
type Recipients struct {
	To, CC, BCC []Address
}

// All lists To, then CC, then BCC.
func (r Recipients) All() []Address {
	out := make([]Address, 0, len(r.To)+len(r.CC)+len(r.BCC))
	return append(append(append(out, r.To...), r.CC...), r.BCC...)
}

// ParseRecipients reads "to=a;b ;cc=c ;bcc=d": each key at most once and never
// without an address, keys in any letter case and order, folding white space
// anywhere between the parts. Addresses may stand as name-addr; the display name
// is dropped. At least one address and at most MaxRecipients must be there.
func ParseRecipients(s string) (Recipients, error) {
	var r Recipients
	var list *[]Address
	n := 0
	for part, rest, more := nextPart(s); ; part, rest, more = nextPart(rest) {
		part, list2, err := r.cutKey(part)
		if err != nil {
			return Recipients{}, err
		}
		if list2 != nil {
			list = list2
		}
		if list == nil {
			return Recipients{}, fmt.Errorf("%w: does not begin with to=, cc= or bcc=", ErrRecipients)
		}
		if n++; n > MaxRecipients {
			return Recipients{}, fmt.Errorf("%w: more than %d addresses", ErrRecipients, MaxRecipients)
		}
		a, err := parseMailbox(part)
		if err != nil {
			return Recipients{}, fmt.Errorf("%w: address %d: %w", ErrRecipients, n, err)
		}
		*list = append(*list, a)
		if !more {
			return r, nil
		}
	}
}

// Format writes the list as ParseRecipients reads it. It fails without any
// address, over MaxRecipients, and for an address that a reader would take for a
// key because its local part begins with "to=", "cc=" or "bcc=".
func (r Recipients) Format() (string, error) {
	all := r.All()
	if len(all) == 0 || len(all) > MaxRecipients {
		return "", fmt.Errorf("%w: %d addresses", ErrRecipients, len(all))
	}
	var groups []string
	for _, g := range []struct {
		key  string
		list []Address
	}{{"to=", r.To}, {"cc=", r.CC}, {"bcc=", r.BCC}} {
		if len(g.list) == 0 {
			continue
		}
		var b strings.Builder
		for i, a := range g.list {
			if key, _ := splitKey(a.String()); a.IsZero() || key != "" {
				return "", fmt.Errorf("%w: address %d cannot stand in the list", ErrRecipients, i+1)
			}
			if i > 0 {
				b.WriteByte(';')
			}
			b.WriteString(a.String())
		}
		groups = append(groups, g.key+b.String())
	}
	return foldList(strings.Join(groups, " ;")), nil
}

// cutKey takes a leading "to=", "cc=" or "bcc=" off part and gives the list that
// it opens; nil if there is no key.
func (r *Recipients) cutKey(part string) (string, *[]Address, error) {
	key, rest := splitKey(part)
	var list *[]Address
	switch key {
	case "":
		return part, nil, nil
	case "to":
		list = &r.To
	case "cc":
		list = &r.CC
	case "bcc":
		list = &r.BCC
	}
	if len(*list) > 0 {
		return "", nil, fmt.Errorf("%w: %s= occurs twice", ErrRecipients, key)
	}
	return rest, list, nil
}

// splitKey splits "cc = a@b" into the key in lower case and the rest; the key is
// empty if there is none.
func splitKey(part string) (key, rest string) {
	k, rest, ok := strings.Cut(part, "=")
	if !ok {
		return "", part
	}
	switch k = lowerASCII(strings.Trim(k, fws)); k {
	case "to", "cc", "bcc":
		return k, rest
	}
	return "", part
}

// fws is what may stand between tokens, in an unfolded value or a raw one.
const fws = " \t\r\n"

// nextPart cuts s at the next semicolon outside a quoted string (RFC 5322 §3.2.4).
func nextPart(s string) (part, rest string, more bool) { return cutUnquoted(s, ';') }

// parseMailbox reads an addr-spec or a name-addr, of which it keeps the address.
func parseMailbox(s string) (Address, error) {
	s = strings.Trim(s, fws)
	if inner, ok := strings.CutSuffix(s, ">"); ok {
		_, addr, found := cutUnquoted(inner, '<')
		if !found {
			return Address{}, fmt.Errorf("%w: > without <", ErrAddress)
		}
		s = strings.Trim(addr, fws)
	}
	return ParseAddress(s)
}

// cutUnquoted cuts s at the first c outside a quoted string.
func cutUnquoted(s string, c byte) (before, after string, found bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == c && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// foldList folds a long list behind its semicolons, where the syntax allows
// white space that means nothing.
func foldList(s string) string {
	var b strings.Builder
	col := len(FieldChosenRecipient) + 2
	for i, part := range strings.SplitAfter(s, ";") {
		if i > 0 && col+len(part) > foldAt {
			b.WriteString("\r\n ")
			col = 1
		}
		b.WriteString(part)
		col += len(part)
	}
	return b.String()
}
