// Package netconf makes the kernel's network look like the configuration:
// links, bonds, VLANs, addresses, routes and the list of name servers. It is the
// only package that speaks rtnetlink.
//
// # How
//
// Read takes the kernel's State. Plan, which is pure, compares it with a
// config.Network and lists the Actions that are missing. Apply carries them out.
// Converge repeats the three until Plan has nothing left, because some actions
// have effects that only the kernel knows (a link that goes down loses its IPv6
// addresses and routes).
//
// # Promises
//
//   - Idempotent: after Converge a second Plan is empty, and stays so.
//   - Whole: what the configuration does not name is not there. Bonds and VLANs
//     that nobody wants are deleted; foreign addresses and routes are removed, on
//     the loopback too; network cards without a use are set down and stripped.
//   - Network cards are found by MAC (the permanent one, where the driver tells
//     it) or by PCI path, never by the name that the kernel gave them, and are
//     renamed.
//   - Static: no DHCP, no router advertisements, no IPv6 autoconfiguration. An
//     interface without an IPv6 address gets no link-local one either.
//   - Every repetition is bounded: dumps that the kernel interrupts, rounds of
//     Converge.
//
// # Not done
//
// Only the main routing table is looked at, and no rules. Settings under
// /proc/sys are the image's business (sysctl.d); Check reports those that would
// let somebody else configure the box. A card that is missing is reported by
// Check and does not keep the others from working.
//
// IPv6 addresses are added as optimistic (RFC 4429): usable at once, while
// duplicate address detection still runs. The kernel heeds that only where the
// image's sysctl.d sets optimistic_dad. Check reports the duplicates.
package netconf

import (
	"fmt"
	"net/netip"
	"strings"
)

// State is what Plan needs to know of the kernel. It is a value: nothing in it
// is shared with the kernel.
type State struct {
	Links  []Link
	Routes []Route // of the main table, without the kernel's own
}

// Kinds of links. A network card has KindCard, whatever its driver.
const (
	KindCard     = "card"
	KindLoopback = "loopback"
	KindBond     = "bond"
	KindVLAN     = "vlan"
)

// Modes of IPv6 link-local addresses (addr_gen_mode in the kernel's
// ip-sysctl.rst).
const (
	AddrGenEUI64   = 0
	AddrGenNone    = 1
	AddrGenUnknown = -1 // the kernel has no IPv6
)

// Link is one link of the kernel.
type Link struct {
	Index   int
	Name    string
	Kind    string
	MAC     string // the permanent one if known, in lower case
	Path    string // "pci-0000:00:03.0", empty if it hangs on no PCI bus
	MTU     int
	Up      bool // as administered
	Carrier bool // as the cable has it
	Master  int  // index of the bond that it belongs to, or 0
	Parent  int  // of a VLAN: index of the link below
	VLAN    int  // of a VLAN: its id
	Mode    string
	Miimon  int // of a bond: milliseconds between looks at its links
	AddrGen int
	// AcceptRA and Forwarding are the link's IPv6 settings; false if unknown.
	AcceptRA   bool
	Forwarding bool
	Addresses  []Address
}

// Address is one address of a link.
type Address struct {
	Prefix    netip.Prefix
	Foreign   bool // has a peer or an end: not one that Apply makes
	Duplicate bool // another machine has it (duplicate address detection)
}

// Route is one route. Dev is the index of its link, 0 for one with several.
type Route struct {
	To     netip.Prefix
	Via    netip.Addr // zero for none
	Dev    int
	Metric int
	Type   int // RTN_*; 1 is unicast
}

// Op is what an Action does.
type Op string

// The operations. Those on links name them as they are called at that moment.
const (
	OpUp            Op = "up"
	OpDown          Op = "down"
	OpRename        Op = "rename"
	OpDelete        Op = "delete"
	OpCreateBond    Op = "create bond"
	OpCreateVLAN    Op = "create vlan"
	OpSetMaster     Op = "set master"
	OpNoMaster      Op = "no master"
	OpSetMTU        Op = "set mtu"
	OpSetAddrGen    Op = "set addrgen"
	OpAddAddress    Op = "add address"
	OpDeleteAddress Op = "delete address"
	OpAddRoute      Op = "add route"
	OpDeleteRoute   Op = "delete route"
)

// Action is one change of the kernel. Only the fields that String shows for its
// Op have a meaning.
type Action struct {
	Op      Op
	Link    string
	Other   string // new name, master or parent
	Number  int    // MTU, VLAN id or AddrGen mode
	Mode    string // of a bond
	Address netip.Prefix
	Route   Route // Dev is not used: Link is
}

// String is the action as a line for logs and tests.
func (a Action) String() string {
	parts := []any{a.Op}
	if a.Link != "" {
		parts = append(parts, a.Link)
	}
	switch a.Op {
	case OpRename, OpSetMaster:
		parts = append(parts, a.Other)
	case OpCreateBond:
		parts = append(parts, a.Mode)
	case OpCreateVLAN:
		parts = append(parts, a.Other, a.Number)
	case OpSetMTU, OpSetAddrGen:
		parts = append(parts, a.Number)
	case OpAddAddress, OpDeleteAddress:
		parts = append(parts, a.Address)
	case OpAddRoute, OpDeleteRoute:
		parts = append(parts, a.Route.To)
		if a.Route.Via.IsValid() {
			parts = append(parts, "via", a.Route.Via)
		}
	}
	return strings.TrimSuffix(fmt.Sprintln(parts...), "\n")
}
