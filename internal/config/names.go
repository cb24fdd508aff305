package config

import (
	"net/netip"
	"net/url"
	"strings"
)

// Limits of names: RFC 1035 §2.3.4 for DNS, RFC 5321 §4.5.3.1 for e-mail,
// TR-01201-2.1 (demail.md §4) for De-Mail, IFNAMSIZ for interfaces.
const (
	maxLabel         = 63
	maxDomain        = 253
	maxDeMailDomain  = 189
	maxLocal         = 64
	maxMailAddress   = 254
	maxDeMailAddress = 253
	maxInterfaceName = 15
	maxURL           = 2048
)

// isLabel reports whether s is one lower-case DNS label.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !isLowerAlnum(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

func isLowerAlnum(b byte) bool {
	return 'a' <= b && b <= 'z' || '0' <= b && b <= '9'
}

// isDomain reports whether s is a lower-case domain of two labels or more. The
// last label is no number, so that no address passes for a domain.
func isDomain(s string) bool {
	labels := strings.Split(s, ".")
	if len(s) > maxDomain || len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if !isLabel(l) {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// isHost reports whether s is a domain, or an IP address in its canonical form.
func isHost(s string) bool {
	if a, err := netip.ParseAddr(s); err == nil {
		return isUnicast(a) && a.String() == s
	}
	return isDomain(s)
}

// isUnicast reports whether a can be the address of a machine elsewhere.
func isUnicast(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() &&
		!a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !(a.Is4() && a.As4()[0] == 0)
}

// isLocal reports whether s is a lower-case ASCII dot-atom (RFC 5322 §3.2.3).
func isLocal(s string) bool {
	if s == "" || len(s) > maxLocal || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if !isLowerAlnum(s[i]) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~.", rune(s[i])) {
			return false
		}
	}
	return true
}

// splitAddress gives local part and domain; ok is false for what is no address.
func splitAddress(s string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(s, '@')
	if i < 0 {
		return "", "", false
	}
	local, domain = s[:i], s[i+1:]
	return local, domain, isLocal(local) && isDomain(domain) && len(s) <= maxMailAddress
}

// below reports whether domain is parent or lies under it.
func below(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

// isInterfaceName keeps to what every tool can show and no path or pattern can
// mistake: a letter, then letters, digits, hyphens and dots.
func isInterfaceName(s string) bool {
	if s == "" || len(s) > maxInterfaceName || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if !isLowerAlnum(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return s != "lo" && s != "all" && s != "default"
}

// isLinkPath reports whether s has the form of a udev path, "pci-0000:00:03.0".
func isLinkPath(s string) bool {
	bus, rest, ok := strings.Cut(s, "-")
	if !ok || bus == "" || rest == "" || len(s) > maxDomain {
		return false
	}
	for i := range len(s) {
		if !isLowerAlnum(s[i]) && !strings.ContainsRune("ABCDEF:._-", rune(s[i])) {
			return false
		}
	}
	return true
}

// webHost gives the host of an http or https URL without user, query and
// fragment; the text says what is wrong, or is empty.
func webHost(s string) (host, wrong string) {
	u, err := url.Parse(s)
	switch {
	case err != nil || len(s) > maxURL:
		return "", "is no URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "", "is no http or https URL"
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || strings.Contains(s, "#"):
		return "", "holds a user, a query or a fragment"
	case !isHost(u.Hostname()):
		return "", "names no host by domain or address"
	case u.Port() != "" && !isPort(u.Port()):
		return "", "has a port that is none"
	}
	return u.Hostname(), ""
}

func isPort(s string) bool {
	a, err := netip.ParseAddrPort("192.0.2.1:" + s)
	return err == nil && a.Port() != 0
}
