package relay

import (
	"fmt"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// Fields that the relay writes on top of incoming messages.
const (
	fieldPrefix    = "x-pforte-"
	fieldRecipient = "X-Pforte-Recipient" // De-Mail address that a message was for
	fieldResults   = "Authentication-Results"
)

// ownFields lists the names of fields that pretend to be ours: X-Pforte-*, and all
// of Authentication-Results if one of them carries our name (RFC 8601 §5).
func ownFields(h *demail.Header, host string) []string {
	var names []string
	for _, f := range h.Fields() {
		switch {
		case len(f.Name()) >= len(fieldPrefix) && strings.EqualFold(f.Name()[:len(fieldPrefix)], fieldPrefix):
			names = append(names, f.Name())
		case f.Is(fieldResults) && strings.EqualFold(serverOf(f.Value()), host):
			names = append(names, f.Name())
		}
	}
	return names
}

// serverOf is the authserv-id of an Authentication-Results field (RFC 8601 §2.2).
func serverOf(value string) string {
	id, _, _ := strings.Cut(value, ";")
	id, _, _ = strings.Cut(strings.TrimSpace(id), " ")
	return id
}

// arrival is what the trace of an incoming message tells.
type arrival struct {
	peer  *smtpguard.Peer
	host  string
	id    queue.ID
	at    time.Time
	proof demail.Result
	to    []demail.Address
}

// fields writes the trace, newest on top. A single recipient's De-Mail address is
// named: with a catch-all nothing else tells it. Several are not, for they might
// be blind to each other.
func (a *arrival) fields() ([]byte, error) {
	h := demail.NewHeader()
	var faults []error
	put := func(name, format string, args ...any) {
		if err := h.Append(name, fmt.Sprintf(format, args...)); err != nil {
			faults = append(faults, err)
		}
	}
	one := ""
	if len(a.to) == 1 {
		one = " for <" + a.to[0].String() + ">"
	}
	put("Received", "from %s (%s) by %s with ESMTPS id %s%s; %s", a.peer.Helo, a.peer.Remote.Addr(), a.host, a.id, one, a.at.Format(time.RFC1123Z))
	put(fieldResults, "%s; x-de-mail-integrity=pass (%s) x-de-mail.algorithm=%s", a.host, kindOf(a.proof), a.proof.Algorithm)
	if len(a.to) == 1 {
		put(fieldRecipient, "%s", a.to[0])
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("write trace: %w", faults[0])
	}
	var b strings.Builder
	if _, err := h.WriteTo(&b); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\r\n")), nil
}

func kindOf(r demail.Result) string {
	if r.Signed {
		return "signed"
	}
	return "hashed only"
}
