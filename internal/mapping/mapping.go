// Package mapping is one tenant's table of addresses: which e-mail address of its
// own mail system goes with which De-Mail address, both ways.
//
// # What an entry means
//
//	mail                        deMail                       direction
//	poststelle@amt.example      poststelle@amt.de-mail.de    both      sends as it, gets what comes to it
//	vertretung@amt.example      poststelle@amt.de-mail.de    send      may send as it, gets nothing of it
//	archiv@amt.example          poststelle@amt.de-mail.de    receive   gets it, too, and cannot send
//	*@amt.example               *@amt.de-mail.de             both      a rule: the same local part on both sides
//	presse@amt.example                                       none      no rule applies to this address
//	                            alt@amt.de-mail.de           none      nor to this one
//
// An e-mail address sends as one De-Mail address at most (TR-01201, security
// module, chapter 10: the mapping to an account is exact), and a De-Mail address
// has one "both" at most. What goes beyond is declared as send or receive, so that
// nothing is ambiguous by accident.
//
// A rule stands for one entry per local part, and gives way to what is exact: its
// entry is void where an exact both or none names one of its two addresses (a
// rule that only sends or only receives gives way to none alone), and it lends no
// sender to an e-mail address that any exact entry names. An exact receive is a
// copy; it takes nothing away from who gets the mail by rule.
//
// # What it promises
//
//   - A Table is immutable and safe for any number of readers.
//   - All entries or none: a Builder gives a Table only without any fault.
//   - Going out, a look-up costs one hash and no allocation, however large the
//     table is; by rule two hashes and the new address.
//   - Letter case does not count, on either side: De-Mail addresses are lower case
//     (TR-01201 part 2), and no mail system of an authority tells Poststelle@
//     from poststelle@. Only ASCII letters are folded.
//   - Bounds: MaxEntries, MaxRules, MaxCopies. A million entries take about the
//     length of their addresses plus 24 bytes each, and no pointer for the garbage
//     collector to follow.
//
// # What it does not do
//
// Know which tenant it belongs to or which domains are the tenant's; its Builder
// asks Judge. Catch-all addresses are the domain's (package tenants).
//
// # How it is kept
//
// All addresses stand in one string, back to back. A record says where its two
// begin and end. Two hash indexes with open addressing hold numbers of records,
// one by e-mail and one by De-Mail address. The hash is keyed with a seed of the
// process, so that nobody can choose addresses that collide.
//
// Why not map[string]string: at a million entries it takes more than twice the
// memory and three times as long to fill, and the garbage collector walks it.
package mapping

import (
	"iter"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Bounds of one table.
const (
	MaxEntries = 2_000_000
	MaxRules   = 4096
	MaxCopies  = 100 // receive entries of one De-Mail address
)

// Direction says what an entry is for.
type Direction uint8

// Directions, as the package comment explains them.
const (
	Both Direction = iota
	Send
	Receive
	None
)

// String is the word that stands in a table.
func (d Direction) String() string {
	return [...]string{"both", "send", "receive", "none"}[d]
}

func (d Direction) sends() bool    { return d == Both || d == Send }
func (d Direction) receives() bool { return d == Both || d == Receive }

// Entry ties an e-mail address to a De-Mail address; with "*@domain" on both
// sides it is a rule.
type Entry struct {
	Mail, DeMail string
	Direction    Direction
}

// Table answers look-ups. The zero Table holds nothing.
type Table struct {
	text    string // the addresses of all records
	records []record
	mails   index // one record for each e-mail address: the one that says as whom it sends, if any
	deMails index // all records that receive or say none; of those that send, one where there is no other
	rules   []Entry
	senders map[string]Entry   // by the domain of Mail: the rule by which it sends
	holders map[string][]Entry // rules by the domain of DeMail
}

// record is where an entry's addresses stand in Table.text, one after the other.
type record struct {
	at           uint32
	mail, deMail uint8 // lengths
	direction    Direction
}

// Len is the number of entries, rules included.
func (t *Table) Len() int { return len(t.records) + len(t.rules) }

// All gives every entry, rules first, then in the order in which they were added.
func (t *Table) All() iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for _, r := range t.rules {
			if !yield(r) {
				return
			}
		}
		for i, r := range t.records {
			if !yield(Entry{t.address(i, byMail), t.address(i, byDeMail), r.direction}) {
				return
			}
		}
	}
}

// DeMail returns the De-Mail address as which an e-mail address sends.
func (t *Table) DeMail(mail string) (demail.Address, bool) {
	mail = Fold(mail)
	if i, ok := t.exact(mail); ok {
		if !t.records[i].direction.sends() {
			return demail.Address{}, false
		}
		a, err := demail.ParseAddress(t.address(i, byDeMail))
		return a, err == nil
	}
	if len(t.rules) == 0 {
		return demail.Address{}, false
	}
	local, domain := split(mail)
	rule, ok := t.senders[domain]
	if !ok {
		return demail.Address{}, false
	}
	a, err := demail.ParseAddress(local + rule.DeMail[1:])
	if err != nil || t.void(rule, mail, a.String()) {
		return demail.Address{}, false
	}
	return a, true
}

// Mail returns the e-mail addresses that get what comes to a De-Mail address: first the
// one that holds it, by an exact entry or by rule, then the copies.
func (t *Table) Mail(a demail.Address) []string {
	var list []string
	add := func(mail string) {
		for _, other := range list {
			if other == mail {
				return
			}
		}
		list = append(list, mail)
	}
	key := a.String()
	for i := range t.named(key) {
		if t.records[i].direction == Both {
			add(t.address(i, byMail))
		}
	}
	for rule := range t.by(key) {
		if mail := strings.TrimSuffix(key, rule.DeMail[1:]) + rule.Mail[1:]; rule.Direction.receives() && !t.void(rule, mail, key) {
			add(mail)
		}
	}
	for i := range t.named(key) {
		if t.records[i].direction == Receive {
			add(t.address(i, byMail))
		}
	}
	return list
}

// Has reports whether some e-mail address sends as a or gets what comes to a.
func (t *Table) Has(a demail.Address) bool {
	key := a.String()
	for i := range t.named(key) {
		if t.records[i].direction != None {
			return true
		}
	}
	for rule := range t.by(key) {
		if mail := strings.TrimSuffix(key, rule.DeMail[1:]) + rule.Mail[1:]; !t.void(rule, mail, key) {
			return true
		}
	}
	return false
}

// by gives the rules that lead to a De-Mail address, the holder's first.
func (t *Table) by(deMail string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		if len(t.rules) == 0 {
			return
		}
		_, domain := split(deMail)
		for _, rule := range t.holders[domain] {
			if !yield(rule) {
				return
			}
		}
	}
}

// void reports whether a rule's entry for these two addresses gives way to an
// exact one.
func (t *Table) void(rule Entry, mail, deMail string) bool {
	if !isMail(mail) {
		return true
	}
	yields := func(d Direction) bool { return d == None || d == Both && rule.Direction == Both }
	i, ok := t.exact(mail)
	if ok && yields(t.records[i].direction) {
		return true
	}
	if ok && rule.Direction == Send { // its sender is said already
		return true
	}
	for i := range t.named(deMail) {
		if yields(t.records[i].direction) {
			return true
		}
	}
	return false
}

// split gives an address's local part and its domain.
func split(address string) (local, domain string) {
	i := strings.LastIndexByte(address, '@')
	return address[:max(i, 0)], address[i+1:]
}

// Fold brings an e-mail address into the form that the table compares: ASCII
// letters in lower case. It does not allocate for what is folded already.
func Fold(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			return fold(s, i)
		}
	}
	return s
}

func fold(s string, from int) string {
	b := []byte(s)
	for i := from; i < len(b); i++ {
		if 'A' <= b[i] && b[i] <= 'Z' {
			b[i] += 'a' - 'A'
		}
	}
	return string(b)
}
