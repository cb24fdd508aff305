package config

import (
	"errors"
	"fmt"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/mapping"
)

// Bounds of a tenant's dispatch options.
const (
	maxOptions  = 4096
	maxKeywords = 64
	maxKeyword  = 64 // bytes
)

// ParseAsk turns the names of dispatch options into options. The error names
// every unknown or doubled name and every combination that De-Mail does not have.
func ParseAsk(names []string) (demail.Options, error) {
	var o demail.Options
	var faults []error
	set := map[string]*bool{AskDispatch: &o.ConfirmDispatch, AskReceipt: &o.ConfirmReceipt, AskRetrieve: &o.ConfirmRetrieve,
		AskPrivate: &o.Private, AskAuthoritative: &o.Authoritative}
	for _, name := range names {
		switch field := set[name]; {
		case field == nil:
			faults = append(faults, fmt.Errorf("there is no dispatch option %s", quote(name)))
		case *field:
			faults = append(faults, fmt.Errorf("%s stands there twice", name))
		default:
			*field = true
		}
	}
	if o.ConfirmRetrieve && !o.Private { // TR-01201-3.4 §3.1.4
		faults = append(faults, fmt.Errorf("%s needs %s", AskRetrieve, AskPrivate))
	}
	return o, errors.Join(faults...)
}

func (c *checker) ask(path string, names []string) {
	if _, err := ParseAsk(names); err != nil {
		remedy := "choose from " + strings.Join([]string{AskDispatch, AskReceipt, AskRetrieve + " (with " + AskPrivate + ")", AskPrivate, AskAuthoritative}, ", ")
		c.fault(path, remedy, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

// options checks a tenant's defaults and keywords.
func (c *checker) options(path string, t *Tenant, table *mapping.Table) {
	if n := len(t.Options); n > maxOptions {
		c.fault(path+".options", "use domains or *", "%d senders, more than %d", n, maxOptions)
		return
	}
	senders := map[string]string{}
	for i, o := range t.Options {
		p := at(path+".options", i)
		if !c.missing(p+".sender", o.Sender, "write an address, *@domain, or *") && (o.Sender == "*" || c.sender(p+".sender", path, o.Sender, t, table)) {
			c.claim(senders, o.Sender, p+".sender", "keep one entry for each sender", "sender")
		}
		c.ask(p+".ask", o.Ask)
	}
	if n := len(t.Keywords); n > maxKeywords {
		c.fault(path+".keywords", "use fewer", "%d keywords, more than %d", n, maxKeywords)
		return
	}
	words := map[string]string{}
	for i, k := range t.Keywords {
		p := at(path+".keywords", i)
		if !c.missing(p+".text", k.Text, "write the word that stands in the subject, such as [Einschreiben]") {
			if !isPrintable(k.Text) || len(k.Text) > maxKeyword {
				c.fault(p+".text", fmt.Sprintf("write at most %d bytes in one line", maxKeyword), "the keyword is too long or not printable")
			}
			c.claim(words, strings.ToLower(k.Text), p+".text", "keep one entry for each keyword; upper and lower case are the same", "keyword")
		}
		if len(k.Ask) == 0 {
			c.fault(p+".ask", "say what the keyword asks for", "ask is missing")
		}
		c.ask(p+".ask", k.Ask)
	}
}

// sender checks an address of the tenant or "*@domain", on either side. An
// address that never sends is a misspelt one. table is nil if it has faults.
func (c *checker) sender(path, tenant, sender string, t *Tenant, table *mapping.Table) bool {
	address := sender
	domain, all := strings.CutPrefix(sender, "*@")
	if all {
		address = "x@" + domain
	}
	_, domain, ok := splitAddress(address)
	if !ok {
		c.fault(path, "write it in lower case, as poststelle@gemeinde.example or *@gemeinde.example", "%s is neither an address nor *@ and a domain", quote(sender))
		return false
	}
	if !c.sound("provider.domains") {
		return true
	}
	if c.isDeMail(domain) {
		if ok = c.deMail(path, tenant, address, t); !ok || all || table == nil || address == t.Account {
			return ok
		}
		a, err := demail.ParseAddress(address)
		ok = err == nil && table.Has(a)
	} else if !all && table != nil {
		_, ok = table.DeMail(address)
	}
	if !ok {
		c.fault(path, "map it, or correct it", "no mapping lets %s send", address)
	}
	return ok
}
