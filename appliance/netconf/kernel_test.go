package netconf

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/netconf/netnstest"
	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// cable puts a pair of linked cards into the namespace: one for the box with the
// given MAC, the other to give it a link signal.
func cable(t *testing.T, name, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hw}, PeerName: "x" + name}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	// The far end is no card of the box: beside it, it would be set down.
	move(t, "x"+name, netnstest.NewMachine(t))
}

func move(t *testing.T, name string, to *netnstest.Machine) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetNsPid(l, to.TID()); err != nil {
		t.Fatal(err)
	}
	to.Do(func() {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T) *Kernel {
	t.Helper()
	k, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

// converge asks for cfg and checks that a second time nothing happens.
func converge(t *testing.T, k *Kernel, cfg config.Network) State {
	t.Helper()
	_, done, err := k.Converge(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Converge: %v", err)
	}
	t.Logf("%d actions", done)
	s, again, err := k.Converge(t.Context(), cfg)
	if err != nil || again != 0 {
		t.Fatalf("a second Converge took %d actions, %v", again, err)
	}
	return s
}

// addresses lists the addresses of a link but the link-local one.
func addresses(s State, name string) string {
	var all []string
	for _, l := range s.Links {
		for _, a := range l.Addresses {
			if l.Name == name && !a.Prefix.Addr().IsLinkLocalUnicast() {
				all = append(all, a.Prefix.String())
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func routes(s State) string {
	var all []string
	for _, r := range s.Routes {
		all = append(all, r.To.String()+" via "+r.Via.String())
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func link(t *testing.T, s State, name string) Link {
	t.Helper()
	for _, l := range s.Links {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("there is no link %s", name)
	return Link{}
}

func ip(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestKernelConverges(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	cable(t, "eth7", macA)
	cable(t, "eth8", macB)
	cable(t, "eth9", macC)
	k := open(t)
	full := network(t, "link tenant0 "+macA, "link mgmt0 "+macB,
		"interface tenant0 10.10.0.2/24 10.10.0.3/24 fd10::2/64 gw 10.10.0.1 gw fd10::1 to 192.0.2.0/24 via 10.10.0.9 to 2001:db8::/32 via fd10::9",
		"interface mgmt0 10.30.0.2/24")

	s := converge(t, k, full)
	if got, want := addresses(s, "tenant0"), "10.10.0.2/24 10.10.0.3/24 fd10::2/64"; got != want {
		t.Errorf("tenant0 has %s, want %s", got, want)
	}
	if got, want := routes(s), "0.0.0.0/0 via 10.10.0.1, 192.0.2.0/24 via 10.10.0.9, 2001:db8::/32 via fd10::9, ::/0 via fd10::1"; got != want {
		t.Errorf("routes are %s, want %s", got, want)
	}
	if l := link(t, s, "tenant0"); !l.Up || !l.Carrier || l.MAC != macA {
		t.Errorf("tenant0 = %+v", l)
	}
	if l := link(t, s, "mgmt0"); !l.Up || len(l.Addresses) != 1 {
		t.Errorf("mgmt0 = %+v; without IPv6 address there must be no link-local one", l)
	}
	if l := link(t, s, "eth9"); l.Up || len(l.Addresses) != 0 {
		t.Errorf("a card without use is not down and bare: %+v", l)
	}
	if l := link(t, s, "lo"); !l.Up || addresses(s, "lo") != "127.0.0.1/8 ::1/128" {
		t.Errorf("loopback = %+v", l)
	}

	t.Run("foreign things are cleaned", func(t *testing.T) {
		tenant, err := netlink.LinkByName("tenant0")
		ip(t, err)
		spare, err := netlink.LinkByName("eth9")
		ip(t, err)
		for _, a := range []string{"10.10.0.77/24", "172.16.0.1/12", "fd99::1/64"} {
			ip(t, netlink.AddrAdd(tenant, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(a))}))
		}
		ip(t, netlink.AddrAdd(spare, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.99.0.1/24"))}))
		ip(t, netlink.LinkSetUp(spare))
		ip(t, netlink.RouteAdd(&netlink.Route{LinkIndex: tenant.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("198.51.100.0/24")), Gw: net.ParseIP("10.10.0.5")}))
		ip(t, netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("203.0.113.0/24")), Type: unix.RTN_BLACKHOLE}))
		ip(t, netlink.RouteAdd(&netlink.Route{LinkIndex: tenant.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("2001:db8:9::/48")), Gw: net.ParseIP("fd10::77"), Priority: 7}))
		after := converge(t, k, full)
		if addresses(after, "tenant0") != addresses(s, "tenant0") || routes(after) != routes(s) || addresses(after, "eth9") != "" || link(t, after, "eth9").Up {
			t.Errorf("left over: tenant0 %s, routes %s, eth9 %s", addresses(after, "tenant0"), routes(after), addresses(after, "eth9"))
		}
	})
	t.Run("what is removed from the configuration is removed", func(t *testing.T) {
		s := converge(t, k, network(t, "link tenant0 "+macA, "interface tenant0 10.10.0.3/24"))
		if addresses(s, "tenant0") != "10.10.0.3/24" || routes(s) != "" || link(t, s, "mgmt0").Up || len(link(t, s, "tenant0").Addresses) != 1 {
			t.Errorf("left over: %+v", s)
		}
	})
	t.Run("names are swapped, MTU is set", func(t *testing.T) {
		cfg := network(t, "link tenant0 "+macB, "link mgmt0 "+macA, "interface mgmt0 10.10.0.2/24 fd10::2/64", "jumbo tenant0")
		s := converge(t, k, cfg)
		if link(t, s, "tenant0").MAC != macB || link(t, s, "mgmt0").MAC != macA || link(t, s, "tenant0").MTU != 9000 {
			t.Errorf("links are %+v", s.Links)
		}
	})
	t.Run("without a configuration only the loopback is up", func(t *testing.T) {
		s := converge(t, k, config.Network{})
		for _, l := range s.Links {
			if l.Up != (l.Kind == KindLoopback) || l.Up == (len(l.Addresses) == 0) {
				t.Errorf("link %+v", l)
			}
		}
	})
}

// TestKernelUsableAtOnce: an IPv6 address takes connections before duplicate
// address detection has ended.
func TestKernelUsableAtOnce(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	cable(t, "eth7", macA)
	for _, link := range []string{"all", "default", "eth7"} { // as the image's sysctl.d does
		ip(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+link+"/optimistic_dad", []byte("1"), 0))
	}
	k := open(t)
	converge(t, k, network(t, "link tenant0 "+macA, "interface tenant0 fd10::2/64"))
	ln, err := net.Listen("tcp", "[fd10::2]:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

// TestKernelFindsDuplicates: an address that the other machine has is reported,
// not silently dead.
func TestKernelFindsDuplicates(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	other := netnstest.NewMachine(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth7"}, PeerName: "far"}
	veth.HardwareAddr, _ = net.ParseMAC(macA)
	ip(t, netlink.LinkAdd(veth))
	move(t, "far", other)
	other.Do(func() {
		l, err := netlink.LinkByName("far")
		if err == nil {
			err = netlink.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("fd10::2/64")), Flags: unix.IFA_F_NODAD})
		}
		if err != nil {
			t.Error(err)
		}
	})
	k := open(t)
	cfg := network(t, "link tenant0 "+macA, "interface tenant0 fd10::2/64")
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	watching := make(chan error, 1)
	go func() {
		watching <- Watch(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	for {
		select {
		case <-ctx.Done():
			t.Fatal("the duplicate is not found")
		case <-changed:
		}
		s, _, err := k.Converge(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range Check(cfg, s) {
			if strings.Contains(p.Text, "another machine on the network has the address fd10::2") {
				cancel()
				if err := <-watching; err != nil {
					t.Errorf("Watch = %v", err)
				}
				return
			}
		}
	}
}
