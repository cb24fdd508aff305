package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// arrival is what the trace of an incoming message tells.
type arrival struct {
	peer    *smtpguard.Peer
	host    string
	id      queue.ID
	at      time.Time
	results string // what was found out about the message
	to      []demail.Address
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
	put(letter.FieldResults, "%s; %s", a.host, a.results)
	if len(a.to) == 1 {
		put(letter.FieldRecipient, "%s", a.to[0])
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

// results are the resinfo of RFC 8601 §2.2 on one message, without its author.
// The method x-de-mail-integrity is pass or fail; what a pass proves stands behind it:
//
//	x-de-mail.proof           signed, or hashed: nothing was changed by accident, no more
//	x-de-mail.algorithm       a= of the integrity field
//	x-de-mail.subject-sha256  the signing certificate's subject, hashed, in DER
//	x-de-mail.message-type    as TR-01201-3.4 §3.1.12 spells it, or "unknown"
//
// The method x-de-mail-confirmation stands there for confirmations and
// notifications: pass if what they say of another message is proved.
func (t *taken) results() string {
	kind := fmt.Sprintf(" x-de-mail.message-type=%q", typeText(t.kind))
	if t.fault != nil {
		return fmt.Sprintf("x-de-mail-integrity=fail reason=%q", plainText(reasonText(t.fault))) + kind
	}
	kind += t.news.result()
	s := fmt.Sprintf("x-de-mail-integrity=pass (%s) x-de-mail.algorithm=%q", kindOf(t.proof), t.proof.Algorithm)
	if t.proof.Signed {
		sum := sha256.Sum256(t.proof.Certificate.RawSubject)
		s += " x-de-mail.proof=signed x-de-mail.subject-sha256=" + hex.EncodeToString(sum[:])
	} else {
		s += " x-de-mail.proof=hashed"
	}
	return s + kind
}

// typeText keeps what the guideline knows, so that nothing from outside stands in
// a field of ours.
func typeText(kind string) string {
	if _, known := demail.MessageType(kind).Class(); !known {
		return "unknown"
	}
	return kind
}

// reasonText is why a message's integrity is not proved.
func reasonText(err error) string {
	return strings.TrimPrefix(err.Error(), "verify integrity: ")
}

// maxReason bounds a reason in a field, in bytes.
const maxReason = 200

// plainText makes s fit between quotation marks.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, clip(s, maxReason))
}

func kindOf(r demail.Result) string {
	if r.Signed {
		return "signed"
	}
	return "hashed only"
}
