package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bounds of the talk with the kernel.
const (
	// maxDumps is how often a dump is asked for again when the kernel says that
	// it changed meanwhile (NLM_F_DUMP_INTR), as it does while our own addresses
	// run duplicate address detection.
	maxDumps = 10
	// netlinkTimeout bounds the wait for one answer.
	netlinkTimeout = 10 * time.Second
)

// Kernel is the network of the namespace in which it was opened. It is for one
// goroutine, but for Watch.
type Kernel struct {
	handle *netlink.Handle
	sys    string // where sysfs is
	proc   string // where /proc/sys/net is
}

// Open connects to the kernel's rtnetlink. Changing anything needs
// CAP_NET_ADMIN; reading needs nothing.
func Open() (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	if err := h.SetSocketTimeout(netlinkTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	return &Kernel{handle: h, sys: "/sys", proc: "/proc/sys/net"}, nil
}

// Close gives the connection back.
func (k *Kernel) Close() { k.handle.Close() }

// dump repeats a query whose answer the kernel calls inconsistent.
func dump[T any](ctx context.Context, what string, query func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		answer, err := query()
		switch {
		case err == nil:
			return answer, nil
		case !errors.Is(err, netlink.ErrDumpInterrupted) || try == maxDumps:
			return nil, fmt.Errorf("read %s: %w", what, err)
		case ctx.Err() != nil:
			return nil, fmt.Errorf("read %s: %w", what, ctx.Err())
		}
	}
}

// Read takes the state of the kernel's network. Links, addresses and routes are
// read one after the other; a change in between shows at the next Read.
func (k *Kernel) Read(ctx context.Context) (State, error) {
	links, err := dump(ctx, "links", k.handle.LinkList)
	if err != nil {
		return State{}, err
	}
	addrs, err := dump(ctx, "addresses", func() ([]netlink.Addr, error) { return k.handle.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return State{}, err
	}
	var s State
	for _, l := range links {
		link := k.link(l)
		for _, a := range addrs {
			if a.LinkIndex == link.Index {
				link.Addresses = append(link.Addresses, newAddress(a))
			}
		}
		s.Links = append(s.Links, link)
	}
	slices.SortFunc(s.Links, func(a, b Link) int { return a.Index - b.Index })
	s.Routes, err = k.routes(ctx)
	return s, err
}

func (k *Kernel) link(l netlink.Link) Link {
	a := l.Attrs()
	out := Link{
		Index: a.Index, Name: a.Name, Kind: KindCard, MAC: permanentMAC(a), MTU: a.MTU,
		Up:      a.Flags&net.FlagUp != 0,
		Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0,
		AddrGen: AddrGenUnknown,
	}
	switch t := l.(type) {
	case *netlink.Bond:
		out.Kind, out.Mode, out.Miimon = KindBond, t.Mode.String(), t.Miimon
	case *netlink.Vlan:
		out.Kind, out.Parent = KindVLAN, a.ParentIndex
		if t.VlanProtocol == netlink.VLAN_PROTOCOL_8021Q {
			out.VLAN = t.VlanId
		}
	}
	if a.Flags&net.FlagLoopback != 0 {
		out.Kind = KindLoopback
	}
	if a.Slave != nil && a.Slave.SlaveType() == "bond" {
		out.Master = a.MasterIndex
	}
	if out.Kind == KindCard {
		out.Path = pathOf(k.sys, a.Name)
	}
	if mode, ok := k.ipv6Setting(a.Name, "addr_gen_mode"); ok {
		out.AddrGen = mode
		ra, _ := k.ipv6Setting(a.Name, "accept_ra")
		forwarding, _ := k.ipv6Setting(a.Name, "forwarding")
		out.AcceptRA, out.Forwarding = ra != 0, forwarding != 0
	}
	return out
}

// permanentMAC is by what a card is known also while it belongs to a bond, which
// lends it another MAC.
func permanentMAC(a *netlink.LinkAttrs) string {
	if len(a.PermHWAddr) > 0 {
		return a.PermHWAddr.String()
	}
	if slave, ok := a.Slave.(*netlink.BondSlave); ok && len(slave.PermHardwareAddr) > 0 {
		return slave.PermHardwareAddr.String()
	}
	return a.HardwareAddr.String()
}

// ipv6Setting reads one number under net.ipv6.conf of a link.
func (k *Kernel) ipv6Setting(link, name string) (int, bool) {
	data, err := os.ReadFile(filepath.Join(k.proc, "ipv6/conf", link, name))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	return n, err == nil
}

func newAddress(a netlink.Addr) Address {
	foreign := a.Peer != nil || a.Flags&unix.IFA_F_PERMANENT == 0
	return Address{Prefix: prefixOf(a.IPNet), Foreign: foreign, Duplicate: a.Flags&unix.IFA_F_DADFAILED != 0}
}

// prefixOf turns the library's form into ours; the zero prefix for nil.
func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if bits == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, ones)
}

// routes reads the main table, without what the kernel enters by itself for the
// addresses of a link.
func (k *Kernel) routes(ctx context.Context) ([]Route, error) {
	all, err := dump(ctx, "routes", func() ([]netlink.Route, error) { return k.handle.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	var routes []Route
	for _, r := range all {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		route := Route{To: prefixOf(r.Dst), Dev: r.LinkIndex, Metric: r.Priority, Type: r.Type}
		if !route.To.IsValid() {
			route.To = defaultOf(netip.IPv4Unspecified())
			if r.Family == netlink.FAMILY_V6 {
				route.To = defaultOf(netip.IPv6Unspecified())
			}
		}
		if via, ok := netip.AddrFromSlice(r.Gw); ok {
			route.Via = via.Unmap()
		}
		routes = append(routes, route)
	}
	return routes, nil
}
