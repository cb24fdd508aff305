package config

import (
	"crypto/sha256"
	"fmt"
	"net/netip"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// Names of management roles (design.md §2).
const (
	AuthorityOwner   = "owner"
	AuthorityHosting = "hosting"
	AuthorityMonitor = "monitor"
)

// maxNames bounds a list of domains.
const maxNames = 256

// management checks who may administer the box, and where updates come from.
func (c *checker) management() {
	if c.spoilt("management") {
		return
	}
	m := &c.doc.Management
	switch m.Port {
	case layout.PortSMTP, layout.PortSubmission, layout.PortProvider:
		c.fault("management.port", fmt.Sprintf("leave it out for %d", layout.PortManagement), "port %d belongs to mail", m.Port)
	}
	c.prefixes("management.from", m.From)
	c.authorities(m.Roles)
	c.update("management.updates.vendor", m.Updates.Vendor)
	c.update("management.updates.owner", m.Updates.Owner)
	if m.Updates.Vendor != "" && m.Updates.Vendor == m.Updates.Owner {
		c.fault("management.updates.owner", "give the owner's own repository", "vendor and owner have the same repository")
	}
}

// prefixes checks a list of networks.
func (c *checker) prefixes(path string, list []netip.Prefix) {
	if n := len(list); n > MaxNetworks {
		c.fault(path, "join them to fewer", "%d networks, more than %d", n, MaxNetworks)
		return
	}
	seen := map[netip.Prefix]bool{}
	for i, p := range list {
		switch {
		case !p.IsValid():
		case p.Masked() != p || p.Addr().Is4In6():
			c.fault(at(path, i), fmt.Sprintf("write %s", p.Masked()), "%s has bits behind its prefix", p)
		case seen[p]:
			c.fault(at(path, i), "keep one", "%s stands here twice", p)
		}
		seen[p] = true
	}
}

// authorities checks that each role has one authority of its own: a person with
// two roles would break the rule that two of three are not enough.
func (c *checker) authorities(roles []RoleAuthority) {
	const list = "management.roles"
	names := map[string]string{}
	owners := map[[sha256.Size]byte]string{}
	for i, r := range roles {
		p := at(list, i)
		switch first, ok := names[r.Name]; {
		case r.Name == "":
			c.fault(p+".name", "write owner, hosting or monitor", "name is missing")
		case r.Name != AuthorityOwner && r.Name != AuthorityHosting && r.Name != AuthorityMonitor:
			c.fault(p+".name", "write owner, hosting or monitor", "there is no role %s", quote(r.Name))
		case ok:
			c.fault(p+".name", "put all certificates of a role in one place", "role %s already stands at %s", r.Name, first)
		default:
			names[r.Name] = p
		}
		for _, print := range c.authority(p+".ca", r.CA) {
			if other, ok := owners[print]; ok && other != r.Name {
				c.fault(p+".ca", "give each role its own authority", "the same certificate also gives the role %s", other)
			}
			owners[print] = r.Name
		}
	}
	if _, ok := names[AuthorityOwner]; !ok && c.sound(list) {
		c.fault(list, "add the owner's authority", "no one has the role owner")
	}
}

func (c *checker) update(path, link string) {
	if c.missing(path, link, "give the base URL of the repository") {
		return
	}
	host, wrong := webHost(link)
	if wrong != "" {
		c.fault(path, "write it as http://updates.example/pforte", "%s %s", quote(link), wrong)
		return
	}
	c.host(path, host, RoleManagement)
}

// provider checks the De-Mail provider.
func (c *checker) provider() {
	if c.spoilt("provider") {
		return
	}
	p := &c.doc.Provider
	if !c.missing("provider.name", p.Name, "give the provider's own domain") {
		c.domain("provider.name", p.Name)
	}
	if !c.missing("provider.host", p.Host, "give the name or address of the provider's server") {
		if !isHost(p.Host) {
			c.fault("provider.host", "write a name such as mx.provider.example, or an address", "%s is no host", quote(p.Host))
		} else {
			c.host("provider.host", p.Host, RoleProvider)
		}
	}
	c.authority("provider.ca", p.CA)
	c.names("provider.serverNames", p.ServerNames, true)
	c.names("provider.clientNames", p.ClientNames, true)
	c.names("provider.domains", p.Domains, true)
	c.lists("provider.crl", p.CRL)
	c.signatureAuthorities()
}

// lists checks the URLs of revocation lists.
func (c *checker) lists(path string, links []string) {
	if n := len(links); n > maxNames {
		c.fault(path, "use fewer", "%d lists, more than %d", n, maxNames)
		return
	}
	for i, link := range links {
		host, wrong := webHost(link)
		if link != "" && wrong != "" {
			c.fault(at(path, i), "write it as http://crl.provider.example/ca.crl", "%s %s", quote(link), wrong)
		} else if link != "" {
			c.host(at(path, i), host, RoleProvider)
		}
	}
}

// signatureAuthorities checks who else may sign De-Mails.
func (c *checker) signatureAuthorities() {
	const list = "provider.signatureAuthorities"
	all := c.doc.Provider.SignatureAuthorities
	if n := len(all); n > maxNames {
		c.fault(list, "use fewer", "%d authorities, more than %d", n, maxNames)
		return
	}
	names := map[string]string{}
	for i, a := range all {
		p := at(list, i)
		if !c.missing(p+".name", a.Name, "name the provider that it belongs to") {
			if !isPrintable(a.Name) {
				c.fault(p+".name", fmt.Sprintf("write one line of at most %d bytes", maxName), "the name is too long or not printable")
			}
			c.claim(names, a.Name, p+".name", "give each authority its own name", "authority")
		}
		c.authority(p+".ca", a.CA)
		c.lists(p+".crl", a.CRL)
	}
}

func (c *checker) domain(path, name string) bool {
	if name != "" && !isDomain(name) {
		c.fault(path, "write a domain in lower case, such as gemeinde.de-mail.example; names beyond ASCII as xn--", "%s is no domain", quote(name))
		return false
	}
	return name != ""
}

// names checks a list of domains.
func (c *checker) names(path string, list []string, needed bool) {
	if needed && len(list) == 0 {
		c.fault(path, "give at least one name", "%s is missing", lastKey(path))
	}
	if n := len(list); n > maxNames {
		c.fault(path, "use fewer", "%d names, more than %d", n, maxNames)
		return
	}
	seen := map[string]bool{}
	for i, name := range list {
		if !c.domain(at(path, i), name) {
			continue
		}
		if seen[name] {
			c.fault(at(path, i), "keep one", "%s stands here twice", name)
		}
		seen[name] = true
	}
}
