package config

import "fmt"

// Bounds of a tenant's servers; weights and orders are those of SRV records
// (RFC 2782).
const (
	maxServers = 64
	maxSRV     = 65535
)

func (c *checker) inbound(path string, in *Inbound, receives bool) {
	if len(in.Servers) == 0 {
		if receives {
			c.fault(path+".servers", "give the tenant's mail server, or set every domain to send", "there is nowhere to deliver De-Mails to")
		}
		if in.CA == "" && len(in.Names) == 0 {
			return
		}
	}
	if n := len(in.Servers); n > maxServers {
		c.fault(path+".servers", "use fewer", "%d servers, more than %d", n, maxServers)
		return
	}
	if in.CA != "" || !allPinned(in.Servers) {
		c.authority(path+".ca", in.CA)
	}
	c.names(path+".names", in.Names, false)
	seen := map[string]string{}
	regular := false
	for i, s := range in.Servers {
		c.server(seen, at(path+".servers", i), s)
		regular = regular || !s.Fallback
	}
	if len(in.Servers) > 0 && !regular {
		c.fault(path+".servers", "leave fallback out at one of them", "every server is a fallback for others")
	}
}

func allPinned(servers []Server) bool {
	for _, s := range servers {
		if s.Fingerprint == "" {
			return false
		}
	}
	return len(servers) > 0
}

func (c *checker) server(seen map[string]string, path string, s Server) {
	if s.TLS != "" && s.TLS != TLSStart && s.TLS != TLSImplicit {
		c.fault(path+".tls", "write starttls or implicit; there is no delivery without TLS", "there is no TLS mode %s", quote(s.TLS))
	}
	if s.Order > maxSRV {
		c.fault(path+".order", fmt.Sprintf("choose 0 to %d", maxSRV), "%d is out of bounds", s.Order)
	}
	if s.Weight > maxSRV {
		c.fault(path+".weight", fmt.Sprintf("choose 0 to %d", maxSRV), "%d is out of bounds", s.Weight)
	}
	if s.Fingerprint != "" {
		c.fingerprint(path+".fingerprint", s.Fingerprint)
		if len(s.Names) > 0 {
			c.fault(path+".names", "keep fingerprint or names", "a pinned certificate needs no names")
		}
	}
	c.names(path+".names", s.Names, false)
	if c.missing(path+".host", s.Host, "give the name or address of the server") {
		return
	}
	if !isHost(s.Host) {
		c.fault(path+".host", "write a name such as mail.gemeinde.example, or an address", "%s is no host", quote(s.Host))
		return
	}
	c.host(path+".host", s.Host, RoleTenant)
	c.claim(seen, fmt.Sprintf("%s:%d", s.Host, s.resolvedPort()), path+".host", "name each server once", "server")
}
