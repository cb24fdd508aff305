// Package mapping is one tenant's table of addresses: which e-mail address of its
// own mail system goes with which De-Mail address, both ways.
//
// What it promises:
//
//   - A Table is immutable and safe for any number of readers.
//   - Look-ups cost one hash and no allocation, however large the table is.
//   - Going out, an e-mail address has at most one De-Mail address, so that a
//     sender never gets a choice of accounts (TR-01201, security module, chapter
//     10: the mapping to an account is exact).
//   - Letter case does not count, on either side: De-Mail addresses are lower case
//     (TR-01201 part 2), and no mail system of an authority tells Poststelle@
//     from poststelle@. Only ASCII letters are folded.
//
// What it does not do: know which tenant it belongs to, whether a domain may send
// or receive, or what happens to addresses it does not hold. Catch-all addresses
// are the domain's (package tenants).
//
// Coming in, a De-Mail address may stand for several e-mail addresses, hence the
// list that Mail returns; the configuration of today declares one at most.
package mapping

import (
	"errors"
	"fmt"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Direction says what an entry is for.
type Direction uint8

// Directions.
const (
	Both    Direction = iota
	Send              // the e-mail address sends as the De-Mail address, and gets nothing
	Receive           // the e-mail address gets what comes to the De-Mail address, and cannot send
)

// Entry ties an e-mail address to a De-Mail address.
type Entry struct {
	Mail      string
	DeMail    demail.Address
	Direction Direction
}

// Table answers look-ups. The zero Table holds nothing.
type Table struct {
	out map[string]demail.Address
	in  map[demail.Address][]string
}

// ErrAmbiguous is wrapped by New for an e-mail address with two De-Mail addresses.
var ErrAmbiguous = errors.New("e-mail address is mapped twice")

// New makes a table of all entries, or of none and reports every fault.
func New(entries []Entry) (*Table, error) {
	t := &Table{out: make(map[string]demail.Address, len(entries)), in: make(map[demail.Address][]string, len(entries))}
	var faults []error
	for i, e := range entries {
		mail := Fold(e.Mail)
		if mail == "" || e.DeMail.IsZero() {
			faults = append(faults, fmt.Errorf("mapping %d: an address is missing", i+1))
			continue
		}
		if other, taken := t.out[mail]; taken && e.Direction != Receive {
			faults = append(faults, fmt.Errorf("mapping %d: %w: %s to %s and %s", i+1, ErrAmbiguous, mail, other, e.DeMail))
			continue
		}
		if e.Direction != Receive {
			t.out[mail] = e.DeMail
		}
		if e.Direction != Send {
			t.in[e.DeMail] = append(t.in[e.DeMail], mail)
		} else if t.in[e.DeMail] == nil {
			t.in[e.DeMail] = []string{}
		}
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return t, nil
}

// DeMail returns the De-Mail address of an e-mail address.
func (t *Table) DeMail(mail string) (demail.Address, bool) {
	a, ok := t.out[Fold(mail)]
	return a, ok
}

// Mail returns the e-mail addresses behind a De-Mail address, none if the table
// does not hold it. The slice belongs to the table.
func (t *Table) Mail(a demail.Address) []string { return t.in[a] }

// Has reports whether a is the De-Mail side of an entry.
func (t *Table) Has(a demail.Address) bool { return t.in[a] != nil }

// Len is the number of e-mail addresses.
func (t *Table) Len() int { return len(t.out) }

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
