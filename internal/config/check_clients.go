package config

import (
	"encoding/hex"
	"fmt"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/mapping"
	"gitlab.opencode.de/pforte/pforte/internal/secret"
)

// Bounds of a client.
const (
	maxUser    = 64 // bytes
	maxSenders = 4096
)

func (c *checker) clients(k *claims, path string, t *Tenant, table *mapping.Table, sends bool) {
	list := path + ".clients"
	if sends && len(t.Clients) == 0 {
		c.fault(list, "describe the system that hands in mail, or set every domain to receive", "no client may send for this tenant")
	}
	names := map[string]string{}
	for i, cl := range t.Clients {
		p := at(list, i)
		if !c.missing(p+".name", cl.Name, "name the system") {
			if !isPrintable(cl.Name) {
				c.fault(p+".name", fmt.Sprintf("write one line of at most %d bytes", maxName), "the name is too long or not printable")
			}
			c.claim(names, cl.Name, p+".name", "give each client its own name", "client")
		}
		c.client(k, p, cl)
		c.prefixes(p+".networks", cl.Networks)
		c.senders(p, path, cl, t, table)
		switch cl.Class {
		case "", ClassUrgent, ClassNormal, ClassBulk:
		default:
			c.fault(p+".class", "write urgent, normal or bulk", "there is no class %s", quote(cl.Class))
		}
	}
}

// client checks by what a client is known. No two clients of the box may be
// known by the same thing: it decides for which tenant mail is taken.
func (c *checker) client(k *claims, path string, cl Client) {
	if !c.sound(path) {
		return
	}
	login, certificate := cl.User != "" || cl.Secret != "", cl.CA != "" || len(cl.Names) > 0
	switch {
	case login && (certificate || cl.Fingerprint != ""):
		c.fault(path, "keep user and secret, or keep the certificate; describe two clients if it uses both", "both a login and a certificate are given")
	case certificate && cl.Fingerprint != "":
		c.fault(path, "keep fingerprint, or keep ca and names", "both a fingerprint and an authority are given")
	case !login && !certificate && cl.Fingerprint == "":
		c.fault(path, "give fingerprint, or ca and names, or networks, user and secret", "nothing says by which certificate or login the client is known")
	}
	if login {
		c.login(k, path, cl)
	}
	if cl.Fingerprint != "" {
		if c.fingerprint(path+".fingerprint", cl.Fingerprint) {
			c.claim(k.client, cl.Fingerprint, path+".fingerprint", sameCertificate, "fingerprint")
		}
	} else if certificate {
		c.certificate(k, path, cl)
	}
}

const sameCertificate = "give each system its own certificate"

// fingerprint checks the SHA-256 of a certificate.
func (c *checker) fingerprint(path, text string) bool {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != 32 || strings.ToLower(text) != text {
		c.fault(path, "write the SHA-256 of the certificate as 64 lower-case hex digits", "%s is no fingerprint", quote(text))
		return false
	}
	return true
}

// certificate checks authority and names.
func (c *checker) certificate(k *claims, path string, cl Client) {
	prints := c.authority(path+".ca", cl.CA)
	c.names(path+".names", cl.Names, true)
	for _, print := range prints {
		for i, name := range cl.Names {
			key := hex.EncodeToString(print[:]) + " " + name
			if first, ok := k.client[key]; ok && !strings.HasPrefix(first, path+".") {
				c.fault(at(path+".names", i), sameCertificate, "the same authority and name %q already stand at %s", name, first)
			} else if !ok {
				k.client[key] = at(path+".names", i)
			}
		}
	}
}

// login checks user, secret and networks. The hash is never repeated in a fault.
func (c *checker) login(k *claims, path string, cl Client) {
	if !c.missing(path+".user", cl.User, "give the name under which the system logs in") {
		if !isUser(cl.User) {
			c.fault(path+".user", fmt.Sprintf("use lower-case letters, digits and . - _ @, at most %d", maxUser), "%s is no user name", quote(cl.User))
		}
		c.claim(k.user, cl.User, path+".user", "give each system of the box its own user", "user")
	}
	if !c.missing(path+".secret", cl.Secret, "make one with: pforte tenant secret") {
		if _, err := secret.Parse(cl.Secret); err != nil {
			c.fault(path+".secret", "make one with: pforte tenant secret", "%v", err)
		}
	}
	if len(cl.Networks) == 0 {
		c.fault(path+".networks", "say from where the system logs in, such as [10.10.0.11/32]", "a login without networks would hold from everywhere")
	}
	for i, n := range cl.Networks {
		if n.IsValid() && n.Bits() == 0 {
			c.fault(at(path+".networks", i), "say from where the system logs in, such as 10.10.0.11/32", "%s is everywhere", n)
		}
	}
}

func isUser(s string) bool {
	for i := range len(s) {
		if !isLowerAlnum(s[i]) && !strings.ContainsRune(".-_@", rune(s[i])) {
			return false
		}
	}
	return s != "" && len(s) <= maxUser
}

// senders checks for whom a client may send.
func (c *checker) senders(path, tenant string, cl Client, t *Tenant, table *mapping.Table) {
	list := path + ".senders"
	if cl.Application && len(cl.Senders) == 0 {
		c.fault(list, "name the addresses that the application sends for", "an application must name its senders")
	}
	if n := len(cl.Senders); n > maxSenders {
		c.fault(list, "use *@ and a domain", "%d senders, more than %d", n, maxSenders)
		return
	}
	seen := map[string]string{}
	for i, s := range cl.Senders {
		if s != "" && c.sender(at(list, i), tenant, s, t, table) {
			c.claim(seen, s, at(list, i), "keep one", "sender")
		}
	}
}
