// Package firewall writes the packet filter of the box: one table, "inet
// pforte", generated from the configuration, that drops whatever no rule
// allows, on the way in, through and out. It is the only package that speaks
// nftables.
//
// # Rules
//
// Rules turns a configuration into a Ruleset. It is pure; the Ruleset prints as
// nft lists it, and a test compares it with what nft reads back from a real
// kernel, because a wrong register expression is silently another rule.
//
//	in, tenant:      25 and 465, from the networks of the tenants' clients
//	in, provider:    1465
//	in, management:  the management port, from management.from
//	out, tenant:     relayd to the tenants' mail servers
//	out, provider:   relayd to the provider's server and its revocation lists
//	out, management: updated to the two repositories
//	out, any role:   relayd and updated to the name servers
//	in and out:      loopback; answers; neighbour discovery and multicast
//	                 listener discovery, where the interface has IPv6; a few pings
//
// Connections out are tied to the user of the service that makes them, so that a
// broken service reaches no further than its own peers. Where a host is given by
// name, its port is open to every address on the interface: names are resolved
// later and elsewhere.
//
// Router advertisements and redirects have no rule, so nobody on the network can
// configure the box.
//
// # Promises
//
// Apply replaces the whole table in one transaction: there is no instant without
// a filter, and on an error the old one stays. It does nothing if the kernel
// already has these rules; the hash of the Ruleset is kept in a comment, and the
// number of rules is compared, too.
//
// # Not done
//
// Connections that were made before a change of the rules live on until they
// end. There is no address translation and no forwarding. Other tables are left
// alone: nobody on the box but netd may make any.
package firewall

import (
	"net/netip"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// Names of the table and its chains.
const (
	tableName    = "pforte"
	chainInput   = "input"
	chainForward = "forward"
	chainOutput  = "output"
)

// Packets per second that are let in unasked; more are dropped.
const (
	pingLimit      = 20
	discoveryLimit = 400
)

// Rules generates the filter of a configuration; for nil, the one of a box
// without configuration: loopback only.
func Rules(doc *config.Document) Ruleset {
	b := &builder{}
	b.in(Rule{In: "lo", Verdict: Accept})
	b.out(Rule{Out: "lo", Verdict: Accept})
	if doc == nil {
		return b.finish()
	}
	b.in(Rule{State: Answers, Verdict: Accept, Comment: "answers"})
	b.out(Rule{State: Answers, Verdict: Accept, Comment: "answers"})
	for i := range doc.Network.Interfaces {
		b.discovery(&doc.Network.Interfaces[i])
	}
	b.in(Rule{State: Invalid, Verdict: Drop})
	b.out(Rule{State: Invalid, Verdict: Drop})
	for i := range doc.Network.Interfaces {
		ifc := &doc.Network.Interfaces[i]
		switch ifc.Role {
		case config.RoleTenant:
			b.tenant(doc, ifc)
		case config.RoleProvider:
			b.provider(doc, ifc)
		case config.RoleManagement:
			b.management(doc, ifc)
		}
		b.ping(ifc)
	}
	b.names(doc)
	return b.finish()
}

// builder collects rules and sets.
type builder struct {
	rules Ruleset
}

func (b *builder) in(r Rule)  { b.rules.Input = append(b.rules.Input, r) }
func (b *builder) out(r Rule) { b.rules.Output = append(b.rules.Output, r) }

// finish counts what falls through, so that it can be seen.
func (b *builder) finish() Ruleset {
	last := Rule{Count: true, Verdict: Drop, Comment: "nothing allows it"}
	b.in(last)
	b.out(last)
	return b.rules
}

// own gives the interface's own addresses.
func own(ifc *config.Interface) []netip.Prefix {
	var all []netip.Prefix
	for _, a := range ifc.Addresses {
		all = append(all, netip.PrefixFrom(a.Addr(), a.Addr().BitLen()))
	}
	return all
}

func hasIPv6(ifc *config.Interface) bool {
	for _, a := range ifc.Addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

func hasIPv4(ifc *config.Interface) bool {
	for _, a := range ifc.Addresses {
		if a.Addr().Is4() {
			return true
		}
	}
	return false
}
