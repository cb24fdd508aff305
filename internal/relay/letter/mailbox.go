package letter

import (
	"errors"
	"strings"
)

// mailbox is one address in an address field: where its addr-spec stands in the
// field's text, with its route if it has one, and what it says.
type mailbox struct {
	start, end int
	address    string // without comments and white space
}

// maxMailboxes bounds one field.
const maxMailboxes = 2000

var (
	errMailbox        = errors.New("is not a list of addresses")
	errManyMailboxes  = errors.New("has too many addresses")
	errUnclosedQuote  = errors.New("has a quotation or comment that does not end")
	errUnclosedAngle  = errors.New("has a < without >")
	errBehindAddress  = errors.New("has something behind an address")
	errOddName        = errors.New("has a name with @ [ ] ) > or \\; put the name into quotation marks")
	errMissingAddress = errors.New("has a name without an address; names with commas need quotation marks")
)

// mailboxes finds every address in the text of an address field (RFC 5322 §3.4,
// with its obsolete forms), folds included. Display names, comments and groups
// are passed over.
func mailboxes(s string) ([]mailbox, error) {
	var all []mailbox
	sc := scanner{s: s}
	for sc.at < len(s) {
		m, found, err := sc.element()
		if err != nil {
			return nil, err
		}
		if found {
			if len(all) == maxMailboxes {
				return nil, errManyMailboxes
			}
			all = append(all, m)
		}
	}
	return all, nil
}

// Addresses are those in the text of an address field, without comments and white space.
func Addresses(s string) ([]string, error) {
	list, err := mailboxes(s)
	all := make([]string, len(list))
	for i, m := range list {
		all[i] = m.address
	}
	return all, err
}

// plainly counts the addresses of a field, and refuses names of people and groups
// with characters that stand there in quotation marks only (RFC 5322 §3.4, §3.2.3):
// other readers find other addresses in them. A name that says no more than its
// address is harmless.
func plainly(s string) (addresses int, err error) {
	sc := scanner{s: s}
	for sc.at < len(s) {
		_, found, err := sc.element()
		switch {
		case err != nil:
			return 0, err
		case sc.odd:
			return 0, errOddName
		case found:
			addresses++
		}
	}
	return addresses, nil
}

// rewrite replaces addresses in the text of a field and keeps all else. change
// returns the new address, or false to leave it.
func rewrite(s string, change func(address string) (string, bool)) (string, error) {
	list, err := mailboxes(s)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.Grow(len(s) + 32*len(list))
	at := 0
	for _, m := range list {
		if to, ok := change(m.address); ok {
			b.WriteString(s[at:m.start])
			b.WriteString(to)
			at = m.end
		}
	}
	b.WriteString(s[at:])
	return b.String(), nil
}

// scanner walks over the text of a field.
type scanner struct {
	s  string
	at int

	odd bool // the last element has a name that plainly refuses
}

// element reads up to and with the next comma, semicolon or the colon of a group.
func (sc *scanner) element() (m mailbox, found bool, err error) {
	sc.odd = false
	var plain span // the text outside of angle brackets
	angle, special := false, false
	for sc.at < len(sc.s) {
		from := sc.at
		if skipped, err := sc.blank(); err != nil {
			return m, false, err
		} else if skipped {
			continue
		}
		switch c := sc.s[sc.at]; c {
		case ',', ';':
			sc.at++
			return sc.finish(m, angle, special, plain)
		case ':':
			if angle {
				return m, false, errBehindAddress
			}
			sc.at++
			sc.odd = special
			return m, false, nil
		case '<':
			if angle {
				return m, false, errBehindAddress
			}
			if m, err = sc.angle(); err != nil {
				return m, false, err
			}
			angle = true
			continue
		case '"':
			if err := sc.quoted(); err != nil {
				return m, false, err
			}
		case '[':
			sc.literal()
			special = true
		default:
			sc.at++
			special = special || strings.IndexByte("@])>\\", c) >= 0
		}
		if angle {
			return m, false, errBehindAddress
		}
		plain.add(from, sc.at, sc.s)
	}
	return sc.finish(m, angle, special, plain)
}

// span is a piece of text, and what it says without white space and comments.
type span struct {
	start, end int
	open       bool   // it says something
	first      int    // where that begins
	gap        bool   // there was something in it that says nothing;
	text       []byte // then it is kept here
}

func (p *span) add(from, to int, s string) {
	if p.end == 0 {
		p.start = from
	}
	switch {
	case !p.open:
		p.open, p.first = true, from
	case !p.gap && from != p.end:
		p.gap, p.text = true, append(p.text, s[p.first:p.end]...)
	}
	if p.gap {
		p.text = append(p.text, s[from:to]...)
	}
	p.end = to
}

// forget takes back what it says so far; its place stays.
func (p *span) forget() { p.open, p.gap, p.text = false, false, nil }

// says is the text without white space and comments.
func (p *span) says(s string) string {
	switch {
	case !p.open:
		return ""
	case p.gap:
		return string(p.text)
	}
	return s[p.first:p.end]
}

func (sc *scanner) finish(m mailbox, angle, special bool, plain span) (mailbox, bool, error) {
	sc.odd = angle && special && !strings.EqualFold(plain.says(sc.s), m.address)
	switch {
	case angle && m.address == "":
		return m, false, errMissingAddress
	case angle:
		return m, true, nil
	case plain.end == 0:
		return m, false, nil // an empty element (RFC 5322 §4.4)
	}
	address := plain.says(sc.s)
	if strings.IndexByte(address, '@') < 0 {
		return m, false, errMissingAddress
	}
	return mailbox{plain.start, plain.end, address}, true, nil
}

// angle reads <addr-spec>, with an obsolete route before it.
func (sc *scanner) angle() (mailbox, error) {
	sc.at++
	var p span
	for sc.at < len(sc.s) {
		from := sc.at
		if skipped, err := sc.blank(); err != nil {
			return mailbox{}, err
		} else if skipped {
			continue
		}
		switch c := sc.s[sc.at]; c {
		case '>':
			sc.at++
			return mailbox{p.start, p.end, p.says(sc.s)}, nil
		case ':':
			sc.at++
			p.forget() // what stood before was a route; it goes with the address
			continue
		case '<':
			return mailbox{}, errMailbox
		case '"':
			if err := sc.quoted(); err != nil {
				return mailbox{}, err
			}
		case '[':
			sc.literal()
		default:
			sc.at++
		}
		p.add(from, sc.at, sc.s)
	}
	return mailbox{}, errUnclosedAngle
}

// blank passes over one white space, or over a comment, if that comes next.
func (sc *scanner) blank() (skipped bool, err error) {
	switch sc.s[sc.at] {
	case ' ', '\t', '\r', '\n':
		sc.at++
		return true, nil
	case '(':
		return true, sc.comment()
	}
	return false, nil
}

// quoted passes over a quoted string.
func (sc *scanner) quoted() error {
	for sc.at++; sc.at < len(sc.s); sc.at++ {
		switch sc.s[sc.at] {
		case '\\':
			sc.at++
		case '"':
			sc.at++
			return nil
		}
	}
	return errUnclosedQuote
}

// comment passes over a comment; they nest.
func (sc *scanner) comment() error {
	for depth := 0; sc.at < len(sc.s); sc.at++ {
		switch sc.s[sc.at] {
		case '\\':
			sc.at++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				sc.at++
				return nil
			}
		}
	}
	return errUnclosedQuote
}

// literal passes over a domain literal.
func (sc *scanner) literal() {
	if n := strings.IndexByte(sc.s[sc.at:], ']'); n >= 0 {
		sc.at += n + 1
		return
	}
	sc.at = len(sc.s)
}
