package config

import (
	"fmt"
	"net"
)

// Bounds of an MTU in bytes. RFC 8200 §5 asks for 1280 where IPv6 runs.
const (
	minMTU     = 576
	minMTU6    = 1280
	maxMTU     = 9216
	defaultMTU = 1500
)

// Bond modes.
const (
	ModeActiveBackup = "active-backup"
	Mode8023ad       = "802.3ad"
)

// maxVLAN is the greatest VLAN id of IEEE 802.1Q; 0 and 4095 are reserved.
const maxVLAN = 4094

// linkTable is what the checks know of each interface name.
type linkTable struct {
	path map[string]string // name → where it was first given
	mtu  map[string]int    // with defaults
	bond map[string]string // link → its bond
	kind map[string]string // "link", "bond", "vlan"
}

func (c *checker) links() *linkTable {
	n := &c.doc.Network
	t := &linkTable{path: map[string]string{}, mtu: map[string]int{}, bond: map[string]string{}, kind: map[string]string{}}
	if count := len(n.Links) + len(n.Bonds) + len(n.VLANs); count > MaxInterfaces {
		c.fault("network", "use fewer", "%d links, bonds and VLANs, more than %d", count, MaxInterfaces)
		return t
	}
	if len(n.Links) == 0 {
		c.fault("network.links", "describe each network card by its MAC or path", "there is no link")
	}
	cards := map[string]string{}
	for i, l := range n.Links {
		p := at("network.links", i)
		c.linkName(t, p, l.Name, "link")
		c.card(cards, p, l)
		c.mtu(t, p, l.Name, l.MTU)
	}
	for i, b := range n.Bonds {
		p := at("network.bonds", i)
		c.linkName(t, p, b.Name, "bond")
		c.mtu(t, p, b.Name, b.MTU)
		c.bond(t, p, b)
	}
	for i, v := range n.VLANs {
		p := at("network.vlans", i)
		c.linkName(t, p, v.Name, "vlan")
	}
	c.vlans(t)
	return t
}

// linkName checks a name and enters it.
func (c *checker) linkName(t *linkTable, path, name, kind string) {
	p := path + ".name"
	if c.missing(p, name, "name it for what it is, such as tenant0") {
		return
	}
	if !isInterfaceName(name) { // entered all the same, so that who uses it is not blamed
		c.fault(p, "use a letter, then lower-case letters, digits, hyphens and dots, 15 in all; not lo, all or default", "%s is no name for an interface", quote(name))
	}
	if first, ok := t.path[name]; ok {
		c.fault(p, "give each its own name", "%q is already the name of %s", name, first)
		return
	}
	t.path[name], t.kind[name] = path, kind
}

// card checks by what a link is found.
func (c *checker) card(cards map[string]string, path string, l Link) {
	if !c.sound(path+".mac") || !c.sound(path+".path") {
		return
	}
	key, by := l.MAC, path+".mac"
	switch {
	case l.MAC == "" && l.Path == "":
		c.fault(path, "give its mac or its path", "nothing says which network card this is")
		return
	case l.MAC != "" && l.Path != "":
		c.fault(path, "keep one of the two", "both mac and path are given")
		return
	case l.MAC != "":
		hw, err := net.ParseMAC(l.MAC)
		if err != nil || len(hw) != 6 || hw.String() != l.MAC || hw[0]&1 != 0 || l.MAC == "00:00:00:00:00:00" {
			c.fault(by, "write it as 52:54:00:50:46:01, in lower case", "%s is no network card's MAC address", quote(l.MAC))
			return
		}
	default:
		key, by = l.Path, path+".path"
		if !isLinkPath(l.Path) {
			c.fault(by, "write it as pci-0000:00:03.0", "%s is no path of a network card", quote(l.Path))
			return
		}
	}
	if first, ok := cards[key]; ok {
		c.fault(by, "describe each card once", "%s already belongs to %s", key, first)
		return
	}
	cards[key] = path
}

// mtu checks the bounds and enters the value that will be in force.
func (c *checker) mtu(t *linkTable, path, name string, mtu int) {
	if mtu == 0 {
		mtu = defaultMTU
	}
	t.mtu[name] = mtu
	if mtu < minMTU || mtu > maxMTU {
		c.fault(path+".mtu", fmt.Sprintf("choose %d to %d bytes, or leave it out for %d", minMTU, maxMTU, defaultMTU), "an MTU of %d is out of bounds", mtu)
	}
}

func (c *checker) bond(t *linkTable, path string, b Bond) {
	if !c.missing(path+".mode", b.Mode, "write active-backup or 802.3ad") && b.Mode != ModeActiveBackup && b.Mode != Mode8023ad {
		c.fault(path+".mode", "write active-backup or 802.3ad", "bond mode %s is not supported", quote(b.Mode))
	}
	if len(b.Links) == 0 {
		c.fault(path+".links", "name the links that it joins", "the bond has no links")
	}
	for i, name := range b.Links {
		p := at(path+".links", i)
		switch {
		case name == "":
		case t.kind[name] != "link":
			c.fault(p, "name one of network.links", "there is no link %s", quote(name))
		case t.bond[name] != "":
			c.fault(p, "put a link into one bond only, once", "link %q is already in bond %q", name, t.bond[name])
		default:
			t.bond[name] = b.Name
			if own := c.ownMTU(name); own != 0 && own != t.mtu[b.Name] {
				c.fault(p, "give the MTU at the bond only", "link %q has MTU %d, its bond %d", name, own, t.mtu[b.Name])
			}
		}
	}
}

// ownMTU is the MTU that a link itself gives, 0 if none.
func (c *checker) ownMTU(name string) int {
	for _, l := range c.doc.Network.Links {
		if l.Name == name {
			return l.MTU
		}
	}
	return 0
}

func (c *checker) vlans(t *linkTable) {
	tags := map[string]string{}
	for i, v := range c.doc.Network.VLANs {
		p := at("network.vlans", i)
		if v.ID < 1 || v.ID > maxVLAN {
			c.fault(p+".id", "choose 1 to 4094", "%d is no VLAN id", v.ID)
		}
		if c.missing(p+".link", v.Link, "name the link or bond that carries it") {
			continue
		}
		switch {
		case t.kind[v.Link] != "link" && t.kind[v.Link] != "bond":
			c.fault(p+".link", "name one of network.links or network.bonds", "there is no link or bond %s", quote(v.Link))
			continue
		case t.bond[v.Link] != "":
			c.fault(p+".link", "put the VLAN on the bond", "link %q belongs to bond %q", v.Link, t.bond[v.Link])
		}
		tag := fmt.Sprintf("%s.%d", v.Link, v.ID)
		if first, ok := tags[tag]; ok {
			c.fault(p+".id", "use each id once per link", "VLAN %d on %q is already %s", v.ID, v.Link, first)
		}
		tags[tag] = p
		mtu := v.MTU
		if mtu == 0 {
			mtu = t.mtu[v.Link]
		}
		c.mtu(t, p, v.Name, mtu)
		if mtu > t.mtu[v.Link] {
			c.fault(p+".mtu", "make it no greater than the link's", "MTU %d does not fit into the %d of %q", mtu, t.mtu[v.Link], v.Link)
		}
	}
}
