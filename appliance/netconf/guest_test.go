package netconf

import (
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/netconf/netnstest"
	"gitlab.opencode.de/pforte/pforte/qemu/boxkernel"
)

func TestMain(m *testing.M) { boxkernel.Main(m) }

// TestGuest runs all tests that speak with a kernel on the box's own, and there
// those of bonds and VLANs, too, which other kernels may lack.
func TestGuest(t *testing.T) {
	boxkernel.Run(t, boxkernel.Guest{Pattern: "^Test(Kernel|BoxKernel)", Modules: []string{"8021q", "bonding"}, Extra: []string{"veth"}})
}

// TestBoxKernelBondVLAN is for the guest only: it needs bonding and 8021q.
func TestBoxKernelBondVLAN(t *testing.T) {
	if !boxkernel.Here() || !netnstest.Inside(t) {
		return
	}
	cable(t, "eth7", macA)
	cable(t, "eth8", macB)
	k := open(t)
	s := converge(t, k, network(t, "link p0 "+macA, "link p1 "+macB, "bond bond0 active-backup p0 p1", "vlan v20 bond0", "interface v20 10.1.0.2/24 fd10::2/64 gw 10.1.0.1"))
	if addresses(s, "v20") != "10.1.0.2/24 fd10::2/64" || routes(s) != "0.0.0.0/0 via 10.1.0.1" {
		t.Errorf("v20 has %s, routes are %s", addresses(s, "v20"), routes(s))
	}
	for name, mac := range map[string]string{"p0": macA, "p1": macB} {
		if l := link(t, s, name); l.Master != link(t, s, "bond0").Index || l.MAC != mac || !l.Up {
			t.Errorf("%s = %+v", name, l)
		}
	}

	t.Log("one link leaves, the mode changes, the VLAN moves")
	s = converge(t, k, network(t, "link p0 "+macA, "link p1 "+macB, "bond bond0 802.3ad p1", "vlan v20 p0", "interface v20 10.1.0.2/24", "interface bond0 10.2.0.2/24"))
	if addresses(s, "v20") != "10.1.0.2/24" || link(t, s, "v20").Parent != link(t, s, "p0").Index || link(t, s, "bond0").Mode != "802.3ad" || link(t, s, "p0").Master != 0 {
		t.Errorf("links are %+v", s.Links)
	}

	t.Log("jumbo frames through bond and VLAN")
	jumbo := network(t, "link p0 "+macA, "link p1 "+macB, "bond bond0 802.3ad p0 p1", "vlan v20 bond0", "interface v20 10.1.0.2/24")
	jumbo.Bonds[0].MTU, jumbo.VLANs[0].MTU = 9000, 9000
	s = converge(t, k, jumbo)
	for _, name := range []string{"p0", "p1", "bond0", "v20"} {
		if mtu := link(t, s, name).MTU; mtu != 9000 {
			t.Errorf("%s has MTU %d", name, mtu)
		}
	}

	t.Log("neither bond nor VLAN any more")
	s = converge(t, k, network(t, "link p0 "+macA, "interface p0 10.1.0.2/24"))
	for _, l := range s.Links {
		if l.Kind == KindBond || l.Kind == KindVLAN || l.Master != 0 {
			t.Errorf("left over: %+v", l)
		}
	}
	if addresses(s, "p0") != "10.1.0.2/24" || link(t, s, "p1").Up {
		t.Errorf("links are %+v", s.Links)
	}
}
