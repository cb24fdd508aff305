package demail

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of a De-Mail address in octets (TR-01201 part 2, account management).
const (
	MaxLocal   = 64
	MaxDomain  = 189
	MaxAddress = 253
	maxLabel   = 63 // RFC 1035 §2.3.4
)

// ErrAddress is wrapped by every error of ParseAddress and ParseDomain.
var ErrAddress = errors.New("not a De-Mail address")

// Address is one De-Mail address in its canonical, lower-case form. The zero
// Address is no address. Addresses compare with == and serve as map keys; they
// need no quoting anywhere in SMTP or in a header.
type Address struct {
	s  string
	at int // index of '@' in s
}

// ParseAddress reads an addr-spec and puts it into lower case. It takes ASCII
// dot-atoms before the @ (RFC 5322 §3.2.3) and a domain name of at least two
// labels behind it; quoted local parts, comments, address literals and addresses
// over the bounds are refused.
//
// The system addresses of a provider are written with capital letters; they come
// out in lower case too, and IsSystem finds them.
func ParseAddress(s string) (Address, error) {
	if len(s) > MaxAddress {
		return Address{}, fmt.Errorf("%w: longer than %d characters", ErrAddress, MaxAddress)
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return Address{}, fmt.Errorf("%w: no @", ErrAddress)
	}
	if err := checkLocal(s[:at]); err != nil {
		return Address{}, err
	}
	if _, err := ParseDomain(s[at+1:]); err != nil {
		return Address{}, err
	}
	return Address{s: lowerASCII(s), at: at}, nil
}

// ParseDomain checks a De-Mail domain or an institution's part of one: ASCII
// letters, digits and hyphens, at least two labels, at most MaxDomain octets.
// It returns the domain in lower case.
func ParseDomain(s string) (string, error) {
	if len(s) > MaxDomain {
		return "", fmt.Errorf("%w: domain longer than %d characters", ErrAddress, MaxDomain)
	}
	labels := 0
	for label := range strings.SplitSeq(s, ".") {
		if !validLabel(label) {
			return "", fmt.Errorf("%w: bad domain label", ErrAddress)
		}
		labels++
	}
	if labels < 2 {
		return "", fmt.Errorf("%w: domain needs two labels at least", ErrAddress)
	}
	return lowerASCII(s), nil
}

// Local is the part before the @.
func (a Address) Local() string { return a.s[:a.at] }

// Domain is the part behind the @.
func (a Address) Domain() string {
	if a.s == "" {
		return ""
	}
	return a.s[a.at+1:]
}

// String is the whole address.
func (a Address) String() string { return a.s }

// IsZero reports whether a is no address at all.
func (a Address) IsZero() bool { return a.s == "" }

// In reports whether a lies in domain or in a domain below it.
func (a Address) In(domain string) bool {
	own, domain := a.Domain(), lowerASCII(domain)
	return own == domain && own != "" || domain != "" && strings.HasSuffix(own, "."+domain)
}

// MarshalText gives the canonical form.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.s), nil }

// UnmarshalText parses as ParseAddress does; empty text gives the zero Address.
func (a *Address) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*a = Address{}
		return nil
	}
	b, err := ParseAddress(string(text))
	if err == nil {
		*a = b
	}
	return err
}

// IsSystem reports whether a is one of the system addresses under which the
// provider at providerDomain sends confirmations and notifications. They are
// never mapped to a tenant's address (TR-01201 part 2).
func IsSystem(a Address, providerDomain string) bool {
	if a.Domain() != lowerASCII(providerDomain) {
		return false
	}
	switch a.Local() {
	case "versandbestaetigung", "eingangsbestaetigung", "abholbestaetigung",
		"schadsoftware-warnung", "meldung", "ident-bestaetigung":
		return true
	}
	return false
}

// checkLocal accepts a dot-atom-text of at most MaxLocal octets.
func checkLocal(s string) error {
	if s == "" || len(s) > MaxLocal {
		return fmt.Errorf("%w: local part must have 1 to %d characters", ErrAddress, MaxLocal)
	}
	dot := true // a dot may not come first, last or twice
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '.' && dot || c != '.' && !isAtext(c) {
			return fmt.Errorf("%w: bad character in the local part", ErrAddress)
		}
		dot = c == '.'
	}
	if dot {
		return fmt.Errorf("%w: local part ends in a dot", ErrAddress)
	}
	return nil
}

// isAtext is atext of RFC 5322 §3.2.3.
func isAtext(c byte) bool {
	return isAlnum(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// validLabel is a letter-digit-hyphen label of RFC 1123 §2.1.
func validLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !isAlnum(s[i]) && s[i] != '-' {
			return false
		}
	}
	return true
}

// lowerASCII lowers A to Z and nothing else: strings.ToLower would turn some
// other characters into ASCII letters.
func lowerASCII(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
