// Package lan is a virtual network in the test process: one Ethernet segment
// per Network, on which QEMU guests and the peers of a scenario (tenant mail
// servers, the De-Mail provider, revocation lists, update repositories) live
// with addresses of their own. It needs no root and touches no interface of
// the host.
//
// Guests join through a Unix socket that speaks the framing of QEMU's
// "-netdev stream" (a 32-bit big-endian length before each Ethernet frame).
// The peers share one user-space TCP/IP stack per network (gVisor's netstack);
// [Network.Listen] and [Network.Dial] give ordinary net.Listener and net.Conn.
//
// Frames of one guest reach every other guest and the stack (a hub, not a
// switch): that keeps IPv6 neighbour discovery working, which ready-made
// user-space switches that forward only broadcasts lose, and costs nothing at
// this size. A guest that does not read loses frames, as on a real wire;
// queues are bounded.
package lan

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	nic       = tcpip.NICID(1)
	mtu       = 1500
	frameMax  = 64 << 10 // longest frame taken from a guest, in bytes
	queueLen  = 1024     // frames waiting for a guest or for the stack
	maxGuests = 16       // guests on one network
)

// Network is one Ethernet segment. Its methods may be called concurrently.
type Network struct {
	socket   string
	listener net.Listener
	stack    *stack.Stack
	link     *channel.Endpoint

	mu     sync.Mutex
	guests map[*guest]bool
	wait   sync.WaitGroup
	stop   context.CancelFunc
}

// New makes a network whose guests connect to the Unix socket path socket
// (at most 107 bytes, a limit of Unix sockets; it must not exist yet). The
// peers own the given addresses, each with its prefix length. Close ends it.
func New(socket string, addresses ...netip.Prefix) (*Network, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("lan: listen for guests: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &Network{
		socket:   socket,
		listener: listener,
		link:     channel.New(queueLen, mtu+14, linkAddress(socket)),
		guests:   map[*guest]bool{},
		stop:     cancel,
	}
	if err := n.startStack(addresses); err != nil {
		cancel()
		return nil, errors.Join(err, listener.Close())
	}
	n.wait.Go(func() { n.fromStack(ctx) })
	n.wait.Go(n.accept)
	return n, nil
}

// linkAddress derives a locally administered MAC address from the socket's
// name, so that two networks of one test never share one.
func linkAddress(socket string) tcpip.LinkAddress {
	h := uint32(2166136261)
	for _, c := range []byte(socket) {
		h = (h ^ uint32(c)) * 16777619
	}
	return tcpip.LinkAddress([]byte{0x02, 0x50, byte(h >> 24), byte(h >> 16), byte(h >> 8), byte(h)})
}

func (n *Network) startStack(addresses []netip.Prefix) error {
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	sack := tcpip.TCPSACKEnabled(true)
	n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack)
	if err := n.stack.CreateNIC(nic, ethernet.New(n.link)); err != nil {
		return fmt.Errorf("lan: create interface: %s", err)
	}
	var routes []tcpip.Route
	for _, p := range addresses {
		addr := tcpip.ProtocolAddress{Protocol: protocol(p.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFromSlice(p.Addr().AsSlice()), PrefixLen: p.Bits(),
		}}
		if err := n.stack.AddProtocolAddress(nic, addr, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("lan: add address %s: %s", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: addr.AddressWithPrefix.Subnet(), NIC: nic})
	}
	n.stack.SetRouteTable(routes)
	return nil
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(a.Addr().AsSlice()), Port: a.Port()}
}

// Socket is the path that guests connect to.
func (n *Network) Socket() string { return n.socket }

// Listen opens a TCP listener on one of the network's own addresses.
func (n *Network) Listen(at netip.AddrPort) (net.Listener, error) {
	l, err := gonet.ListenTCP(n.stack, full(at), protocol(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("lan: listen on %s: %w", at, err)
	}
	return l, nil
}

// ListenPacket opens a UDP socket on one of the network's own addresses.
func (n *Network) ListenPacket(at netip.AddrPort) (net.PacketConn, error) {
	local := full(at)
	c, err := gonet.DialUDP(n.stack, &local, nil, protocol(at.Addr()))
	if err != nil {
		return nil, fmt.Errorf("lan: listen on udp %s: %w", at, err)
	}
	return c, nil
}

// Dial connects from the network's own address from (port 0 chooses one) to a
// guest. It gives up when ctx ends.
func (n *Network) Dial(ctx context.Context, from netip.Addr, to netip.AddrPort) (net.Conn, error) {
	c, err := gonet.DialTCPWithBind(ctx, n.stack, full(netip.AddrPortFrom(from, 0)), full(to), protocol(to.Addr()))
	if err != nil {
		return nil, fmt.Errorf("lan: dial %s from %s: %w", to, from, err)
	}
	return c, nil
}

// Close disconnects the guests, stops the stack and waits for both.
func (n *Network) Close() error {
	n.stop()
	err := n.listener.Close()
	n.mu.Lock()
	for g := range n.guests {
		_ = g.conn.Close()
	}
	n.mu.Unlock()
	n.link.Close()
	n.wait.Wait()
	n.stack.Destroy()
	if rm := os.Remove(n.socket); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}

// toStack hands a guest's frame to the peers' stack.
func (n *Network) toStack(frame []byte) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
	n.link.InjectInbound(0, pkt)
	pkt.DecRef()
}

// fromStack sends the peers' frames to every guest until ctx ends.
func (n *Network) fromStack(ctx context.Context) {
	for {
		pkt := n.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		view := pkt.ToView()
		frame := append([]byte(nil), view.AsSlice()...)
		view.Release()
		pkt.DecRef()
		n.flood(nil, frame)
	}
}

// flood queues a frame for every guest but the one it came from.
func (n *Network) flood(from *guest, frame []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for g := range n.guests {
		if g == from {
			continue
		}
		select {
		case g.out <- frame:
		default: // the wire is full: the frame is lost, TCP sends it again
		}
	}
}
