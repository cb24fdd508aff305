package mapping

import "gitlab.opencode.de/pforte/pforte/internal/demail"

// Bounds of an e-mail address and its parts (RFC 5321 §4.5.3.1, RFC 1035 §2.3.4).
const (
	maxMail   = 254
	maxLocal  = 64
	maxDomain = 253
	maxLabel  = 63
)

// isMail reports whether s is an address in lower case: a dot-atom (RFC 5322
// §3.2.3) and a domain of two labels or more, the last no number.
func isMail(s string) bool { return isAddress(s, maxDomain, maxMail) }

// isDeMail is isMail within De-Mail's bounds (TR-01201 part 2).
func isDeMail(s string) bool { return isAddress(s, demail.MaxDomain, demail.MaxAddress) }

func isAddress(s string, domain, all int) bool {
	if len(s) > all {
		return false
	}
	for i := range len(s) {
		if s[i] == '@' {
			return isLocal(s[:i]) && isDomain(s[i+1:], domain)
		}
	}
	return false
}

func isLocal(s string) bool {
	if s == "" || len(s) > maxLocal {
		return false
	}
	dot := true // none may come first, last or twice
	for i := range len(s) {
		c := s[i]
		if c == '.' && dot || c != '.' && !isAtom(c) {
			return false
		}
		dot = c == '.'
	}
	return !dot
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// isAtom is atext without upper case.
func isAtom(c byte) bool {
	if isLower(c) {
		return true
	}
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '/', '=', '?', '^', '_', '`', '{', '|', '}', '~':
		return true
	}
	return false
}

func isDomain(s string, most int) bool {
	labels, start, number := 0, 0, true
	for i := 0; i <= len(s); i++ {
		if i < len(s) && s[i] != '.' {
			if !isLower(s[i]) && s[i] != '-' {
				return false
			}
			number = number && '0' <= s[i] && s[i] <= '9'
			continue
		}
		if i == start || i-start > maxLabel || s[start] == '-' || s[i-1] == '-' {
			return false
		}
		labels++
		if start = i + 1; i < len(s) {
			number = true
		}
	}
	return labels >= 2 && len(s) <= most && !number
}
