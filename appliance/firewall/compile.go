package firewall

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// register is the one that every comparison goes through.
const register = 1

// interfaceNameSize is IFNAMSIZ: names are compared with their padding.
const interfaceNameSize = 16

// Bits of a connection's state (NF_CT_STATE_BIT).
const (
	ctInvalid     = 1
	ctEstablished = 2
	ctRelated     = 4
)

// icmpTypes are the numbers of the message types (RFC 792, 4443, 4861, 9777) by
// the names that nft has for them.
func icmpTypes() map[string]byte {
	return map[string]byte{
		"icmp echo-request":           8,
		"icmpv6 echo-request":         128,
		"icmpv6 mld-listener-query":   130,
		"icmpv6 mld-listener-report":  131,
		"icmpv6 mld-listener-done":    132,
		"icmpv6 nd-neighbor-solicit":  135,
		"icmpv6 nd-neighbor-advert":   136,
		"icmpv6 mld2-listener-report": 143,
	}
}

// compiler turns rules into the kernel's expressions. Lists become anonymous
// sets, which it adds to the batch before the rule that uses them.
type compiler struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
}

// rule gives the expressions of a rule, in the order in which nft itself writes
// them, so that nft reads them back as what they are.
func (c *compiler) rule(r Rule) ([]expr.Any, error) {
	var e []expr.Any
	if r.In != "" {
		e = append(e, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, equal(interfaceName(r.In)))
	}
	if r.Out != "" {
		e = append(e, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, equal(interfaceName(r.Out)))
	}
	e = append(e, stateOf(r.State)...)
	if r.User.Given {
		e = append(e, &expr.Meta{Key: expr.MetaKeySKUID, Register: register}, equal(binaryutil.NativeEndian.PutUint32(r.User.UID)))
	}
	for _, side := range []struct {
		n      Networks
		source bool
	}{{r.From, true}, {r.To, false}} {
		match, err := c.networks(side.n, side.source)
		if err != nil {
			return nil, err
		}
		e = append(e, match...)
	}
	above, err := c.protocol(r)
	if err != nil {
		return nil, err
	}
	e = append(e, above...)
	if r.Limit > 0 {
		e = append(e, &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(r.Limit), Unit: expr.LimitTimeSecond, Burst: uint32(burst(r.Limit))})
	}
	if r.Count {
		e = append(e, &expr.Counter{})
	}
	return append(e, &expr.Verdict{Kind: verdictOf(r.Verdict)}), nil
}

func verdictOf(v Verdict) expr.VerdictKind {
	if v == Accept {
		return expr.VerdictAccept
	}
	return expr.VerdictDrop
}

func equal(value []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value}
}

func interfaceName(name string) []byte {
	padded := make([]byte, interfaceNameSize)
	copy(padded, name)
	return padded
}

func stateOf(s State) []expr.Any {
	bits := uint32(0)
	switch s {
	case Answers:
		bits = ctEstablished | ctRelated
	case Invalid:
		bits = ctInvalid
	default:
		return nil
	}
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: make([]byte, 4)},
	}
}

// oneOf compares the register with one value, or looks it up among several.
func (c *compiler) oneOf(kind nftables.SetDatatype, values [][]byte) (expr.Any, error) {
	if len(values) == 1 {
		return equal(values[0]), nil
	}
	set := &nftables.Set{Table: c.table, Anonymous: true, Constant: true, KeyType: kind}
	elements := make([]nftables.SetElement, len(values))
	for i, v := range values {
		elements[i].Key = v
	}
	if err := c.conn.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	return &expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID}, nil
}

// Where the addresses stand in the header: RFC 791 §3.1, RFC 8200 §3.
const (
	source4, destination4, length4 = 12, 16, 4
	source6, destination6, length6 = 8, 24, 16
)

func (c *compiler) networks(n Networks, source bool) ([]expr.Any, error) {
	if !n.given() {
		return nil, nil
	}
	family, offset, length := byte(unix.NFPROTO_IPV4), uint32(destination4), uint32(length4)
	if source {
		offset = source4
	}
	if n.is6() {
		family, offset, length = unix.NFPROTO_IPV6, destination6, length6
		if source {
			offset = source6
		}
	}
	e := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, equal([]byte{family}),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
	}
	if n.Set != "" {
		set, ok := c.sets[n.Set]
		if !ok {
			return nil, fmt.Errorf("firewall: rule uses the unknown set %s", n.Set)
		}
		return append(e, &expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID}), nil
	}
	if !n.One.IsSingleIP() {
		mask := net.CIDRMask(n.One.Bits(), n.One.Addr().BitLen())
		e = append(e, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: length, Mask: mask, Xor: make([]byte, length)})
	}
	return append(e, equal(n.One.Masked().Addr().AsSlice())), nil
}

// protocol compares protocol and, behind it, ports or types.
func (c *compiler) protocol(r Rule) ([]expr.Any, error) {
	numbers := map[Protocol]byte{TCP: unix.IPPROTO_TCP, UDP: unix.IPPROTO_UDP, ICMP: unix.IPPROTO_ICMP, ICMPv6: unix.IPPROTO_ICMPV6}
	number, ok := numbers[r.Protocol]
	switch {
	case r.Protocol == "" && len(r.Ports) == 0 && len(r.Types) == 0:
		return nil, nil
	case !ok:
		return nil, fmt.Errorf("firewall: protocol %q is not known", r.Protocol)
	}
	e := []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, equal([]byte{number})}
	field := &expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader}
	var kind nftables.SetDatatype
	var values [][]byte
	if r.Protocol == TCP || r.Protocol == UDP {
		kind, field.Offset, field.Len = nftables.TypeInetService, 2, 2 // the destination port
		for _, p := range r.Ports {
			values = append(values, binary.BigEndian.AppendUint16(nil, p))
		}
	} else {
		kind, field.Len = nftables.TypeICMPType, 1 // the message type
		if r.Protocol == ICMPv6 {
			kind = nftables.TypeICMP6Type
		}
		for _, name := range r.Types {
			number, ok := icmpTypes()[string(r.Protocol)+" "+name]
			if !ok {
				return nil, fmt.Errorf("firewall: %s type %q is not known", r.Protocol, name)
			}
			values = append(values, []byte{number})
		}
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("firewall: rule %q has no ports or types", r)
	}
	match, err := c.oneOf(kind, values)
	if err != nil {
		return nil, err
	}
	return append(e, field, match), nil
}

// elements makes the members of an interval set: the start of each network, and the
// address behind it as its end.
func elements(networks []netip.Prefix) []nftables.SetElement {
	var all []nftables.SetElement
	for _, p := range networks {
		all = append(all, nftables.SetElement{Key: p.Addr().AsSlice()})
		if end := behind(p); end != nil {
			all = append(all, nftables.SetElement{Key: end, IntervalEnd: true})
		}
	}
	return all
}

// behind gives the address after a network, nil for the last one of all.
func behind(p netip.Prefix) []byte {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits() - 1; i >= 0; i-- {
		bit := byte(1) << (7 - i%8)
		b[i/8] ^= bit
		if b[i/8]&bit != 0 {
			return b
		}
	}
	return nil
}
