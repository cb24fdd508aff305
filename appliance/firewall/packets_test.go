package firewall

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"gitlab.opencode.de/pforte/pforte/appliance/netconf"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf/netnstest"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	patience   = 10 * time.Second       // for what must happen
	impatience = 250 * time.Millisecond // for what must not
)

// world is the box of the example configuration, in the test's network, with one
// machine on each of its networks.
type world struct {
	t                        *testing.T
	doc                      *config.Document
	tenant, provider, admins *netnstest.Machine
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, doc: document(t)}
	w.tenant = w.plug("52:54:00:50:46:01", "10.10.0.2", "10.10.0.11/24", "fd10:10::11/64")
	w.provider = w.plug("52:54:00:50:46:02", "10.20.0.2", "10.20.0.10/24", "10.20.0.11/24")
	w.admins = w.plug("52:54:00:50:46:03", "10.30.0.2", "10.30.0.10/24", "10.30.0.20/24")
	k, err := netconf.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, _, err := k.Converge(t.Context(), w.doc.Network); err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{22, layout.PortSMTP, layout.PortSubmission, layout.PortProvider, layout.PortManagement} {
		w.serve(nil, port)
	}
	for m, ports := range map[*netnstest.Machine][]int{w.tenant: {25, 465, 587}, w.provider: {80, 1465, 443}, w.admins: {80, 8080}} {
		for _, port := range ports {
			w.serve(m, port)
		}
	}
	return w
}

// plug connects a machine to the box's card of that MAC. The machine sends
// everything that is not on its network to the box.
func (w *world) plug(mac, gateway string, addrs ...string) *netnstest.Machine {
	w.t.Helper()
	m := netnstest.NewMachine(w.t)
	hw, err := net.ParseMAC(mac)
	must(w.t, err)
	must(w.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v" + mac[15:], HardwareAddr: hw}, PeerName: "far"}))
	far, err := netlink.LinkByName("far")
	must(w.t, err)
	must(w.t, netlink.LinkSetNsPid(far, m.TID()))
	m.Do(func() {
		far, err := netlink.LinkByName("far")
		faults := []error{err, netlink.LinkSetUp(far)}
		for _, a := range addrs {
			n, err := netlink.ParseAddr(a)
			n.Flags |= 2 // IFA_F_NODAD: usable at once
			faults = append(faults, err, netlink.AddrAdd(far, n))
		}
		faults = append(faults, netlink.RouteAdd(&netlink.Route{LinkIndex: far.Attrs().Index, Gw: net.ParseIP(gateway)}))
		if err := errors.Join(faults...); err != nil {
			w.t.Error(err)
		}
	})
	return m
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// on runs f on a machine, or on the box itself for nil.
func on(m *netnstest.Machine, f func()) {
	if m == nil {
		f()
		return
	}
	m.Do(f)
}

// serve answers connections on a port, of all addresses, with one byte.
func (w *world) serve(m *netnstest.Machine, port int) {
	w.t.Helper()
	var ln net.Listener
	var err error
	on(m, func() { ln, err = net.Listen("tcp", ":"+strconv.Itoa(port)) })
	must(w.t, err)
	w.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = c.Write([]byte("!")); _, _ = c.Read(make([]byte, 1)); c.Close() }()
		}
	}()
}

// connects checks whether a machine reaches an address and port.
func (w *world) connects(m *netnstest.Machine, to string, want bool) net.Conn {
	w.t.Helper()
	wait := impatience
	if want {
		wait = patience
	}
	var c net.Conn
	var err error
	on(m, func() {
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		defer cancel()
		if c, err = new(net.Dialer).DialContext(ctx, "tcp", to); err == nil {
			_ = c.SetDeadline(time.Now().Add(wait))
			_, err = c.Read(make([]byte, 1))
		}
	})
	if (err == nil) != want {
		w.t.Errorf("connection to %s: %v, want it: %v", to, err, want)
	}
	if c != nil {
		w.t.Cleanup(func() { c.Close() })
	}
	return c
}

// as gives the rules with the test's own user in place of a service's, and a
// stranger in place of all others.
func as(r Ruleset, uid uint32) Ruleset {
	const stranger = 4242
	out := r
	out.Output = nil
	for _, rule := range r.Output {
		if rule.User.Given && rule.User.UID == uid {
			rule.User.UID = 0
		} else if rule.User.Given {
			rule.User.UID = stranger
		}
		out.Output = append(out.Output, rule)
	}
	return out
}

func TestPackets(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	w := newWorld(t)
	box := (*netnstest.Machine)(nil)
	rules := Rules(w.doc)

	t.Run("without a configuration nothing passes", func(t *testing.T) {
		w.t = t
		w.connects(w.admins, "10.30.0.2:8443", true) // it would, without a filter
		apply(t, Rules(nil), true)
		w.connects(w.admins, "10.30.0.2:8443", false)
		w.connects(w.tenant, "10.10.0.2:25", false)
		w.connects(box, "10.30.0.20:80", false)
		w.connects(box, "127.0.0.1:25", true)
	})
	apply(t, as(rules, layout.UIDRelayd), true)
	t.Run("tenant in", func(t *testing.T) {
		w.t = t
		for to, want := range map[string]bool{
			"10.10.0.2:25": true, "10.10.0.2:465": true, "[fd10:10::2]:25": true, "[fd10:10::2]:465": true,
			"10.10.0.2:1465": false, "10.10.0.2:8443": false, "10.10.0.2:22": false, "[fd10:10::2]:8443": false,
			"10.20.0.2:25": false, "10.30.0.2:8443": false, // the box's other addresses
			"10.20.0.10:1465": false, // through the box
		} {
			w.connects(w.tenant, to, want)
		}
	})
	t.Run("provider in", func(t *testing.T) {
		w.t = t
		w.connects(w.provider, "10.20.0.2:1465", true)
		w.connects(w.provider, "10.20.0.2:25", false)
		w.connects(w.provider, "10.20.0.2:8443", false)
	})
	t.Run("management in", func(t *testing.T) {
		w.t = t
		w.connects(w.admins, "10.30.0.2:8443", true)
		w.connects(w.admins, "10.30.0.2:465", false)
	})
	t.Run("relayd out", func(t *testing.T) {
		w.t = t
		for to, want := range map[string]bool{
			"10.10.0.11:25": true, "10.20.0.10:1465": true, "10.20.0.11:80": true,
			"10.10.0.11:465": false, "10.10.0.11:587": false, "10.20.0.10:80": false, "10.20.0.11:1465": false, "10.20.0.10:443": false,
			"10.30.0.20:80": false, // updated's
		} {
			w.connects(box, to, want)
		}
	})
	t.Run("updated out, while a connection lives on", func(t *testing.T) {
		w.t = t
		before := w.connects(w.tenant, "10.10.0.2:25", true)
		apply(t, as(rules, layout.UIDUpdated), true)
		for to, want := range map[string]bool{"10.30.0.20:80": true, "10.30.0.20:8080": false, "10.20.0.10:1465": false, "10.10.0.11:25": false} {
			w.connects(box, to, want)
		}
		if _, err := before.Write([]byte("?")); err != nil {
			t.Error(err)
		}
		if _, err := before.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection did not end by itself: %v", err)
		}
	})
	t.Run("ping", func(t *testing.T) {
		w.t = t
		w.ping(w.tenant, "10.10.0.2")
		w.ping(w.tenant, "fd10:10::2")
	})
}

// ping sends one echo request and waits for its answer.
func (w *world) ping(m *netnstest.Machine, to string) {
	w.t.Helper()
	network, listen, request, answer, proto := "ip4:icmp", "0.0.0.0", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if netip.MustParseAddr(to).Is6() {
		network, listen, request, answer, proto = "ip6:ipv6-icmp", "::", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	var c *icmp.PacketConn
	var err error
	on(m, func() { c, err = icmp.ListenPacket(network, listen) })
	must(w.t, err)
	defer c.Close()
	must(w.t, c.SetDeadline(time.Now().Add(patience)))
	message, err := (&icmp.Message{Type: request, Body: &icmp.Echo{ID: 7, Seq: 1}}).Marshal(nil)
	must(w.t, err)
	_, err = c.WriteTo(message, &net.IPAddr{IP: net.ParseIP(to)})
	must(w.t, err)
	for buf := make([]byte, 1500); ; {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			w.t.Fatalf("ping %s: %v", to, err)
		}
		if got, err := icmp.ParseMessage(proto, buf[:n]); err == nil && got.Type == answer {
			return
		}
	}
}
