package letter

import (
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Fields that the relay writes on top of incoming messages.
const (
	FieldPrefix    = "x-pforte-"          // of all that are ours alone
	FieldRecipient = "X-Pforte-Recipient" // De-Mail address that a message was for
	FieldResults   = "Authentication-Results"
)

// Pretends reports whether a field from outside passes for one of ours: X-Pforte-*,
// or results whose authserv-id is our name (RFC 8601 §5).
func Pretends(f demail.Field, host string) bool {
	if f.HasPrefix(FieldPrefix) {
		return true
	}
	return f.Is(FieldResults) && Claims(f.Value(), host)
}

// Claims reports whether an Authentication-Results field says that host wrote it.
// A value whose author cannot be read counts as that of any host that it mentions:
// another reader might be less strict.
func Claims(value, host string) bool {
	id, ok := serverOf(value)
	if !ok {
		return strings.Contains(strings.ToLower(value), strings.ToLower(host))
	}
	return strings.EqualFold(strings.TrimSuffix(id, "."), host)
}

// serverOf is the authserv-id: a token or a quoted string, behind white space and
// comments (RFC 8601 §2.2).
func serverOf(value string) (id string, ok bool) {
	sc := scanner{s: value}
	for sc.at < len(value) {
		if skipped, err := sc.blank(); err != nil {
			return "", false
		} else if skipped {
			continue
		}
		if value[sc.at] == '"' {
			from := sc.at + 1
			if sc.quoted() != nil {
				return "", false
			}
			return unquote(value[from : sc.at-1]), true
		}
		rest := value[sc.at:]
		if n := strings.IndexAny(rest, " \t\r\n()<>@,;:\\\"/[]?="); n >= 0 { // no token has these (RFC 2045 §5.1)
			rest = rest[:n]
		}
		return rest, rest != ""
	}
	return "", false
}

// unquote takes the backslashes out of a quoted string.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
