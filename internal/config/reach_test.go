package config

import (
	"net/netip"
	"testing"
)

func TestReach(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	n := Network{Interfaces: []Interface{
		{Name: "t", Role: RoleTenant, Addresses: []netip.Prefix{p("10.10.0.2/24"), p("fd10::2/64")}, Gateways: []netip.Addr{a("10.10.0.1")}},
		{Name: "p", Role: RoleProvider, Addresses: []netip.Prefix{p("10.20.0.2/24")}, Routes: []Route{{To: p("192.0.2.0/24"), Via: a("10.20.0.1")}}},
		{Name: "m", Role: RoleManagement, Addresses: []netip.Prefix{p("10.30.0.2/24")}, Routes: []Route{{To: p("192.0.2.128/25"), Via: a("10.30.0.1")}}},
	}}
	for to, want := range map[string]string{
		"10.10.0.9": "t", "10.20.0.9": "p", "fd10::9": "t",
		"192.0.2.1": "p", "192.0.2.200": "m", // the longer route wins
		"198.51.100.1": "t", // the gateway
		"2001:db8::1":  "",  // no gateway of this family
	} {
		ifc, ok := n.Reach(a(to))
		if (want != "") != ok || ok && ifc.Name != want {
			t.Errorf("Reach(%s) = %v, %v; want %q", to, ifc, ok, want)
		}
	}
	if got := n.ByRole(RoleProvider); len(got) != 1 || got[0].Name != "p" {
		t.Errorf("ByRole = %v", got)
	}
}

func TestNames(t *testing.T) {
	long := ""
	for range 64 {
		long += "a"
	}
	check := func(what string, f func(string) bool, good, bad []string) {
		for _, s := range good {
			if !f(s) {
				t.Errorf("%s refuses %q", what, s)
			}
		}
		for _, s := range bad {
			if f(s) {
				t.Errorf("%s takes %q", what, s)
			}
		}
	}
	check("isLabel", isLabel, []string{"a", "a-1", "0", long[:63]}, []string{"", "-a", "a-", "A", "a.b", "ä", long})
	check("isDomain", isDomain, []string{"a.b", "xn--bcher-kva.example", "1.example"}, []string{"a", "a.", ".a", "a..b", "10.0.0.1", "A.b", "a_b.c"})
	check("isHost", isHost, []string{"a.b", "10.0.0.1", "fd10::1"}, []string{"10.0.0.01", "fd10:0::1", "fe80::1%a", "127.0.0.1", "0.0.0.0", "::ffff:10.0.0.1", "224.0.0.1", "255.255.255.255", "host"})
	check("isInterfaceName", isInterfaceName, []string{"a", "tenant0", "bond0.20", "a-b"}, []string{"", "0a", "a/b", "a:b", "a b", "lo", "all", "default", "abcdefghijklmnop", "a%d"})
	check("isLinkPath", isLinkPath, []string{"pci-0000:00:03.0"}, []string{"", "pci", "-x", "pci-", "pci-../..", "pci-0000:00:03.0 x"})
	check("address", func(s string) bool { _, _, ok := splitAddress(s); return ok },
		[]string{"a@b.c", "a.b+c@d.example", long + "@b.c"},
		[]string{"", "a", "@b.c", "a@", "a@b", "a..b@c.d", ".a@b.c", "a.@b.c", `"a"@b.c`, "a b@c.d", "A@b.c", "ä@b.c", long + "a@b.c", "a@b@c.d", "a@10.0.0.1"})
	for link, want := range map[string]string{
		"http://a.b": "a.b", "https://a.b:8443/x/": "a.b", "http://[fd10::1]:80/": "fd10::1",
		"ftp://a.b": "", "a.b": "", "http://": "", "http://u@a.b": "", "http://a.b/?q": "", "http://a.b/?": "", "http://a.b/#": "", "http://a.b:0": "", "http://a.b:99999": "", "http://localhost/": "", "http://a.b/%zz": "",
	} {
		if got, wrong := webHost(link); got != want || (want == "") != (wrong != "") {
			t.Errorf("webHost(%q) = %q, %q; want %q", link, got, wrong, want)
		}
	}
}
