package e2e

import "net/netip"

// The virtual networks, one per role, and who lives where on them. The box is
// .2 on each: tenants on 10.10.0.0/24 and fd10:10::/64, provider on
// 10.20.0.0/24, management on 10.30.0.0/24.
const (
	tenantMAC     = "52:54:00:50:46:01"
	providerMAC   = "52:54:00:50:46:02"
	managementMAC = "52:54:00:50:46:03"

	providerName = "provider.de-mail.example" // the De-Mail provider's own domain
	boxName      = "pforte-gw-01"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func boxTenant() netip.Addr     { return addr("10.10.0.2") }
func boxTenant6() netip.Addr    { return addr("fd10:10::2") }
func boxProvider() netip.Addr   { return addr("10.20.0.2") }
func boxManagement() netip.Addr { return addr("10.30.0.2") }

func providerHost() netip.Addr { return addr("10.20.0.10") }
func crlHost() netip.Addr      { return addr("10.20.0.11") }
func adminHost() netip.Addr    { return addr("10.30.0.10") }
func vendorHost() netip.Addr   { return addr("10.30.0.20") }
func ownerHost() netip.Addr    { return addr("10.30.0.21") }

// Party is one tenant of the world: an authority with its mail server.
type Party struct {
	ID     string
	Name   string
	Mail   string // e-mail domain
	DeMail string // De-Mail domain
	Host   netip.Addr
}

func partyA() Party {
	return Party{"gemeinde-a", "Gemeinde A", "gemeinde-a.example", "gemeinde-a.de-mail.example", addr("10.10.0.11")}
}

func partyB() Party {
	return Party{"gemeinde-b", "Gemeinde B", "gemeinde-b.example", "gemeinde-b.de-mail.example", addr("10.10.0.12")}
}

// Address is the e-mail address of a local part at the tenant.
func (p Party) Address(local string) string { return local + "@" + p.Mail }

// DeMailAddress is the De-Mail address of a local part at the tenant.
func (p Party) DeMailAddress(local string) string { return local + "@" + p.DeMail }

// ServerName is the name in the certificate of the tenant's mail server.
func (p Party) ServerName() string { return "mail." + p.Mail }
