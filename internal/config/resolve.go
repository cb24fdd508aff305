package config

import (
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// What holds if the document says nothing about Relay: 48 hours as RFC 5321
// §4.5.4.1 suggests at the lower end, notices well before the provider's own limit of 4 h
// (TR-01201 part 3).
const (
	defaultGiveUp = Duration(48 * time.Hour)
	firstNotice   = Duration(time.Hour)
	secondNotice  = Duration(3 * time.Hour)
)

// TLS modes of a Server.
const (
	TLSStart    = "starttls"
	TLSImplicit = "implicit"
)

// resolve writes the defaults into the document, so that nobody else has to
// know them.
func (d *Document) resolve() {
	d.Network.resolve()
	if d.Management.Port == 0 {
		d.Management.Port = layout.PortManagement
	}
	if d.Provider.Port == 0 {
		d.Provider.Port = layout.PortProvider
	}
	d.Relay.GiveUp = orDefault(d.Relay.GiveUp, defaultGiveUp)
	if len(d.Relay.DelayNotices) == 0 {
		d.Relay.DelayNotices = []Duration{firstNotice, secondNotice}
	}
	for i := range d.Tenants {
		d.Tenants[i].resolve()
	}
}

// resolve fills in MTUs: links take that of their bond, VLANs that of what
// carries them.
func (n *Network) resolve() {
	mtu := map[string]int{}
	for i := range n.Bonds {
		b := &n.Bonds[i]
		b.MTU = orDefault(b.MTU, defaultMTU)
		mtu[b.Name] = b.MTU
		for _, l := range b.Links {
			mtu[l] = b.MTU
		}
	}
	for i := range n.Links {
		l := &n.Links[i]
		l.MTU = orDefault(l.MTU, orDefault(mtu[l.Name], defaultMTU))
		mtu[l.Name] = l.MTU
	}
	for i := range n.VLANs {
		n.VLANs[i].MTU = orDefault(n.VLANs[i].MTU, mtu[n.VLANs[i].Link])
	}
}

func (t *Tenant) resolve() {
	t.Language = orDefault(t.Language, "de")
	t.MaxSize = orDefault(t.MaxSize, defaultMaxSize)
	for i := range t.Domains {
		t.Domains[i].Direction = orDefault(t.Domains[i].Direction, DirectionBoth)
	}
	t.Integrity = orDefault(t.Integrity, IntegrityRefuse)
	for i := range t.Clients {
		t.Clients[i].Class = orDefault(t.Clients[i].Class, ClassNormal)
	}
	for i := range t.Mappings {
		t.Mappings[i].Direction = orDefault(t.Mappings[i].Direction, DirectionBoth)
	}
	for i := range t.Inbound.Servers {
		s := &t.Inbound.Servers[i]
		s.TLS = orDefault(s.TLS, TLSStart)
		s.Port = s.resolvedPort()
	}
}

func (s Server) resolvedPort() uint16 {
	switch {
	case s.Port != 0:
		return s.Port
	case s.TLS == TLSImplicit:
		return layout.PortSubmission
	}
	return layout.PortSMTP
}

func orDefault[T comparable](value, preset T) T {
	var zero T
	if value == zero {
		return preset
	}
	return value
}
