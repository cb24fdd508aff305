package mapping

import (
	"fmt"
	"strings"
)

// Builder collects entries for a Table. It is used by one goroutine, once.
type Builder struct {
	// Judge, if set, is asked about every entry and rule that is well-formed, and
	// gives what is wrong with it. Its addresses are in lower case.
	Judge func(e Entry, line int) []Fault

	text    strings.Builder
	records []record
	lines   []uint32 // of records
	rules   []Entry
	places  []int // lines of rules
	full    bool
	faults  Faults
}

// New makes a table of entries that count as lines 1, 2, ...; the error is a *Faults.
func New(entries []Entry) (*Table, error) {
	var b Builder
	for i, e := range entries {
		b.Add(e, i+1)
	}
	return b.Table()
}

const (
	remedyMail   = "write it as poststelle@gemeinde.example, in ASCII"
	remedyDeMail = "write it as poststelle@gemeinde.de-mail.example, in ASCII"
	remedyRule   = "write *@ and a domain on both sides, such as *@gemeinde.example and *@gemeinde.de-mail.example"
)

// Add takes one entry; line is where faults say it stands.
func (b *Builder) Add(e Entry, line int) {
	e.Mail, e.DeMail = Fold(e.Mail), Fold(e.DeMail)
	if isRule(e.Mail) || isRule(e.DeMail) {
		b.addRule(e, line)
		return
	}
	if !b.wellFormed(e, line) || !b.judged(e, line) {
		return
	}
	if len(b.records) == MaxEntries {
		if !b.full {
			b.faults.fault(line, "use rules for whole domains", "more than %d entries", MaxEntries)
		}
		b.full = true
		return
	}
	b.records = append(b.records, record{uint32(b.text.Len()), uint8(len(e.Mail)), uint8(len(e.DeMail)), e.Direction})
	b.lines = append(b.lines, uint32(line))
	b.text.WriteString(e.Mail)
	b.text.WriteString(e.DeMail)
}

func (b *Builder) wellFormed(e Entry, line int) bool {
	ok := true
	fault := func(remedy, text string, args ...any) {
		b.faults.fault(line, remedy, text, args...)
		ok = false
	}
	switch {
	case e.Mail == "" && e.DeMail == "":
		fault("give an e-mail address, a De-Mail address, or both", "there is no address")
		return false
	case e.Mail == "" && e.Direction != None:
		fault("give the e-mail address, or write none as the direction", "the e-mail address is missing")
	case e.DeMail == "" && e.Direction != None:
		fault("give the De-Mail address, or write none as the direction", "the De-Mail address is missing")
	}
	if e.Mail != "" && !isMail(e.Mail) {
		fault(remedyMail, "%s is no e-mail address", quote(e.Mail))
	}
	if e.DeMail != "" && !isDeMail(e.DeMail) {
		fault(remedyDeMail, "%s is no De-Mail address", quote(e.DeMail))
	}
	return ok
}

func (b *Builder) judged(e Entry, line int) bool {
	if b.Judge == nil {
		return true
	}
	faults := b.Judge(e, line)
	for _, f := range faults {
		b.faults.fault(line, f.Remedy, "%s", f.Text)
	}
	return len(faults) == 0
}

func isRule(s string) bool { return strings.HasPrefix(s, "*@") }

func (b *Builder) addRule(e Entry, line int) {
	switch {
	case !isRule(e.Mail) || !isRule(e.DeMail) || !isDomain(e.Mail[2:], maxDomain) || !isDeMail("x"+e.DeMail[1:]):
		b.faults.fault(line, remedyRule, "%s and %s are no rule for a whole domain", quote(e.Mail), quote(e.DeMail))
	case e.Direction == None:
		b.faults.fault(line, "leave the rule out", "a rule with direction none does nothing")
	case len(b.rules) == MaxRules:
		b.faults.fault(line, "use fewer", "more than %d rules", MaxRules)
	case b.judged(e, line):
		b.rules = append(b.rules, e)
		b.places = append(b.places, line)
	}
}

// Table gives the table of all entries, or every fault there is as a *Faults.
func (b *Builder) Table() (*Table, error) {
	t := &Table{text: b.text.String(), records: b.records, mails: newIndex(byMail, len(b.records)), deMails: newIndex(byDeMail, len(b.records)),
		rules: b.rules, senders: map[string]Entry{}, holders: map[string][]Entry{}}
	var clashes Faults
	for i := range t.records {
		b.indexMail(t, i, &clashes)
		b.indexDeMail(t, i, &clashes)
	}
	b.indexRules(t, &clashes)
	if err := join(b.faults, clashes); err != nil {
		return nil, err
	}
	return t, nil
}

// indexMail enters a record by its e-mail address. A receive stands there only as
// long as nothing says as whom the address sends.
func (b *Builder) indexMail(t *Table, i int, clashes *Faults) {
	mail := t.address(i, byMail)
	if mail == "" {
		return
	}
	x := &t.mails
	hash := x.hash(mail)
	slot, taken := x.find(t, mail, hash, hash)
	if !taken {
		x.put(slot, i, hash)
		return
	}
	if t.records[i].direction == Receive {
		return
	}
	first := x.record(slot)
	if t.records[first].direction != Receive {
		clashes.fault(int(b.lines[i]), "keep one; further entries of this address can only be receive",
			"e-mail address %s already stands on line %d", quote(mail), b.lines[first])
		return
	}
	x.put(slot, i, hash)
}

// indexDeMail enters a record by its De-Mail address.
func (b *Builder) indexDeMail(t *Table, i int, clashes *Faults) {
	deMail, own := t.address(i, byDeMail), t.records[i].direction
	if deMail == "" {
		return
	}
	copies, first := 0, -1
	x := &t.deMails
	hash := x.hash(deMail)
	slot := hash
	for taken := false; ; slot++ {
		if slot, taken = x.find(t, deMail, hash, slot); !taken {
			break
		}
		other := x.record(slot)
		if own == Send {
			return // Has knows the address already
		}
		if clash(t, i, other) {
			first = other
		}
		if t.records[other].direction == Receive {
			copies++
		}
	}
	switch {
	case first >= 0:
		clashes.fault(int(b.lines[i]), remedyClash(own), "De-Mail address %s already stands on line %d", quote(deMail), b.lines[first])
	case own == Receive && copies == MaxCopies:
		clashes.fault(int(b.lines[i]), "let the tenant's mail system distribute it", "more than %d addresses get what comes to %s", MaxCopies, quote(deMail))
	default:
		x.put(slot, i, hash)
	}
}

// clash reports whether two records of one De-Mail address exclude each other: two
// holders, or the same copy twice.
func clash(t *Table, i, j int) bool {
	a, b := t.records[i].direction, t.records[j].direction
	if a == Receive || b == Receive {
		return a.receives() && b.receives() && t.address(i, byMail) == t.address(j, byMail)
	}
	return a != Send && b != Send
}

func remedyClash(d Direction) string {
	if d == Both {
		return "keep one; write send or receive as the direction of each further one"
	}
	return "keep one"
}

// indexRules enters the rules, those that hold a domain first.
func (b *Builder) indexRules(t *Table, clashes *Faults) {
	lines := map[string]int{}
	taken := func(key string, i int) bool {
		first, ok := lines[key]
		if ok {
			clashes.fault(b.places[i], "keep one, or write receive as the direction of the other", "the rule for %s stands on line %d", key, first)
			return true
		}
		lines[key] = b.places[i]
		return false
	}
	for i, r := range b.rules {
		_, mail := split(r.Mail)
		_, deMail := split(r.DeMail)
		if len(t.holders[deMail]) > MaxCopies {
			clashes.fault(b.places[i], "let the tenant's mail system distribute it", "more than %d rules for %s", MaxCopies, deMail)
			continue
		}
		if r.Direction.sends() && taken("sending from "+mail, i) || r.Direction == Both && taken("both ways to "+deMail, i) ||
			r.Direction == Receive && taken(fmt.Sprintf("copies of %s to %s", deMail, mail), i) {
			continue
		}
		if r.Direction.sends() {
			t.senders[mail] = r
		}
		if r.Direction == Both {
			t.holders[deMail] = append([]Entry{r}, t.holders[deMail]...)
		} else {
			t.holders[deMail] = append(t.holders[deMail], r)
		}
	}
}
