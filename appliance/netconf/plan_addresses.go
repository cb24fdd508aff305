package netconf

import (
	"net/netip"
	"slices"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// ipv6Metric is the metric that the kernel gives an IPv6 route without one.
const ipv6Metric = 1024

const unicast = 1 // RTN_UNICAST

// addresses removes foreign addresses everywhere, then adds those that are
// missing: an address may have moved from one link to another.
func (p *planner) addresses() {
	for _, l := range p.sorted() {
		if !p.managed[l.Index] && l.Kind != KindLoopback {
			continue
		}
		l.Addresses = slices.DeleteFunc(l.Addresses, func(a Address) bool {
			if p.keeps(l, a) {
				return false
			}
			p.do(Action{Op: OpDeleteAddress, Link: l.Name, Address: a.Prefix})
			return true
		})
	}
	for _, l := range p.inOrder() {
		for _, want := range p.interfaceOf(l.Name).Addresses {
			if !slices.ContainsFunc(l.Addresses, func(a Address) bool { return a.Prefix == want }) {
				p.do(Action{Op: OpAddAddress, Link: l.Name, Address: want})
			}
		}
	}
}

// keeps reports whether an address may stay: one of the configuration, or the
// link-local one that the kernel made.
func (p *planner) keeps(l *Link, a Address) bool {
	if l.Kind == KindLoopback {
		return a.Prefix == netip.MustParsePrefix("127.0.0.1/8") || a.Prefix == netip.MustParsePrefix("::1/128")
	}
	if a.Prefix.Addr().Is6() && a.Prefix.Addr().IsLinkLocalUnicast() && a.Prefix.Bits() == 64 {
		return p.hasIPv6(l.Name)
	}
	return !a.Foreign && slices.Contains(p.interfaceOf(l.Name).Addresses, a.Prefix)
}

// deleteRoutes removes every route that the configuration does not have.
func (p *planner) deleteRoutes() {
	p.routes = slices.DeleteFunc(p.routes, func(r Route) bool {
		l := p.links[r.Dev]
		if l != nil && slices.ContainsFunc(p.routesOf(l.Name), func(want Route) bool { return sameRoute(want, r) }) {
			return false
		}
		a := Action{Op: OpDeleteRoute, Route: r}
		if l != nil {
			a.Link = l.Name
		}
		p.do(a)
		return true
	})
}

func (p *planner) addRoutes() {
	for _, l := range p.inOrder() {
		for _, want := range p.routesOf(l.Name) {
			if !slices.ContainsFunc(p.routes, func(r Route) bool { return r.Dev == l.Index && sameRoute(want, r) }) {
				p.do(Action{Op: OpAddRoute, Link: l.Name, Route: want})
			}
		}
	}
}

// routesOf gives the routes of an interface, gateways first.
func (p *planner) routesOf(name string) []Route {
	ifc := p.interfaceOf(name)
	var all []Route
	for _, g := range ifc.Gateways {
		all = append(all, newRoute(config.Route{To: defaultOf(g), Via: g}))
	}
	for _, r := range ifc.Routes {
		all = append(all, newRoute(r))
	}
	return all
}

func newRoute(r config.Route) Route {
	route := Route{To: r.To, Via: r.Via, Type: unicast}
	if r.To.Addr().Is6() {
		route.Metric = ipv6Metric
	}
	return route
}

// defaultOf is the network of everything in a's family.
func defaultOf(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// sameRoute compares all but the link.
func sameRoute(a, b Route) bool {
	a.Dev, b.Dev = 0, 0
	return a == b
}
