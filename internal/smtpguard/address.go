package smtpguard

import (
	"errors"
	"strings"
)

// Bounds of RFC 5321 §4.5.3.1.
const (
	maxLocal  = 64
	maxDomain = 255
	maxPath   = 254 // without the angle brackets
	maxLabel  = 63
)

// CheckAddress reports why a is not a plain mailbox as the package comment
// defines it; nil means that it can be written between angle brackets as it is.
func CheckAddress(a string) error {
	local, domain, found := strings.Cut(a, "@")
	switch {
	case len(a) > maxPath:
		return errors.New("address is longer than 254 characters")
	case !found:
		return errors.New("address has no domain")
	case len(local) == 0 || len(local) > maxLocal:
		return errors.New("local part must have 1 to 64 characters")
	case !dotAtom(local):
		return errors.New("local part must be letters, digits and !#$%&'*+-/=?^_`{|}~ separated by single dots")
	}
	return checkDomain(domain)
}

func checkDomain(d string) error {
	if len(d) == 0 || len(d) > maxDomain {
		return errors.New("domain must have 1 to 255 characters")
	}
	for label := range strings.SplitSeq(d, ".") {
		if len(label) == 0 || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return errors.New("domain must be labels of 1 to 63 characters separated by dots")
		}
		for i := range len(label) {
			if !alnum(label[i]) && label[i] != '-' {
				return errors.New("domain may hold only letters, digits, hyphens and dots")
			}
		}
	}
	return nil
}

func dotAtom(s string) bool {
	for atom := range strings.SplitSeq(s, ".") {
		if atom == "" {
			return false
		}
		for i := range len(atom) {
			if !alnum(atom[i]) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", rune(atom[i])) {
				return false
			}
		}
	}
	return true
}

func alnum(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// path checks the argument of MAIL or RCPT: prefix, path, parameters. It returns
// the argument as go-smtp must read it.
func (c *conn) path(verb, arg, prefix string) (string, *Error) {
	address, rest, fault := cutPath(arg, prefix)
	if fault != nil {
		return "", fault
	}
	if address != "" || verb != "MAIL" {
		if fault := pathFault(address); fault != nil {
			return "", fault
		}
	}
	if fault := c.params(verb, rest); fault != nil {
		return "", fault
	}
	return prefix + "<" + address + ">" + rest, nil
}

// cutPath splits prefix, address and parameters; the latter start with a space or
// are empty.
func cutPath(arg, prefix string) (address, rest string, fault *Error) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", "", Errorf(501, "5.5.4", "the command needs %s<address>", prefix)
	}
	inner, found := strings.CutPrefix(strings.TrimLeft(arg[len(prefix):], " "), "<")
	if !found {
		return "", "", Errorf(501, "5.5.4", "the address must stand in angle brackets: %s<address>", prefix)
	}
	address, rest, found = strings.Cut(inner, ">")
	if !found || rest != "" && rest[0] != ' ' {
		if strings.Contains(address, `"`) {
			return "", "", quotedFault()
		}
		return "", "", Errorf(501, "5.5.4", "the address must end in > followed by a space or the end of the line")
	}
	return address, rest, nil
}

func quotedFault() *Error {
	return Errorf(553, "5.1.3", "quoted local parts are not taken; use a plain address")
}

func pathFault(address string) *Error {
	switch {
	case strings.HasPrefix(address, "@"):
		return Errorf(553, "5.1.3", "source routes are not taken; use a plain address")
	case strings.ContainsAny(address, `"\`):
		return quotedFault()
	case strings.Contains(address, "@["):
		return Errorf(553, "5.1.3", "address literals are not taken; use a domain")
	}
	for i := range len(address) {
		if address[i] >= 0x80 {
			return Errorf(553, "5.6.7", "addresses must be ASCII; write the domain in its xn-- form, and use an address with an ASCII local part")
		}
	}
	if err := CheckAddress(address); err != nil {
		return Errorf(553, "5.1.3", "%s", err.Error())
	}
	return nil
}
