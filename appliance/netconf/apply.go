package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// maxRounds bounds Converge. Two are common; a bond under a VLAN that changes
// needs three.
const maxRounds = 6

// Converge makes the kernel look like cfg. It returns the state it ended in and
// how many actions it took; an error if something is left that could not be
// done.
func (k *Kernel) Converge(ctx context.Context, cfg config.Network) (State, int, error) {
	var fault error
	done := 0
	for round := 0; ; round++ {
		s, err := k.Read(ctx)
		if err != nil {
			return State{}, done, err
		}
		actions := Plan(cfg, s)
		switch {
		case len(actions) == 0:
			return s, done, nil
		case round == maxRounds && fault == nil:
			return s, done, fmt.Errorf("network does not settle: %s is undone each time", actions[0])
		case round == maxRounds || ctx.Err() != nil:
			return s, done, errors.Join(fault, ctx.Err())
		}
		fault = k.Apply(ctx, actions)
		done += len(actions)
	}
}

// Apply carries out actions in their order. One that fails does not keep the
// others from being tried; all faults come back joined. What is already so is no
// fault.
func (k *Kernel) Apply(ctx context.Context, actions []Action) error {
	var faults []error
	for _, a := range actions {
		if ctx.Err() != nil {
			return errors.Join(append(faults, ctx.Err())...)
		}
		if err := k.apply(a); err != nil && !a.settled(err) {
			faults = append(faults, fmt.Errorf("%s: %w", a, err))
		}
	}
	return errors.Join(faults...)
}

// settled reports whether err only says that there was nothing left to do.
func (a Action) settled(err error) bool {
	var gone netlink.LinkNotFoundError
	switch a.Op {
	case OpAddAddress, OpAddRoute:
		return errors.Is(err, unix.EEXIST)
	case OpDelete:
		return errors.As(err, &gone) || errors.Is(err, unix.ENODEV)
	case OpDeleteAddress:
		return errors.Is(err, unix.EADDRNOTAVAIL)
	case OpDeleteRoute:
		return errors.Is(err, unix.ESRCH)
	}
	return false
}

func (k *Kernel) apply(a Action) error {
	switch a.Op {
	case OpCreateBond:
		return k.createBond(a)
	case OpCreateVLAN:
		return k.createVLAN(a)
	}
	var link netlink.Link
	if a.Link != "" {
		l, err := k.handle.LinkByName(a.Link)
		if err != nil {
			return err
		}
		link = l
	}
	switch a.Op {
	case OpUp:
		return k.handle.LinkSetUp(link)
	case OpDown:
		return k.handle.LinkSetDown(link)
	case OpRename:
		return k.handle.LinkSetName(link, a.Other)
	case OpDelete:
		return k.handle.LinkDel(link)
	case OpSetMaster:
		return k.setMaster(link, a.Other)
	case OpNoMaster:
		return k.handle.LinkSetNoMaster(link)
	case OpSetMTU:
		return k.handle.LinkSetMTU(link, a.Number)
	case OpSetAddrGen:
		return k.handle.LinkSetIP6AddrGenMode(link, a.Number)
	case OpAddAddress, OpDeleteAddress:
		return k.address(link, a)
	case OpAddRoute, OpDeleteRoute:
		return k.route(link, a)
	}
	return fmt.Errorf("operation %q is not known", a.Op)
}

func (k *Kernel) createBond(a Action) error {
	bond := netlink.NewLinkBond(netlink.LinkAttrs{Name: a.Link})
	bond.Mode = netlink.StringToBondMode(a.Mode)
	bond.Miimon = miimon
	return k.handle.LinkAdd(bond)
}

func (k *Kernel) createVLAN(a Action) error {
	parent, err := k.handle.LinkByName(a.Other)
	if err != nil {
		return err
	}
	return k.handle.LinkAdd(&netlink.Vlan{
		LinkAttrs:    netlink.LinkAttrs{Name: a.Link, ParentIndex: parent.Attrs().Index},
		VlanId:       a.Number,
		VlanProtocol: netlink.VLAN_PROTOCOL_8021Q,
	})
}

func (k *Kernel) setMaster(link netlink.Link, name string) error {
	master, err := k.handle.LinkByName(name)
	if err != nil {
		return err
	}
	return k.handle.LinkSetMaster(link, master)
}

func (k *Kernel) address(link netlink.Link, a Action) error {
	addr := &netlink.Addr{IPNet: ipNet(a.Address)}
	if a.Op == OpDeleteAddress {
		return k.handle.AddrDel(link, addr)
	}
	if a.Address.Addr().Is6() {
		addr.Flags = unix.IFA_F_OPTIMISTIC // RFC 4429: usable at once
	}
	return k.handle.AddrAdd(link, addr)
}

func (k *Kernel) route(link netlink.Link, a Action) error {
	r := &netlink.Route{Dst: ipNet(a.Route.To), Priority: a.Route.Metric, Type: a.Route.Type, Protocol: unix.RTPROT_STATIC}
	if link != nil {
		r.LinkIndex = link.Attrs().Index
	}
	if a.Route.Via.IsValid() {
		r.Gw = a.Route.Via.AsSlice()
	}
	if a.Op == OpAddRoute {
		return k.handle.RouteAdd(r)
	}
	r.Protocol, r.Scope = unix.RTPROT_UNSPEC, netlink.Scope(unix.RT_SCOPE_NOWHERE) // whoever made it, however
	return k.handle.RouteDel(r)
}

// ipNet keeps the host bits: for an address they are what matters.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
