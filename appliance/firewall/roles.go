package firewall

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const portDNS = 53

// relayd and updated are the services that make connections.
func relayd() Sender  { return Sender{layout.UIDRelayd, true} }
func updated() Sender { return Sender{layout.UIDUpdated, true} }

// discovery lets an interface with IPv6 find its neighbours (RFC 4861) and tell
// switches what it listens to (RFC 9777); the kernel checks that they are
// neighbours. Neither is tracked, so these rules come before the invalid ones.
func (b *builder) discovery(ifc *config.Interface) {
	if !hasIPv6(ifc) {
		return
	}
	neighbours := []string{"nd-neighbor-solicit", "nd-neighbor-advert"}
	b.in(Rule{In: ifc.Name, Protocol: ICMPv6, Types: slices.Concat([]string{"mld-listener-query"}, neighbours), Limit: discoveryLimit, Verdict: Accept})
	b.out(Rule{Out: ifc.Name, Protocol: ICMPv6, Types: slices.Concat([]string{"mld-listener-report", "mld-listener-done"}, neighbours, []string{"mld2-listener-report"}), Verdict: Accept})
}

// ping answers a few pings; the answers themselves go out as such.
func (b *builder) ping(ifc *config.Interface) {
	if hasIPv4(ifc) {
		b.in(Rule{In: ifc.Name, Protocol: ICMP, Types: []string{"echo-request"}, Limit: pingLimit, Verdict: Accept})
	}
	if hasIPv6(ifc) {
		b.in(Rule{In: ifc.Name, Protocol: ICMPv6, Types: []string{"echo-request"}, Limit: pingLimit, Verdict: Accept})
	}
}

// tenant opens the mail ports to the tenants' clients, and the way to the
// tenants' servers that are reached over this interface.
func (b *builder) tenant(doc *config.Document, ifc *config.Interface) {
	from, everyone := clientNetworks(doc)
	if everyone {
		from = nil
	}
	if everyone || len(from) > 0 {
		b.rule(Rule{In: ifc.Name, Protocol: TCP, Ports: []uint16{layout.PortSMTP, layout.PortSubmission}, Verdict: Accept}, from, own(ifc))
	}
	ports := newPeers(doc, ifc)
	for _, t := range doc.Tenants {
		for _, s := range t.Inbound.Servers {
			ports.add(s.Host, s.Port)
		}
	}
	b.peers(ports, Rule{Out: ifc.Name, User: relayd(), Protocol: TCP, Verdict: Accept})
}

// clientNetworks joins the networks of all clients; everyone is true if one of
// them may come from anywhere.
func clientNetworks(doc *config.Document) (all []netip.Prefix, everyone bool) {
	for _, t := range doc.Tenants {
		for _, c := range t.Clients {
			everyone = everyone || len(c.Networks) == 0
			all = append(all, c.Networks...)
		}
	}
	return all, everyone
}

func (b *builder) provider(doc *config.Document, ifc *config.Interface) {
	b.rule(Rule{In: ifc.Name, Protocol: TCP, Ports: []uint16{layout.PortProvider}, Verdict: Accept}, nil, own(ifc))
	ports := newPeers(doc, ifc)
	ports.add(doc.Provider.Host, doc.Provider.Port)
	for _, link := range doc.Provider.CRL {
		ports.addURL(link)
	}
	for _, a := range doc.Provider.SignatureAuthorities {
		for _, link := range a.CRL {
			ports.addURL(link)
		}
	}
	b.peers(ports, Rule{Out: ifc.Name, User: relayd(), Protocol: TCP, Verdict: Accept})
}

func (b *builder) management(doc *config.Document, ifc *config.Interface) {
	from := doc.Management.From
	if len(from) == 0 {
		for _, a := range ifc.Addresses {
			from = append(from, a.Masked())
		}
	}
	b.rule(Rule{In: ifc.Name, Protocol: TCP, Ports: []uint16{doc.Management.Port}, Verdict: Accept}, from, own(ifc))
	ports := newPeers(doc, ifc)
	ports.addURL(doc.Management.Updates.Vendor)
	ports.addURL(doc.Management.Updates.Owner)
	b.peers(ports, Rule{Out: ifc.Name, User: updated(), Protocol: TCP, Verdict: Accept})
}

// names opens the way to each name server, over the interface that leads there.
func (b *builder) names(doc *config.Document) {
	for _, server := range doc.Network.Nameservers {
		ifc, ok := doc.Network.Reach(server)
		if !ok {
			continue
		}
		to := []netip.Prefix{netip.PrefixFrom(server, server.BitLen())}
		for _, user := range []Sender{relayd(), updated()} {
			for _, p := range []Protocol{UDP, TCP} {
				b.outRule(Rule{Out: ifc.Name, User: user, Protocol: p, Ports: []uint16{portDNS}, Verdict: Accept}, to)
			}
		}
	}
}

// peers are the hosts that a role connects to over one interface, by port. A
// port with a host by name is open to everyone.
type peers struct {
	network *config.Network
	ifc     string
	ports   map[uint16][]netip.Prefix
	named   map[uint16]bool
}

func newPeers(doc *config.Document, ifc *config.Interface) *peers {
	return &peers{&doc.Network, ifc.Name, map[uint16][]netip.Prefix{}, map[uint16]bool{}}
}

// add takes a host unless its address is reached over another interface.
func (p *peers) add(host string, port uint16) {
	a, err := netip.ParseAddr(host)
	if err != nil {
		p.named[port] = true
		return
	}
	if ifc, ok := p.network.Reach(a); ok && ifc.Name == p.ifc {
		p.ports[port] = append(p.ports[port], netip.PrefixFrom(a, a.BitLen()))
	}
}

// addURL takes the host of an http or https URL, which config has checked.
func (p *peers) addURL(link string) {
	u, err := url.Parse(link)
	if err != nil || u.Hostname() == "" {
		return
	}
	port := uint64(80)
	if u.Scheme == "https" {
		port = 443
	}
	if s := u.Port(); s != "" {
		if port, err = strconv.ParseUint(s, 10, 16); err != nil {
			return
		}
	}
	p.add(u.Hostname(), uint16(port))
}

// peers writes one rule for each port, in the order of ports.
func (b *builder) peers(p *peers, r Rule) {
	var ports []uint16
	for port := range p.ports {
		ports = append(ports, port)
	}
	for port := range p.named {
		if _, ok := p.ports[port]; !ok {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	for _, port := range ports {
		r.Ports = []uint16{port}
		if p.named[port] {
			b.out(r)
			continue
		}
		b.outRule(r, p.ports[port])
	}
}

func (b *builder) outRule(r Rule, to []netip.Prefix) { b.rule(r, nil, to) }

// rule writes a rule for each family that both lists have. An empty list fits
// everything.
func (b *builder) rule(r Rule, from, to []netip.Prefix) {
	for _, six := range []bool{false, true} {
		f, t := ofFamily(from, six), ofFamily(to, six)
		if len(from) > 0 && len(f) == 0 || len(to) > 0 && len(t) == 0 {
			continue
		}
		r.From, r.To = b.networks(r, "from", f), b.networks(r, "to", t)
		if r.In != "" {
			b.in(r)
		} else {
			b.out(r)
		}
	}
}

// ofFamily sorts the networks of one family and leaves out those that lie in
// others.
func ofFamily(all []netip.Prefix, six bool) []netip.Prefix {
	var family []netip.Prefix
	for _, p := range all {
		if p.Addr().Is6() == six {
			family = append(family, p.Masked())
		}
	}
	slices.SortFunc(family, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits())
	})
	var kept []netip.Prefix
	for _, p := range family {
		if n := len(kept); n == 0 || !kept[n-1].Overlaps(p) {
			kept = append(kept, p)
		}
	}
	return kept
}

// networks gives a list the form that a rule holds: several become a set, named
// after the rule.
func (b *builder) networks(r Rule, direction string, list []netip.Prefix) Networks {
	switch len(list) {
	case 0:
		return Networks{}
	case 1:
		return Networks{One: list[0]}
	}
	family := "4"
	if list[0].Addr().Is6() {
		family = "6"
	}
	hook := chainInput + "_" + r.In
	if r.Out != "" {
		hook = chainOutput + "_" + r.Out
	}
	parts := []string{hook}
	for _, p := range r.Ports {
		parts = append(parts, strconv.Itoa(int(p)))
	}
	name := strings.Join(append(parts, direction+family), "_")
	b.rules.Sets = append(b.rules.Sets, Set{name, list})
	return Networks{Set: name, IP6: list[0].Addr().Is6()}
}
