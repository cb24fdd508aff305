package netconf

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// network parses the network part of a configuration from short lines.
func network(t *testing.T, lines ...string) config.Network {
	t.Helper()
	var n config.Network
	for _, line := range lines {
		f := strings.Fields(line)
		switch f[0] {
		case "link": // link NAME MAC|PATH [MTU]
			l := config.Link{Name: f[1], MTU: 1500}
			if strings.HasPrefix(f[2], "pci-") {
				l.Path = f[2]
			} else {
				l.MAC = f[2]
			}
			n.Links = append(n.Links, l)
		case "jumbo": // jumbo NAME
			for i := range n.Links {
				if n.Links[i].Name == f[1] {
					n.Links[i].MTU = 9000
				}
			}
		case "bond": // bond NAME MODE LINK...
			n.Bonds = append(n.Bonds, config.Bond{Name: f[1], Mode: f[2], Links: f[3:], MTU: 1500})
		case "vlan": // vlan NAME LINK
			n.VLANs = append(n.VLANs, config.VLAN{Name: f[1], Link: f[2], ID: 20, MTU: 1500})
		case "interface": // interface NAME ADDRESS... [gw ADDRESS] [to NET via ADDRESS]
			n.Interfaces = append(n.Interfaces, iface(f[1], f[2:]))
		default:
			t.Fatalf("line %q", line)
		}
	}
	return n
}

func iface(name string, f []string) config.Interface {
	ifc := config.Interface{Name: name, Role: config.RoleTenant}
	for len(f) > 0 {
		switch f[0] {
		case "gw":
			ifc.Gateways = append(ifc.Gateways, netip.MustParseAddr(f[1]))
			f = f[2:]
		case "to":
			ifc.Routes = append(ifc.Routes, config.Route{To: netip.MustParsePrefix(f[1]), Via: netip.MustParseAddr(f[3])})
			f = f[4:]
		default:
			ifc.Addresses = append(ifc.Addresses, netip.MustParsePrefix(f[0]))
			f = f[1:]
		}
	}
	return ifc
}

func addr(p string) Address { return Address{Prefix: netip.MustParsePrefix(p)} }

func route(to, via string, dev, metric int) Route {
	r := Route{To: netip.MustParsePrefix(to), Dev: dev, Metric: metric, Type: unicast}
	if via != "" {
		r.Via = netip.MustParseAddr(via)
	}
	return r
}

const (
	macA = "52:54:00:50:46:01"
	macB = "52:54:00:50:46:02"
	macC = "52:54:00:50:46:03"
)

var lo = Link{Index: 1, Name: "lo", Kind: KindLoopback, MTU: 65536, Up: true, Addresses: []Address{addr("127.0.0.1/8"), addr("::1/128")}}

func card(index int, name, mac string) Link {
	return Link{Index: index, Name: name, Kind: KindCard, MAC: mac, MTU: 1500}
}

func TestPlan(t *testing.T) {
	up := func(l Link, addrs ...Address) Link {
		l.Up, l.Carrier, l.AddrGen, l.Addresses = true, true, AddrGenNone, addrs
		return l
	}
	six := func(l Link) Link { l.AddrGen = AddrGenEUI64; return l }
	one := []string{"link tenant0 " + macA, "interface tenant0 10.10.0.2/24"}
	tests := []struct {
		name  string
		cfg   []string
		state State
		want  []string
	}{
		{"no configuration, as booted",
			nil,
			State{Links: []Link{{Index: 1, Name: "lo", Kind: KindLoopback}, card(2, "eth0", macA)}},
			[]string{"up lo"}},
		{"no configuration, used before",
			nil,
			State{Links: []Link{lo, up(card(2, "eth0", macA), addr("10.0.0.1/8"), addr("fd00::1/64"))}, Routes: []Route{route("0.0.0.0/0", "10.0.0.9", 2, 0)}},
			[]string{"down eth0", "delete address eth0 10.0.0.1/8"}},
		{"first boot",
			[]string{"link tenant0 " + macA, "link mgmt0 pci-0000:00:03.0", "interface tenant0 10.10.0.2/24 fd10::2/64 gw 10.10.0.1 gw fe80::1", "interface mgmt0 10.30.0.2/24 to 192.0.2.0/24 via 10.30.0.1"},
			State{Links: []Link{lo, card(2, "eth0", macA), {Index: 3, Name: "eth1", Kind: KindCard, MAC: macB, Path: "pci-0000:00:03.0", MTU: 1500}}},
			[]string{
				"rename eth0 tenant0", "rename eth1 mgmt0", "set addrgen mgmt0 1", "up tenant0", "up mgmt0",
				"add address tenant0 10.10.0.2/24", "add address tenant0 fd10::2/64", "add address mgmt0 10.30.0.2/24",
				"add route tenant0 0.0.0.0/0 via 10.10.0.1", "add route tenant0 ::/0 via fe80::1", "add route mgmt0 192.0.2.0/24 via 10.30.0.1",
			}},
		{"nothing to do",
			[]string{"link tenant0 " + macA, "interface tenant0 10.10.0.2/24 fd10::2/64 gw 10.10.0.1 gw fd10::1"},
			State{Links: []Link{lo, six(up(card(2, "tenant0", macA), addr("10.10.0.2/24"), addr("fd10::2/64"), addr("fe80::5054:ff:fe50:4601/64")))},
				Routes: []Route{route("0.0.0.0/0", "10.10.0.1", 2, 0), route("::/0", "fd10::1", 2, 1024)}},
			nil},
		{"foreign addresses and routes",
			one,
			State{Links: []Link{
				{Index: 1, Name: "lo", Kind: KindLoopback, Up: true, Addresses: []Address{addr("127.0.0.1/8"), addr("192.0.2.1/32")}},
				up(card(2, "tenant0", macA), addr("10.10.0.2/24"), addr("10.10.0.3/24"), addr("fe80::1/64"), addr("10.10.0.2/25")),
			}, Routes: []Route{route("0.0.0.0/0", "10.10.0.9", 2, 0), route("192.0.2.0/24", "", 0, 0)}},
			[]string{"delete route tenant0 0.0.0.0/0 via 10.10.0.9", "delete route 192.0.2.0/24", "delete address lo 192.0.2.1/32",
				"delete address tenant0 10.10.0.3/24", "delete address tenant0 fe80::1/64", "delete address tenant0 10.10.0.2/25"}},
		{"an address with an end is not ours",
			one,
			State{Links: []Link{lo, up(card(2, "tenant0", macA), Address{Prefix: netip.MustParsePrefix("10.10.0.2/24"), Foreign: true})}},
			[]string{"delete address tenant0 10.10.0.2/24", "add address tenant0 10.10.0.2/24"}},
		{"another gateway, another metric",
			[]string{"link tenant0 " + macA, "interface tenant0 10.10.0.2/24 gw 10.10.0.1"},
			State{Links: []Link{lo, up(card(2, "tenant0", macA), addr("10.10.0.2/24"))}, Routes: []Route{route("0.0.0.0/0", "10.10.0.254", 2, 0), route("0.0.0.0/0", "10.10.0.1", 2, 50)}},
			[]string{"delete route tenant0 0.0.0.0/0 via 10.10.0.254", "delete route tenant0 0.0.0.0/0 via 10.10.0.1", "add route tenant0 0.0.0.0/0 via 10.10.0.1"}},
		{"an address moves to another link",
			[]string{"link a " + macA, "link b " + macB, "interface a 10.1.0.1/24", "interface b 10.10.0.2/24"},
			State{Links: []Link{lo, up(card(2, "a", macA), addr("10.10.0.2/24")), up(card(3, "b", macB), addr("10.1.0.1/24"))}},
			[]string{"delete address a 10.10.0.2/24", "delete address b 10.1.0.1/24", "add address a 10.1.0.1/24", "add address b 10.10.0.2/24"}},
		{"IPv6 comes to a running link",
			[]string{"link a " + macA, "interface a 10.1.0.1/24 fd10::2/64 gw 10.1.0.9"},
			State{Links: []Link{lo, up(card(2, "a", macA), addr("10.1.0.1/24"))}, Routes: []Route{route("0.0.0.0/0", "10.1.0.9", 2, 0)}},
			[]string{"down a", "set addrgen a 0", "up a", "add address a fd10::2/64", "add route a 0.0.0.0/0 via 10.1.0.9"}},
		{"cards swap names, and a stranger has one",
			[]string{"link eth0 " + macB, "link eth1 " + macA, "link eth2 " + macC},
			State{Links: []Link{lo, card(2, "eth0", macA), card(3, "eth1", macB), up(card(4, "eth2", "02:00:00:00:00:09")), card(5, "eth3", macC)}},
			[]string{"rename eth0 spare2", "rename eth1 spare3", "down eth2", "rename eth2 spare4",
				"rename spare3 eth0", "rename spare2 eth1", "rename eth3 eth2",
				"set addrgen eth0 1", "set addrgen eth1 1", "set addrgen eth2 1", "up eth0", "up eth1", "up eth2"}},
		{"MTU",
			[]string{"link a " + macA, "jumbo a"},
			State{Links: []Link{lo, up(card(2, "a", macA))}},
			[]string{"set mtu a 9000"}},
		{"a missing card keeps nobody from working",
			[]string{"link a " + macA, "link b " + macB, "vlan b.20 b", "interface a 10.1.0.1/24", "interface b.20 10.2.0.1/24 gw 10.2.0.9"},
			State{Links: []Link{lo, up(card(2, "a", macA))}},
			[]string{"add address a 10.1.0.1/24"}},
		{"two cards of one MAC are both left alone",
			one,
			State{Links: []Link{lo, card(2, "eth0", macA), card(3, "eth1", macA)}},
			nil},
		{"a bond is made",
			[]string{"link p0 " + macA, "link p1 " + macB, "bond bond0 802.3ad p0 p1", "vlan v20 bond0", "interface v20 10.1.0.1/24"},
			State{Links: []Link{lo, up(card(2, "p0", macA), addr("10.9.0.1/24")), card(3, "eth1", macB)}},
			[]string{"rename eth1 p1", "create bond bond0 802.3ad", "down p0", "set master p0 bond0", "set master p1 bond0",
				"create vlan v20 bond0 20", "set addrgen bond0 1", "set addrgen v20 1", "up bond0", "up v20", "delete address p0 10.9.0.1/24", "add address v20 10.1.0.1/24"}},
		{"a bond of another mode is made anew, its VLAN with it",
			[]string{"link p0 " + macA, "bond bond0 802.3ad p0", "vlan v20 bond0"},
			State{Links: []Link{lo, {Index: 2, Name: "p0", Kind: KindCard, MAC: macA, MTU: 1500, Up: true, Master: 3},
				{Index: 3, Name: "bond0", Kind: KindBond, Mode: "active-backup", Miimon: 100, MTU: 1500, Up: true, AddrGen: AddrGenNone},
				{Index: 4, Name: "v20", Kind: KindVLAN, Parent: 3, VLAN: 20, MTU: 1500, Up: true, AddrGen: AddrGenNone}}},
			[]string{"delete v20", "delete bond0", "create bond bond0 802.3ad", "set master p0 bond0", "create vlan v20 bond0 20",
				"set addrgen bond0 1", "set addrgen v20 1", "up bond0", "up v20"}},
		{"unwanted bond and VLAN go, and the card is free",
			one,
			State{Links: []Link{lo, {Index: 2, Name: "tenant0", Kind: KindCard, MAC: macA, MTU: 1500, Up: true, Master: 3, AddrGen: AddrGenNone},
				{Index: 3, Name: "bond0", Kind: KindBond, Mode: "802.3ad", Up: true}, {Index: 4, Name: "v20", Kind: KindVLAN, Parent: 3, VLAN: 20}}},
			[]string{"delete v20", "delete bond0", "up tenant0", "add address tenant0 10.10.0.2/24"}},
		{"a VLAN of another id is made anew",
			[]string{"link a " + macA, "vlan v20 a"},
			State{Links: []Link{lo, up(card(2, "a", macA)), {Index: 3, Name: "v20", Kind: KindVLAN, Parent: 2, VLAN: 21, MTU: 1500, AddrGen: AddrGenNone}}},
			[]string{"delete v20", "create vlan v20 a 20", "set addrgen v20 1", "up v20"}},
		{"a card leaves a bond that stays",
			[]string{"link p0 " + macA, "link p1 " + macB, "bond bond0 active-backup p0", "interface p1 10.1.0.1/24"},
			State{Links: []Link{lo, {Index: 2, Name: "p0", Kind: KindCard, MAC: macA, MTU: 1500, Up: true, Master: 4},
				{Index: 3, Name: "p1", Kind: KindCard, MAC: macB, MTU: 1500, Up: true, Master: 4, AddrGen: AddrGenNone},
				{Index: 4, Name: "bond0", Kind: KindBond, Mode: "active-backup", Miimon: 100, MTU: 1500, Up: true, AddrGen: AddrGenNone}}},
			[]string{"no master p1", "up p1", "add address p1 10.1.0.1/24"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, a := range Plan(network(t, tt.cfg...), tt.state) {
				got = append(got, a.String())
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}
