package config

import "net/netip"

// Reach gives the interface over which packets to a leave the box: the one with
// the longest matching network or route, else the one with the gateway of a's
// family. It reports false if a cannot be reached.
func (n *Network) Reach(a netip.Addr) (*Interface, bool) {
	var best *Interface
	bits := -1
	for i := range n.Interfaces {
		ifc := &n.Interfaces[i]
		for _, p := range ifc.Addresses {
			if p.IsValid() && p.Contains(a) && p.Bits() > bits {
				best, bits = ifc, p.Bits()
			}
		}
		for _, r := range ifc.Routes {
			if r.To.IsValid() && r.To.Contains(a) && r.To.Bits() > bits {
				best, bits = ifc, r.To.Bits()
			}
		}
	}
	if best != nil {
		return best, true
	}
	for i := range n.Interfaces {
		for _, g := range n.Interfaces[i].Gateways {
			if g.Is4() == a.Is4() {
				return &n.Interfaces[i], true
			}
		}
	}
	return nil, false
}

// ByRole gives the interfaces of a role, in the order of the document.
func (n *Network) ByRole(role Role) []*Interface {
	var found []*Interface
	for i := range n.Interfaces {
		if n.Interfaces[i].Role == role {
			found = append(found, &n.Interfaces[i])
		}
	}
	return found
}
