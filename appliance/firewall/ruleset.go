package firewall

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Ruleset is the content of the table. The policy of each chain is drop.
type Ruleset struct {
	Sets    []Set
	Input   []Rule
	Forward []Rule
	Output  []Rule
}

// Set is a named list of networks of one family that do not overlap.
type Set struct {
	Name     string
	Networks []netip.Prefix
}

// Verdict is what becomes of a packet that a rule fits.
type Verdict string

// Verdicts.
const (
	Accept Verdict = "accept"
	Drop   Verdict = "drop"
)

// State is what connection tracking knows of a packet.
type State string

// States.
const (
	Answers State = "established,related"
	Invalid State = "invalid"
)

// Protocol is the protocol above IP.
type Protocol string

// Protocols. ICMP and ICMPv6 also say which family the rule is for.
const (
	TCP    Protocol = "tcp"
	UDP    Protocol = "udp"
	ICMP   Protocol = "icmp"
	ICMPv6 Protocol = "icmpv6"
)

// Networks is one network, or the name of a set. The zero value fits all.
type Networks struct {
	One netip.Prefix
	Set string
	IP6 bool // family of Set
}

// Sender is a user. The zero value is anyone.
type Sender struct {
	UID   uint32
	Given bool
}

// Rule fits a packet if all that is given fits.
type Rule struct {
	In, Out  string // interface names
	State    State
	User     Sender // of the sending process, for packets on their way out
	From, To Networks
	Protocol Protocol
	Ports    []uint16 // destination
	Types    []string // of ICMP or ICMPv6, as nft calls them
	Limit    int      // packets per second; a rule over its limit does not fit
	Count    bool
	Verdict  Verdict
	Comment  string
}

// String is the rule as nft lists it.
func (r Rule) String() string {
	var b strings.Builder
	add := func(format string, args ...any) { fmt.Fprintf(&b, format+" ", args...) }
	if r.In != "" {
		add("iifname %q", r.In)
	}
	if r.Out != "" {
		add("oifname %q", r.Out)
	}
	if r.State != "" {
		add("ct state %s", r.State)
	}
	if r.User.Given {
		add("meta skuid %d", r.User.UID)
	}
	if s := r.From.text("saddr"); s != "" {
		add("%s", s)
	}
	if s := r.To.text("daddr"); s != "" {
		add("%s", s)
	}
	if len(r.Ports) > 0 {
		add("%s dport %s", r.Protocol, list(r.Ports, func(p uint16) string { return strconv.Itoa(int(p)) }))
	}
	if len(r.Types) > 0 {
		add("%s type %s", r.Protocol, list(r.Types, func(s string) string { return s }))
	}
	if r.Limit > 0 {
		add("limit rate %d/second burst %d packets", r.Limit, burst(r.Limit))
	}
	if r.Count {
		add("counter")
	}
	add("%s", r.Verdict)
	if r.Comment != "" {
		add("comment %q", r.Comment)
	}
	return strings.TrimSuffix(b.String(), " ")
}

// burst is how many packets may come at once under a limit per second.
func burst(limit int) int { return 2 * limit }

func list[T any](values []T, text func(T) string) string {
	if len(values) == 1 {
		return text(values[0])
	}
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = text(v)
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

func (n Networks) text(field string) string {
	family := "ip"
	if n.is6() {
		family = "ip6"
	}
	switch {
	case n.Set != "":
		return fmt.Sprintf("%s %s @%s", family, field, n.Set)
	case n.One.IsValid():
		return fmt.Sprintf("%s %s %s", family, field, network(n.One))
	}
	return ""
}

func (n Networks) is6() bool {
	return n.IP6 || n.One.IsValid() && n.One.Addr().Is6()
}

func (n Networks) given() bool { return n.Set != "" || n.One.IsValid() }

// network prints a single address without its length, as nft does.
func network(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// String is the table as `nft --stateless list table inet pforte` prints it, but
// for white space.
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", tableName)
	for _, s := range r.Sets {
		kind := "ipv4_addr"
		if s.Networks[0].Addr().Is6() {
			kind = "ipv6_addr"
		}
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n", s.Name, kind)
		parts := make([]string, len(s.Networks))
		for i, p := range s.Networks {
			parts[i] = network(p)
		}
		fmt.Fprintf(&b, "\t\telements = { %s }\n\t}\n\n", strings.Join(parts, ",\n\t\t\t     "))
	}
	for i, c := range r.chains() {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority filter; policy drop;\n", c.name, c.name)
		for _, rule := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

type chain struct {
	name  string
	rules []Rule
}

// chains gives all chains. The mark by which the rules are known again stands in
// forward, which is empty otherwise.
func (r Ruleset) chains() []chain {
	forward := append(slices.Clone(r.Forward), Rule{Count: true, Verdict: Drop, Comment: r.mark()})
	return []chain{{chainInput, r.Input}, {chainForward, forward}, {chainOutput, r.Output}}
}

// mark is the comment that names the rules by their hash.
func (r Ruleset) mark() string {
	h := sha256.New()
	for _, s := range r.Sets {
		fmt.Fprintln(h, s.Name, s.Networks)
	}
	for _, rules := range [][]Rule{r.Input, r.Forward, r.Output} {
		for _, rule := range rules {
			fmt.Fprintln(h, rule)
		}
		fmt.Fprintln(h)
	}
	return "rules sha256:" + hex.EncodeToString(h.Sum(nil))
}
