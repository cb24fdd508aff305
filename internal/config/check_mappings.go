package config

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"gitlab.opencode.de/pforte/pforte/internal/mapping"
)

// Entry gives a mapping as package mapping knows it.
func (m Mapping) Entry() (mapping.Entry, error) {
	e := mapping.Entry{Mail: m.Mail, DeMail: m.DeMail}
	switch m.Direction {
	case "", DirectionBoth:
	case DirectionSend:
		e.Direction = mapping.Send
	case DirectionReceive:
		e.Direction = mapping.Receive
	case DirectionNone:
		e.Direction = mapping.None
	default:
		return e, fmt.Errorf("there is no direction %s", quote(string(m.Direction)))
	}
	return e, nil
}

// mappings checks a tenant's mappings and its mapping table as one, and gives
// the table if it has no fault.
func (c *checker) mappings(k *claims, path string, t *Tenant) *mapping.Table {
	list, text := path+".mappings", path+".mappingTable"
	if c.spoilt(list) || c.spoilt(text) {
		return nil
	}
	b := mapping.Builder{Judge: c.judge(k.mail, path, t)}
	sound := true
	paths := map[int]string{}
	for i, m := range t.Mappings {
		p := at(list, i)
		if !c.sound(p) {
			sound = false
			continue
		}
		e, err := m.Entry()
		if err != nil {
			c.fault(p+".direction", "write both, send, receive or none", "%v", err)
			sound = false
			continue
		}
		line := lineOf(c.root, p)
		if _, ok := paths[line]; !ok {
			paths[line] = p
		}
		b.Add(e, line)
	}
	first, literal := c.firstLine(text)
	if t.MappingTable != "" {
		b.CSV(t.MappingTable, first)
	}
	table, err := b.Table()
	var faults *mapping.Faults
	if errors.As(err, &faults) {
		for _, f := range faults.Shown {
			c.mappingFault(f, paths[f.Line], text, first, literal)
		}
		c.hidden += faults.Total - len(faults.Shown)
	}
	if !sound {
		return nil
	}
	return table
}

// mappingFault takes over a fault of package mapping, whose lines are the
// document's if the table is a literal block.
func (c *checker) mappingFault(f mapping.Fault, path, text string, first int, literal bool) {
	if path == "" {
		if path = text; !literal {
			f.Text = fmt.Sprintf("row %d: %s", f.Line-first+1, f.Text)
			f.Line = first
		}
	}
	c.faults = append(c.faults, Fault{Line: f.Line, Path: path, Text: f.Text, Remedy: f.Remedy})
}

// firstLine is where the text of a scalar begins, and whether the document shows
// its lines as they are.
func (c *checker) firstLine(path string) (line int, literal bool) {
	n := nodeAt(c.root, path)
	if n == nil {
		return 0, false
	}
	if n.Style&yaml.LiteralStyle != 0 {
		return n.Line + 1, true
	}
	return n.Line, false
}

// judge says what is wrong with an entry in this document: its De-Mail side must
// lie in a domain of the tenant that goes in that direction, its e-mail side
// outside of De-Mail and with no other tenant.
func (c *checker) judge(k *owners, path string, t *Tenant) func(mapping.Entry, int) []mapping.Fault {
	directions := map[string]Direction{}
	for _, d := range t.Domains {
		directions[d.Name] = d.Direction
	}
	own, provider := c.sound(path+".domains"), c.sound("provider.domains")
	return func(e mapping.Entry, line int) (faults []mapping.Fault) {
		fault := func(remedy, text string, args ...any) {
			faults = append(faults, mapping.Fault{Text: fmt.Sprintf(text, args...), Remedy: remedy})
		}
		if e.DeMail != "" && own {
			domain := domainOf(e.DeMail)
			if direction, ok := directions[domain]; !ok {
				fault("use one of the tenant's domains, or add it there", "%s is not a domain of this tenant", domain)
			} else if way := oneWay(e, direction); way != "" {
				fault(fmt.Sprintf("write %s as the direction, or let the domain go both ways", direction), "domain %s only %s", domain, way)
			}
		}
		if e.Mail == "" {
			return faults
		}
		if provider && k.isDeMail(c, domainOf(e.Mail)) {
			fault("give an address of the tenant's ordinary mail", "%s is a De-Mail address, which would lead back here", e.Mail)
		} else if first := k.claim(e.Mail, line); first != 0 {
			fault("map an e-mail address, and the domain of a rule, for one tenant only", "%s is mapped by another tenant, on line %d", e.Mail, first)
		}
		return faults
	}
}

// oneWay says what a domain of this direction only does, if the entry does more.
// A single mapping that goes both ways is let off: so did those of documents that
// knew no directions.
func oneWay(e mapping.Entry, d Direction) string {
	both := e.Direction == mapping.Both && strings.HasPrefix(e.Mail, "*@")
	switch {
	case d == DirectionReceive && (both || e.Direction == mapping.Send):
		return "receives"
	case d == DirectionSend && (both || e.Direction == mapping.Receive):
		return "sends"
	}
	return ""
}

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

// owners is which tenant maps an e-mail address, or a whole domain by a rule.
type owners struct {
	tenant  int // who is looked at now
	several bool
	exact   map[string]owner
	rules   map[string]owner    // by domain
	inside  map[string][2]owner // by domain: the first two tenants with exact addresses there
	deMail  map[string]bool     // domains that were looked up already
}

// owner is a tenant, from 1, and the line where it says so.
type owner struct{ tenant, line int32 }

func newOwners(tenants int) *owners {
	return &owners{several: tenants > 1, exact: map[string]owner{}, rules: map[string]owner{}, inside: map[string][2]owner{}, deMail: map[string]bool{}}
}

// maxLookups bounds owners.deMail.
const maxLookups = 4096

func (k *owners) isDeMail(c *checker, domain string) bool {
	is, ok := k.deMail[domain]
	if !ok {
		if len(k.deMail) == maxLookups {
			clear(k.deMail)
		}
		is = c.isDeMail(domain)
		k.deMail[domain] = is
	}
	return is
}

// claim notes that the tenant maps an address or "*@domain"; if another does,
// too, it gives the line.
func (k *owners) claim(mail string, line int) int {
	if !k.several {
		return 0
	}
	me := owner{int32(k.tenant + 1), int32(line)}
	other := func(o owner) bool { return o.tenant != 0 && o.tenant != me.tenant }
	domain := domainOf(mail)
	if o := k.rules[domain]; other(o) {
		return int(o.line)
	}
	in := k.inside[domain]
	if strings.HasPrefix(mail, "*@") {
		for _, o := range in {
			if other(o) {
				return int(o.line)
			}
		}
		k.rules[domain] = me
		return 0
	}
	if o, ok := k.exact[mail]; ok {
		if other(o) {
			return int(o.line)
		}
		return 0
	}
	k.exact[mail] = me
	switch {
	case in[0].tenant == 0:
		k.inside[domain] = [2]owner{me}
	case in[1].tenant == 0 && in[0].tenant != me.tenant:
		k.inside[domain] = [2]owner{in[0], me}
	}
	return 0
}
