package config

import (
	"fmt"
	"net/netip"
)

// Bounds of one interface and of the resolver (resolv.conf(5), MAXNS).
const (
	maxAddresses   = 32
	maxNameservers = 3
)

// network checks links, interfaces, addresses, routes and name servers.
func (c *checker) network() {
	if c.spoilt("network") {
		return
	}
	t := c.links()
	n := &c.doc.Network
	used := map[string]string{}
	if len(n.Interfaces) > MaxInterfaces {
		c.fault("network.interfaces", "use fewer", "%d interfaces, more than %d", len(n.Interfaces), MaxInterfaces)
		return
	}
	for i, ifc := range n.Interfaces {
		p := at("network.interfaces", i)
		c.interfaceName(t, used, p, ifc.Name)
		c.role(p, ifc.Role)
		c.addresses(t, p, ifc)
		c.gateways(p, ifc)
		c.routes(p, ifc)
	}
	c.roles()
	c.overlaps()
	c.defaults()
	c.doubleRoutes()
	c.nameservers()
}

func (c *checker) interfaceName(t *linkTable, used map[string]string, path, name string) {
	p := path + ".name"
	if c.missing(p, name, "name a link, bond or VLAN") {
		return
	}
	switch {
	case t.kind[name] == "":
		c.fault(p, "name one of network.links, network.bonds or network.vlans", "there is no link, bond or VLAN %s", quote(name))
	case t.bond[name] != "":
		c.fault(p, "give the addresses to the bond", "link %q belongs to bond %q", name, t.bond[name])
	case used[name] != "":
		c.fault(p, "put all addresses of one interface in one place", "%q already has its addresses at %s", name, used[name])
	default:
		used[name] = path
	}
}

func (c *checker) role(path string, role Role) {
	switch role {
	case RoleTenant, RoleProvider, RoleManagement:
	case "":
		c.fault(path+".role", "write tenant, provider or management", "role is missing")
	default:
		c.fault(path+".role", "write tenant, provider or management", "there is no role %s", quote(string(role)))
	}
}

// rolesKnown reports whether every interface has a role; if not, that is the fault.
func (c *checker) rolesKnown() bool {
	if !c.sound("network.interfaces") {
		return false
	}
	for _, ifc := range c.doc.Network.Interfaces {
		switch ifc.Role {
		case RoleTenant, RoleProvider, RoleManagement:
		default:
			return false
		}
	}
	return true
}

// roles checks that each role has an interface.
func (c *checker) roles() {
	if !c.rolesKnown() {
		return
	}
	for _, role := range []Role{RoleTenant, RoleProvider, RoleManagement} {
		if len(c.doc.Network.ByRole(role)) == 0 {
			c.fault("network.interfaces", "give one interface this role", "no interface has the role %s", role)
		}
	}
}

func (c *checker) addresses(t *linkTable, path string, ifc Interface) {
	list := path + ".addresses"
	switch n := len(ifc.Addresses); {
	case n == 0:
		c.fault(list, "give at least one, such as 10.10.0.2/24", "the interface has no address")
	case n > maxAddresses:
		c.fault(list, "use fewer", "%d addresses, more than %d", n, maxAddresses)
	}
	six := false
	for i, a := range ifc.Addresses {
		if !a.IsValid() {
			continue
		}
		six = six || a.Addr().Is6()
		if wrong := hostFault(a); wrong != "" {
			c.fault(at(list, i), "give the box's own address in its network", "%s %s", a, wrong)
		}
	}
	if mtu := t.mtu[ifc.Name]; six && mtu >= minMTU && mtu < minMTU6 {
		c.fault(list, fmt.Sprintf("raise the MTU of %q to %d or more", ifc.Name, minMTU6), "IPv6 does not run over an MTU of %d", mtu)
	}
}

// hostFault says why p cannot be the address of an interface.
func hostFault(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case !isUnicast(a):
		return "is not the address of one machine"
	case a.IsLinkLocalUnicast():
		return "is link-local, which interfaces get by themselves"
	case a.BitLen()-p.Bits() < 2:
		return ""
	case a == p.Masked().Addr():
		return "is the network, not an address in it"
	case a.Is4() && a == lastOf(p):
		return "is the broadcast address of its network"
	case p.Bits() == 0:
		return "spans every network"
	}
	return ""
}

// lastOf gives the last address of an IPv4 network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// nextHop checks that a router is a neighbour on the interface, and not the box.
func (c *checker) nextHop(path, what string, ifc Interface, a netip.Addr) {
	if a.Is6() && a.IsLinkLocalUnicast() && a.Zone() == "" {
		return // fe80::/10 is on every link
	}
	for _, p := range ifc.Addresses {
		switch {
		case !p.IsValid() || !p.Contains(a):
		case p.Addr() == a:
			c.fault(path, "give the "+what+"'s address", "%s %s is the box itself", what, a)
			return
		case hostFault(netip.PrefixFrom(a, p.Bits())) != "":
			c.fault(path, "give the "+what+"'s address", "%s %s is not the address of one machine in %s", what, a, p.Masked())
			return
		default:
			return
		}
	}
	c.fault(path, "give an address in one of the interface's networks", "%s %s lies in no network of interface %q", what, a, ifc.Name)
}

func (c *checker) gateways(path string, ifc Interface) {
	list := path + ".gateways"
	var four, six bool
	for i, g := range ifc.Gateways {
		if !g.IsValid() {
			continue
		}
		if g.Is4() && four || g.Is6() && six {
			c.fault(at(list, i), "keep one per family", "a second gateway of the same family")
			continue
		}
		four, six = four || g.Is4(), six || g.Is6()
		if c.sound(path + ".addresses") {
			c.nextHop(at(list, i), "gateway", ifc, g)
		}
	}
}

func (c *checker) routes(path string, ifc Interface) {
	if n := len(ifc.Routes); n > MaxNetworks {
		c.fault(path+".routes", "use fewer", "%d routes, more than %d", n, MaxNetworks)
		return
	}
	for i, r := range ifc.Routes {
		p := at(path+".routes", i)
		c.routeTo(p+".to", r.To, ifc)
		switch {
		case !r.Via.IsValid():
			c.fault(p+".via", "give the next router", "via is missing")
		case r.To.IsValid() && r.To.Addr().Is4() != r.Via.Is4():
			c.fault(p+".via", "use addresses of one family", "%s is no router for %s", r.Via, r.To)
		case c.sound(path + ".addresses"):
			c.nextHop(p+".via", "router", ifc, r.Via)
		}
	}
}

func (c *checker) routeTo(path string, to netip.Prefix, ifc Interface) {
	switch {
	case !to.IsValid():
		c.fault(path, "give the network, such as 192.0.2.0/24", "to is missing")
	case to.Bits() == 0:
		c.fault(path, "use gateways", "a route to everything is the gateway's")
	case to.Masked() != to || to.Addr().Is4In6():
		c.fault(path, fmt.Sprintf("write %s", to.Masked()), "%s has bits behind its prefix", to)
	case to.Addr().IsMulticast() || to.Addr().IsLoopback() || to.Addr().IsLinkLocalUnicast():
		c.fault(path, "leave it out", "%s is never routed", to)
	}
	for _, a := range ifc.Addresses {
		if a.IsValid() && a.Masked() == to {
			c.fault(path, "leave it out", "%s is the interface's own network", to)
		}
	}
}

// overlaps finds doubled addresses and networks that share addresses.
func (c *checker) overlaps() {
	type entry struct {
		path string
		ifc  int
		p    netip.Prefix
	}
	var seen []entry
	for i, ifc := range c.doc.Network.Interfaces {
		for j, p := range ifc.Addresses {
			if !p.IsValid() || len(ifc.Addresses) > maxAddresses {
				continue
			}
			here := entry{at(at("network.interfaces", i)+".addresses", j), i, p}
			for _, e := range seen {
				switch {
				case e.p.Addr() == p.Addr():
					c.fault(here.path, "give each address once", "%s already stands at %s", p.Addr(), e.path)
				case !e.p.Overlaps(p) || e.ifc == i && e.p.Masked() == p.Masked():
					continue
				default:
					c.fault(here.path, "use networks that share no address", "network %s overlaps %s at %s", p.Masked(), e.p.Masked(), e.path)
				}
				break
			}
			seen = append(seen, here)
		}
	}
}

// defaults finds a second default route of the same family.
func (c *checker) defaults() {
	first := map[bool]string{}
	for i, ifc := range c.doc.Network.Interfaces {
		own := map[bool]bool{}
		for j, g := range ifc.Gateways {
			if !g.IsValid() || own[g.Is4()] {
				continue
			}
			own[g.Is4()] = true
			if other, ok := first[g.Is4()]; ok {
				c.fault(at(at("network.interfaces", i)+".gateways", j), "keep one gateway per family for the box, and use routes beside it",
					"interface %q already has the gateway of this family", other)
				continue
			}
			first[g.Is4()] = ifc.Name
		}
	}
}

// doubleRoutes finds the same destination twice.
func (c *checker) doubleRoutes() {
	first := map[netip.Prefix]string{}
	for i, ifc := range c.doc.Network.Interfaces {
		for j, r := range ifc.Routes {
			p := at(at("network.interfaces", i)+".routes", j)
			if other, ok := first[r.To]; ok && r.To.IsValid() {
				c.fault(p+".to", "keep one of the two", "%s is already routed at %s", r.To, other)
				continue
			}
			first[r.To] = p
		}
	}
}

func (c *checker) nameservers() {
	n := &c.doc.Network
	if len(n.Nameservers) > maxNameservers {
		c.fault("network.nameservers", "keep the best", "%d name servers, more than %d", len(n.Nameservers), maxNameservers)
	}
	seen := map[netip.Addr]bool{}
	for i, a := range n.Nameservers {
		p := at("network.nameservers", i)
		switch {
		case !a.IsValid():
		case !isUnicast(a) || a.IsLinkLocalUnicast():
			c.fault(p, "give the address of a name server", "%s is not the address of one machine", a)
		case seen[a]:
			c.fault(p, "keep one", "%s is named twice", a)
		default:
			c.reachable(p, a)
		}
		seen[a] = true
	}
}

// reachable checks that a can be reached, over an interface with one of the
// roles if any are given: the firewall of the others would drop it.
func (c *checker) reachable(path string, a netip.Addr, roles ...Role) {
	if !c.rolesKnown() || c.lacksAddress() {
		return
	}
	if len(roles) > 0 && len(c.doc.Network.ByRole(roles[0])) == 0 {
		return // the missing role is the fault
	}
	ifc, ok := c.doc.Network.Reach(a)
	if !ok {
		c.fault(path, "add a route or a gateway of this family", "%s cannot be reached from any network of the box", a)
		return
	}
	for _, r := range roles {
		if ifc.Role == r {
			return
		}
	}
	if len(roles) > 0 {
		c.fault(path, fmt.Sprintf("reach it over a %s interface", roles[0]), "%s would be reached over %q, a %s interface", a, ifc.Name, ifc.Role)
	}
}

// lacksAddress reports whether some interface has no address; then that is the
// fault, and what cannot be reached follows from it.
func (c *checker) lacksAddress() bool {
	for _, ifc := range c.doc.Network.Interfaces {
		if len(ifc.Addresses) == 0 {
			return true
		}
	}
	return false
}

// host checks a host that the box connects to: an address must be reachable in
// its role, a name needs name servers.
func (c *checker) host(path, host string, role Role) {
	if a, err := netip.ParseAddr(host); err == nil {
		c.reachable(path, a, role)
		return
	}
	if len(c.doc.Network.Nameservers) == 0 {
		c.fault(path, "add network.nameservers or give an address", "%s is a name, and there is no name server", quote(host))
	}
}
