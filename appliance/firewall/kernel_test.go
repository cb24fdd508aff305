package firewall

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"

	"gitlab.opencode.de/pforte/pforte/appliance/netconf/netnstest"
)

// listed gives the table as nft reads it from the kernel, with single spaces.
func listed(t *testing.T) string {
	t.Helper()
	nft, err := exec.LookPath("nft")
	if err != nil {
		if nft = "/usr/sbin/nft"; exec.Command(nft, "--version").Run() != nil {
			if os.Getenv("SHORT") == "1" {
				t.Skip("SHORT=1: there is no nft")
			}
			t.Fatal("there is no nft; install the Debian package nftables")
		}
	}
	var stderr bytes.Buffer
	cmd := exec.Command(nft, "--stateless", "list", "ruleset")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, stderr.String())
	}
	return spaces(string(out))
}

// spaces keeps the lines of rules and joins what nft wraps.
func spaces(s string) string {
	s = strings.ReplaceAll(s, ",\n", ", ")
	var lines []string
	for line := range strings.Lines(s) {
		if fields := strings.Fields(line); len(fields) > 0 {
			lines = append(lines, strings.Join(fields, " "))
		}
	}
	return strings.Join(lines, "\n")
}

func apply(t *testing.T, r Ruleset, wantChange bool) {
	t.Helper()
	changed, err := Apply(t.Context(), r)
	if err != nil || changed != wantChange {
		t.Fatalf("Apply changed the kernel: %v, %v; want %v", changed, err, wantChange)
	}
}

// TestKernelHasTheRules: what nft reads back from the kernel is what Rules says.
func TestKernelHasTheRules(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	all := cases(t)
	files := make([]string, 0, len(all))
	for f := range all {
		files = append(files, f)
	}
	slices.Sort(files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			r := rulesOf(t, all[file])
			apply(t, r, true)
			if d := cmp.Diff(spaces(r.String()), listed(t)); d != "" {
				t.Errorf("the kernel has other rules than the model:\n%s", d)
			}
			apply(t, r, false)
		})
	}
}

// TestKernelRepairs: rules that somebody else changed are put back, and an
// impossible set of rules changes nothing.
func TestKernelRepairs(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	r := Rules(document(t))
	apply(t, r, true)
	want := listed(t)
	damage := map[string]func(c *nftables.Conn){
		"rule deleted": func(c *nftables.Conn) {
			rules, err := c.GetRules(table(), &nftables.Chain{Name: chainInput})
			if err != nil {
				t.Fatal(err)
			}
			rules[0].Table, rules[0].Chain = table(), &nftables.Chain{Name: chainInput}
			if err := c.DelRule(rules[0]); err != nil {
				t.Fatal(err)
			}
		},
		"chain flushed": func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Name: chainOutput, Table: table()}) },
		"table deleted": func(c *nftables.Conn) { c.DelTable(table()) },
		"chain deleted": func(c *nftables.Conn) {
			forward := &nftables.Chain{Name: chainForward, Table: table()}
			c.FlushChain(forward)
			c.DelChain(forward)
		},
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			c, err := nftables.New()
			if err != nil {
				t.Fatal(err)
			}
			f(c)
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			if listed(t) == want {
				t.Fatal("the damage did nothing")
			}
			apply(t, r, true)
			if d := cmp.Diff(want, listed(t)); d != "" {
				t.Error(d)
			}
		})
	}
	impossible := r
	impossible.Input = append(slices.Clone(r.Input), Rule{In: "tenant0", Protocol: ICMP, Types: []string{"nonsense"}, Verdict: Accept})
	if changed, err := Apply(t.Context(), impossible); changed || err == nil {
		t.Errorf("impossible rules: %v, %v", changed, err)
	}
	if d := cmp.Diff(want, listed(t)); d != "" {
		t.Errorf("impossible rules changed the kernel:\n%s", d)
	}
}

// TestKernelManyNetworks: thousands of networks go through in one transaction.
func TestKernelManyNetworks(t *testing.T) {
	if !netnstest.Inside(t) {
		return
	}
	doc := document(t)
	doc.Tenants = doc.Tenants[:1]
	client := &doc.Tenants[0].Clients[0]
	client.Networks = nil
	for i := range 6000 {
		client.Networks = append(client.Networks,
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), 32),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 1, 2, 3, byte(i >> 8), byte(i)}), 64))
	}
	r := Rules(doc)
	apply(t, r, true)
	if d := cmp.Diff(spaces(r.String()), listed(t)); d != "" {
		t.Errorf("%.2000s", d)
	}
	apply(t, r, false)
	for range 4 {
		client.Networks = append(client.Networks, client.Networks...)
	}
	if len(Rules(doc).Sets[0].Networks) != 6000 {
		t.Error("networks are doubled")
	}
	for i := range maxElements {
		client.Networks = append(client.Networks, netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 7}), 32))
	}
	if _, err := Apply(t.Context(), Rules(doc)); err == nil || !strings.Contains(err.Error(), "join them to fewer") {
		t.Errorf("too many networks: %v", err)
	}
}
