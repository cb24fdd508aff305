package e2e

import (
	"net/netip"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// authorities of a world, one per party.
type authorities struct {
	owner, hosting, monitor, provider, tenantA, tenantB *Authority
}

func newAuthorities() (a authorities, err error) {
	for _, x := range []struct {
		to   **Authority
		name string
	}{
		{&a.owner, "World owner CA"}, {&a.hosting, "World hosting CA"}, {&a.monitor, "World monitor CA"},
		{&a.provider, "World provider CA"}, {&a.tenantA, "World gemeinde-a CA"}, {&a.tenantB, "World gemeinde-b CA"},
	} {
		if *x.to, err = NewAuthority(x.name); err != nil {
			return a, err
		}
	}
	return a, nil
}

// document is the configuration of the world's box with the given serial.
func (a authorities) document(serial uint64, providerCA string) *config.Document {
	return &config.Document{
		Version: 1,
		Serial:  serial,
		Box:     boxName,
		Network: config.Network{
			Links: []config.Link{
				{Name: "tenant0", MAC: tenantMAC},
				{Name: "provider0", MAC: providerMAC},
				{Name: "mgmt0", MAC: managementMAC},
			},
			Interfaces: []config.Interface{
				{Name: "tenant0", Role: config.RoleTenant, Addresses: []netip.Prefix{prefix(boxTenant(), 24), prefix(boxTenant6(), 64)}},
				{Name: "provider0", Role: config.RoleProvider, Addresses: []netip.Prefix{prefix(boxProvider(), 24)}},
				{Name: "mgmt0", Role: config.RoleManagement, Addresses: []netip.Prefix{prefix(boxManagement(), 24)}},
			},
		},
		Management: config.Management{
			Roles: []config.RoleAuthority{
				{Name: "owner", CA: a.owner.PEM()},
				{Name: "hosting", CA: a.hosting.PEM()},
				{Name: "monitor", CA: a.monitor.PEM()},
			},
			Updates: config.Updates{
				Vendor: "http://" + vendorHost().String() + "/",
				Owner:  "http://" + ownerHost().String() + "/",
			},
		},
		Provider: config.Provider{
			Name:        providerName,
			Host:        providerHost().String(),
			CA:          providerCA,
			ServerNames: []string{"mx." + providerName},
			ClientNames: []string{"push." + providerName},
			Domains:     []string{"de-mail.example"},
			CRL:         []string{"http://" + crlHost().String() + "/ca.crl"},
		},
		Tenants: []config.Tenant{a.tenant(partyA(), a.tenantA), a.tenant(partyB(), a.tenantB)},
	}
}

func (a authorities) tenant(p Party, ca *Authority) config.Tenant {
	return config.Tenant{
		ID:         p.ID,
		Name:       p.Name,
		Account:    p.DeMailAddress("poststelle"),
		Postmaster: p.Address("postmaster"),
		Clients:    []config.Client{{Name: "mail server", CA: ca.PEM(), Names: []string{p.ServerName()}}},
		Domains:    []config.Domain{{Name: p.DeMail, Direction: config.DirectionBoth}},
		Mappings: []config.Mapping{
			{Mail: p.Address("poststelle"), DeMail: p.DeMailAddress("poststelle")},
			{Mail: p.Address("bauamt"), DeMail: p.DeMailAddress("bauamt")},
		},
		Inbound: config.Inbound{
			Servers: []config.Server{{Host: p.Host.String()}},
			CA:      ca.PEM(),
			Names:   []string{p.ServerName()},
		},
	}
}

func prefix(a netip.Addr, bits int) netip.Prefix { return netip.PrefixFrom(a, bits) }
