package netconf

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// miimon is how often a bond looks at its links, in milliseconds.
const miimon = 100

// Plan lists the actions that make the kernel look like cfg, in an order in
// which they can be carried out. It is empty if nothing is missing. The zero
// Network means: loopback only. Links of cfg that the kernel does not have are
// left out (see Check).
func Plan(cfg config.Network, s State) []Action {
	p := newPlanner(cfg, s)
	p.loopback()
	p.deleteStale()
	p.names()
	p.bonds()
	p.vlans()
	p.freeUnused()
	p.settings()
	p.bringUp()
	p.deleteRoutes()
	p.addresses()
	p.addRoutes()
	return p.actions
}

// planner holds a copy of the kernel's state and changes it as its actions
// would, so that later steps see what earlier ones did.
type planner struct {
	cfg     config.Network
	links   map[int]*Link // by index; links yet to be made have negative ones
	routes  []Route
	cards   map[string]int // name in cfg → index
	managed map[int]bool   // links that cfg names
	actions []Action
}

func newPlanner(cfg config.Network, s State) *planner {
	p := &planner{cfg: cfg, links: map[int]*Link{}, routes: slices.Clone(s.Routes), cards: map[string]int{}, managed: map[int]bool{}}
	for _, l := range s.Links {
		l.Addresses = slices.Clone(l.Addresses)
		p.links[l.Index] = &l
	}
	for _, l := range cfg.Links {
		if found := cardsOf(l, s); len(found) == 1 {
			p.cards[l.Name] = found[0].Index
			p.managed[found[0].Index] = true
		}
	}
	return p
}

// cardsOf gives the cards that a link of the configuration describes; one, if
// all is well.
func cardsOf(want config.Link, s State) []Link {
	var found []Link
	for _, l := range s.Links {
		if l.Kind == KindCard && (want.MAC != "" && l.MAC == want.MAC || want.Path != "" && l.Path == want.Path) {
			found = append(found, l)
		}
	}
	return found
}

// sorted gives the links in the order of their indexes, those to be made last.
func (p *planner) sorted() []*Link {
	order := slices.SortedFunc(maps.Keys(p.links), func(a, b int) int {
		if (a < 0) != (b < 0) {
			return b - a
		}
		return max(a, -a) - max(b, -b)
	})
	all := make([]*Link, len(order))
	for i, index := range order {
		all[i] = p.links[index]
	}
	return all
}

func (p *planner) byName(name string) *Link {
	for _, l := range p.links {
		if l.Name == name {
			return l
		}
	}
	return nil
}

func (p *planner) do(a Action) { p.actions = append(p.actions, a) }

// down sets a link down; the kernel then drops its IPv6 addresses and routes.
func (p *planner) down(l *Link) {
	if !l.Up {
		return
	}
	p.do(Action{Op: OpDown, Link: l.Name})
	l.Up = false
	l.Addresses = slices.DeleteFunc(l.Addresses, func(a Address) bool { return a.Prefix.Addr().Is6() })
	p.routes = slices.DeleteFunc(p.routes, func(r Route) bool { return r.Dev == l.Index })
}

func (p *planner) loopback() {
	for _, l := range p.sorted() {
		if l.Kind == KindLoopback && !l.Up {
			p.do(Action{Op: OpUp, Link: l.Name})
			l.Up = true
		}
	}
}

// deleteStale deletes bonds and VLANs that cfg does not want, or wants otherwise
// than they can be changed. VLANs go first: a bond takes its VLANs along.
func (p *planner) deleteStale() {
	for _, kind := range []string{KindVLAN, KindBond} {
		for _, l := range p.sorted() {
			if l.Kind == kind && !p.wanted(l) {
				p.do(Action{Op: OpDelete, Link: l.Name})
				p.forget(l)
			}
		}
	}
}

// wanted reports whether a bond or VLAN is as cfg wants it.
func (p *planner) wanted(l *Link) bool {
	for _, b := range p.cfg.Bonds {
		if l.Kind == KindBond && b.Name == l.Name {
			return b.Mode == l.Mode && l.Miimon == miimon
		}
	}
	for _, v := range p.cfg.VLANs {
		if l.Kind == KindVLAN && v.Name == l.Name {
			parent, ok := p.cards[v.Link]
			if below := p.links[l.Parent]; !ok && below != nil && below.Kind == KindBond && below.Name == v.Link && p.wanted(below) {
				parent, ok = below.Index, true
			}
			return ok && v.ID == l.VLAN && parent == l.Parent
		}
	}
	return false
}

// forget takes a deleted link out of the planner's picture.
func (p *planner) forget(l *Link) {
	delete(p.links, l.Index)
	p.routes = slices.DeleteFunc(p.routes, func(r Route) bool { return r.Dev == l.Index })
	for _, other := range p.links {
		if other.Master == l.Index {
			other.Master, other.Up = 0, false // the bond closes what it lets go
		}
	}
}

// names gives every card its name. Whoever has it without a right to it steps
// aside first, so that two cards may also swap names.
func (p *planner) names() {
	owner := map[string]int{}
	for name, index := range p.cards {
		owner[name] = index
	}
	for _, b := range p.cfg.Bonds {
		owner[b.Name] = 0
	}
	for _, v := range p.cfg.VLANs {
		owner[v.Name] = 0
	}
	for _, l := range p.sorted() {
		index, taken := owner[l.Name]
		if taken && index != l.Index && l.Kind == KindCard {
			p.rename(l, fmt.Sprintf("spare%d", l.Index))
		}
	}
	for _, want := range p.cfg.Links {
		if index, ok := p.cards[want.Name]; ok && p.links[index].Name != want.Name {
			p.rename(p.links[index], want.Name)
		}
	}
}

func (p *planner) rename(l *Link, name string) {
	p.down(l)
	p.do(Action{Op: OpRename, Link: l.Name, Other: name})
	l.Name = name
}

// bonds makes missing bonds and puts their links into them.
func (p *planner) bonds() {
	for _, b := range p.cfg.Bonds {
		bond := p.byName(b.Name)
		if bond == nil {
			p.do(Action{Op: OpCreateBond, Link: b.Name, Mode: b.Mode})
			bond = p.create(Link{Name: b.Name, Kind: KindBond, Mode: b.Mode, Miimon: miimon, MTU: defaultMTU})
		}
		p.managed[bond.Index] = true
		for _, name := range b.Links {
			index, ok := p.cards[name]
			if l := p.links[index]; ok && l.Master != bond.Index {
				p.release(l)
				p.down(l)
				p.do(Action{Op: OpSetMaster, Link: l.Name, Other: bond.Name})
				l.Master, l.Up = bond.Index, true // the bond opens it
			}
		}
	}
}

// defaultMTU is what the kernel gives a new bond.
const defaultMTU = 1500

// create enters a link that will be made.
func (p *planner) create(l Link) *Link {
	l.Index = -1
	for p.links[l.Index] != nil {
		l.Index--
	}
	l.AddrGen = AddrGenEUI64
	p.links[l.Index] = &l
	return &l
}

func (p *planner) release(l *Link) {
	if l.Master != 0 {
		p.do(Action{Op: OpNoMaster, Link: l.Name})
		l.Master, l.Up = 0, false // the bond closes what it lets go
	}
}

func (p *planner) vlans() {
	for _, v := range p.cfg.VLANs {
		parent := p.byName(v.Link)
		if parent == nil || !p.managed[parent.Index] {
			continue // its card is missing
		}
		vlan := p.byName(v.Name)
		if vlan == nil {
			p.do(Action{Op: OpCreateVLAN, Link: v.Name, Other: v.Link, Number: v.ID})
			vlan = p.create(Link{Name: v.Name, Kind: KindVLAN, VLAN: v.ID, Parent: parent.Index, MTU: parent.MTU})
		}
		p.managed[vlan.Index] = true
	}
}

// freeUnused sets down and strips what cfg does not name, and takes cards out of
// bonds that do not want them.
func (p *planner) freeUnused() {
	members := map[string]string{}
	for _, b := range p.cfg.Bonds {
		for _, name := range b.Links {
			members[name] = b.Name
		}
	}
	for _, l := range p.sorted() {
		if bond := p.links[l.Master]; bond != nil && members[l.Name] != bond.Name {
			p.release(l)
		}
		if p.managed[l.Index] || l.Kind == KindLoopback {
			continue
		}
		p.down(l)
		for _, a := range l.Addresses {
			p.do(Action{Op: OpDeleteAddress, Link: l.Name, Address: a.Prefix})
		}
		l.Addresses = nil
	}
}

// settings brings MTU and link-local mode into line, parents before VLANs.
func (p *planner) settings() {
	mtu := map[string]int{}
	for _, l := range p.cfg.Links {
		mtu[l.Name] = l.MTU
	}
	for _, b := range p.cfg.Bonds {
		mtu[b.Name] = b.MTU
	}
	for _, v := range p.cfg.VLANs {
		mtu[v.Name] = v.MTU
	}
	for _, l := range p.inOrder() {
		if l.Master != 0 {
			continue // the bond sees to its links
		}
		if want := mtu[l.Name]; want != 0 && l.MTU != want {
			p.do(Action{Op: OpSetMTU, Link: l.Name, Number: want})
			l.MTU = want
		}
		want := AddrGenNone
		if p.hasIPv6(l.Name) {
			want = AddrGenEUI64
		}
		if l.AddrGen != want && l.AddrGen != AddrGenUnknown {
			p.down(l)
			p.do(Action{Op: OpSetAddrGen, Link: l.Name, Number: want})
			l.AddrGen = want
		}
	}
}

// inOrder gives the managed links as cfg has them: cards, bonds, VLANs.
func (p *planner) inOrder() []*Link {
	var names []string
	for _, l := range p.cfg.Links {
		names = append(names, l.Name)
	}
	for _, b := range p.cfg.Bonds {
		names = append(names, b.Name)
	}
	for _, v := range p.cfg.VLANs {
		names = append(names, v.Name)
	}
	var found []*Link
	for _, name := range names {
		if l := p.byName(name); l != nil && p.managed[l.Index] {
			found = append(found, l)
		}
	}
	return found
}

func (p *planner) hasIPv6(name string) bool {
	return slices.ContainsFunc(p.interfaceOf(name).Addresses, func(a netip.Prefix) bool { return a.Addr().Is6() })
}

// interfaceOf gives addresses and routes of a link, empty for one without a role.
func (p *planner) interfaceOf(name string) config.Interface {
	for _, ifc := range p.cfg.Interfaces {
		if ifc.Name == name {
			return ifc
		}
	}
	return config.Interface{}
}

func (p *planner) bringUp() {
	for _, l := range p.inOrder() {
		if !l.Up {
			p.do(Action{Op: OpUp, Link: l.Name})
			l.Up = true
		}
	}
}
