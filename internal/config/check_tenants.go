package config

import (
	"fmt"
	"strings"
	"unicode"
)

// Bounds of a message in bytes. The lower one is what TR-01201 asks every
// De-Mail service to pass (45 MiB gross).
const (
	minMaxSize     = 45 << 20
	maxMaxSize     = 256 << 20
	defaultMaxSize = 64 << 20
)

const (
	maxName = 200       // bytes of a name for people
	maxRate = 1_000_000 // of any of Rates
)

// claims is what belongs to one tenant only, with the path of who has it.
type claims struct {
	id, domain, client, user map[string]string
	mail                     *owners
}

func (c *checker) tenants() {
	if c.spoilt("tenants") {
		return
	}
	if n := len(c.doc.Tenants); n > MaxTenants {
		c.fault("tenants", "use a second box", "%d tenants, more than %d", n, MaxTenants)
		return
	}
	k := &claims{map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}, newOwners(len(c.doc.Tenants))}
	for i := range c.doc.Tenants {
		k.mail.tenant = i
		c.tenant(k, at("tenants", i), &c.doc.Tenants[i])
	}
}

// claim notes that key belongs to path, or a fault if it belongs to another.
func (c *checker) claim(of map[string]string, key, path, remedy, what string) {
	if first, ok := of[key]; ok {
		c.fault(path, remedy, "%s %s already stands at %s", what, quote(key), first)
		return
	}
	of[key] = path
}

func (c *checker) tenant(k *claims, path string, t *Tenant) {
	if c.spoilt(path) {
		return
	}
	if !c.missing(path+".id", t.ID, "give a short name, such as gemeinde-a") {
		if !isLabel(t.ID) {
			c.fault(path+".id", "use lower-case letters, digits and hyphens, 63 at most", "%s is no DNS label", quote(t.ID))
		}
		c.claim(k.id, t.ID, path+".id", "give each tenant its own id", "tenant")
	}
	if !c.missing(path+".name", t.Name, "give the name of the account's holder") && !isPrintable(t.Name) {
		c.fault(path+".name", fmt.Sprintf("write one line of at most %d bytes", maxName), "the name is too long or not printable")
	}
	if t.Language != "" && t.Language != "de" && t.Language != "en" {
		c.fault(path+".language", "write de or en", "there is no language %s", quote(t.Language))
	}
	if t.MaxSize != 0 && (t.MaxSize < minMaxSize || t.MaxSize > maxMaxSize) {
		c.fault(path+".maxSize", fmt.Sprintf("choose %d to %d bytes, or leave it out for %d", minMaxSize, maxMaxSize, defaultMaxSize), "%d bytes are out of bounds", t.MaxSize)
	}
	switch t.Integrity {
	case "", IntegrityRefuse, IntegrityQuarantine, IntegrityMark:
	default:
		c.fault(path+".integrity", "write refuse, quarantine or mark", "there is no policy %s", quote(t.Integrity))
	}
	c.rates(path+".rates", t.Rates)
	sends, receives := c.domains(k, path, t)
	c.account(path, t)
	c.mail(path+".postmaster", t.Postmaster)
	table := c.mappings(k, path, t)
	c.clients(k, path, t, table, sends)
	c.options(path, t, table)
	c.inbound(path+".inbound", &t.Inbound, receives)
}

// rates checks the bounds of what a tenant may hand in.
func (c *checker) rates(path string, r Rates) {
	for _, v := range []struct {
		key   string
		value int
	}{{"connections", r.Connections}, {"messagesPerMinute", r.MessagesPerMinute}, {"recipientsPerMinute", r.RecipientsPerMinute}} {
		if v.value > maxRate {
			c.fault(path+"."+v.key, "leave it out for no limit of the tenant's own", "%d is more than %d", v.value, maxRate)
		}
	}
}

func isPrintable(s string) bool {
	return len(s) <= maxName && strings.TrimSpace(s) == s && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// domains checks a tenant's De-Mail domains and says whether any sends, any receives.
func (c *checker) domains(k *claims, path string, t *Tenant) (sends, receives bool) {
	list := path + ".domains"
	if len(t.Domains) == 0 {
		c.fault(list, "give the tenant's De-Mail domain", "the tenant has no domain")
	}
	if n := len(t.Domains); n > maxNames {
		c.fault(list, "use fewer", "%d domains, more than %d", n, maxNames)
		return true, true
	}
	for i, d := range t.Domains {
		p := at(list, i)
		if !c.missing(p+".name", d.Name, "give the De-Mail domain") && c.domain(p+".name", d.Name) {
			c.deMailDomain(p+".name", d.Name)
			c.claim(k.domain, d.Name, p+".name", "give each domain to one tenant, once", "domain")
		}
		switch d.Direction {
		case DirectionBoth, "":
			sends, receives = true, true
		case DirectionSend:
			sends = true
		case DirectionReceive:
			receives = true
		default:
			c.fault(p+".direction", "write both, send or receive", "there is no direction %s", quote(string(d.Direction)))
		}
		if d.CatchAll != "" {
			c.mail(p+".catchAll", d.CatchAll)
			if d.Direction == DirectionSend {
				c.fault(p+".catchAll", "leave it out, or let the domain receive", "a domain that only sends has nothing to catch")
			}
		}
	}
	return sends, receives
}

// deMailDomain checks that a domain is one of De-Mail and no provider's own.
func (c *checker) deMailDomain(path, name string) {
	switch {
	case len(name) > maxDeMailDomain:
		c.fault(path, fmt.Sprintf("use one of at most %d characters", maxDeMailDomain), "the domain is too long for De-Mail")
	case !c.sound("provider"):
	case name == c.doc.Provider.Name:
		c.fault(path, "give the tenant's own domain", "%s is the provider's own domain", name)
	case !c.isDeMail(name):
		c.fault(path, "use a domain below one of provider.domains, or add it there", "%s is no De-Mail domain", name)
	}
}

func (c *checker) isDeMail(domain string) bool {
	for _, parent := range c.doc.Provider.Domains {
		if below(domain, parent) {
			return true
		}
	}
	return false
}

func (c *checker) account(path string, t *Tenant) {
	p := path + ".account"
	if !c.missing(p, t.Account, "give the De-Mail address of the account") {
		c.deMail(p, path, t.Account, t)
	}
}

// deMail checks a De-Mail address of the tenant.
func (c *checker) deMail(path, tenant, address string, t *Tenant) bool {
	_, domain, ok := splitAddress(address)
	switch {
	case !ok || len(domain) > maxDeMailDomain || len(address) > maxDeMailAddress:
		c.fault(path, "write it in lower case, as poststelle@gemeinde.de-mail.example", "%s is no De-Mail address", quote(address))
		return false
	case !c.sound(tenant + ".domains"):
		return true
	}
	for _, d := range t.Domains {
		if d.Name == domain {
			return true
		}
	}
	c.fault(path, "use one of the tenant's domains, or add it there", "%s is not a domain of this tenant", domain)
	return false
}

// mail checks an e-mail address outside De-Mail, which must be there.
func (c *checker) mail(path, address string) bool {
	if c.missing(path, address, "give an e-mail address") {
		return false
	}
	_, domain, ok := splitAddress(address)
	if !ok {
		c.fault(path, "write it in lower case, as poststelle@gemeinde.example", "%s is no e-mail address", quote(address))
		return false
	}
	if c.sound("provider.domains") && c.isDeMail(domain) {
		c.fault(path, "give an address of the tenant's ordinary mail", "%s is a De-Mail address, which would lead back here", address)
		return false
	}
	return true
}
