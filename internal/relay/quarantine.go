package relay

import (
	"context"
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// judge decides what becomes of a message whose integrity is not proved, for each
// tenant as it wants it: refuse, hold, or deliver with the result on top.
//
// A message has one answer (RFC 5321 §4.1.1.4), and its tenants may want different
// things. If all of them refuse, the provider reads 554. If only some do, a 554
// would take the message from the others for good, while a hold takes nothing from
// anybody: so those who refuse get it on hold. What they asked for stays true: no
// unproved message reaches their server unless somebody decides so. Splitting
// the transaction at RCPT (452) was the other way; it would delay every sound
// message for the sake of the rare unsound one.
func (s *inSession) judge(m *taken) error {
	if m.fault == nil {
		return nil
	}
	refusing := 0
	for _, p := range s.parcels {
		if p.tenant.Integrity == tenants.Refuse {
			refusing++
		}
	}
	if refusing == len(s.parcels) {
		e := smtpguard.Errorf(554, "5.7.7", "message integrity is not proved: %s", reasonText(m.fault))
		e.Cause = m.fault
		return e
	}
	for _, p := range s.parcels {
		switch p.tenant.Integrity {
		case tenants.Mark:
		case tenants.Quarantine:
			p.hold = "integrity is not proved: " + reasonText(m.fault)
		default:
			p.hold = "integrity is not proved, and the tenant refuses such messages, but others among its recipients do not: " + reasonText(m.fault)
		}
	}
	return nil
}

// noticeHold tells the tenant's postmaster that a message is on hold. It is
// committed behind the message: whatever fails in between, the provider sends
// again, so that no hold stays without a notice.
func (r *Relay) noticeHold(ctx context.Context, p *parcel, held *queue.Envelope) error {
	if len(p.tenant.Inbound.Servers) == 0 {
		return nil // the queue's own condition tells the operator
	}
	body, err := r.o.Queue.NewBody(maxNotice)
	if err != nil {
		return err
	}
	defer body.Abort()
	n := &notice{id: body.ID(), host: r.o.Hostname(), at: now(), tenant: p.tenant, held: held, to: p.to}
	if err := n.write(body); err != nil {
		return err
	}
	e := &queue.Envelope{Tenant: held.Tenant, Direction: queue.In, Hop: hopTenant, Class: queue.Urgent,
		Recipients: []queue.Recipient{{Address: p.tenant.Postmaster}}, Received: n.at, ReportOf: held.ID}
	return r.o.Queue.Commit(ctx, e, body)
}

// Bounds of a notice.
const (
	maxNotice     = 64 << 10
	maxNoticeList = 20 // recipients that are named
)

// notice says that a message is on hold. It names sender and recipients, and
// nothing of the message's content.
type notice struct {
	id     queue.ID
	host   string
	at     time.Time
	tenant *tenants.Tenant
	held   *queue.Envelope
	to     []demail.Address
}

func (n *notice) write(w io.Writer) error {
	subject, first, second := "De-Mail angehalten", n.german(), n.english()
	if n.tenant.Language == "en" {
		subject, first, second = "De-Mail on hold", n.english(), n.german()
	}
	_, err := fmt.Fprintf(w, "Date: %s\r\nFrom: De-Mail-Gateway <%s>\r\nTo: <%s>\r\nSubject: %s (%s)\r\nMessage-ID: <%s.notice@%s>\r\n"+
		"Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
		n.at.Format(time.RFC1123Z), n.tenant.Postmaster, n.tenant.Postmaster, subject, n.held.ID, n.id, n.host)
	if err != nil {
		return err
	}
	text := quotedprintable.NewWriter(w)
	if _, err := io.WriteString(text, first+"\r\n\r\n---\r\n\r\n"+second+"\r\n"); err != nil {
		return err
	}
	return text.Close()
}

func (n *notice) german() string {
	return "Eine eingegangene De-Mail wird am Gateway angehalten, weil ihre Unversehrtheit\r\nnicht erwiesen ist.\r\n\r\n" +
		n.facts("Nummer", "Eingang", "Absender", "Empfänger", "Grund", "weitere") +
		"\r\nNichts ist verloren: Sie liegt am Gateway und kommt erst bei Ihnen an, wenn der\r\nBetreiber sie freigibt. Bitte klären Sie mit dem Absender, ob sie von ihm stammt,\r\n" +
		"und bitten Sie den Betreiber dann, sie freizugeben oder abzuweisen:\r\n\r\n" + n.commands()
}

func (n *notice) english() string {
	return "A De-Mail that came in is on hold at the gateway, because its integrity is not\r\nproved.\r\n\r\n" +
		n.facts("Number", "Arrival", "Sender", "Recipients", "Reason", "more") +
		"\r\nNothing is lost: it is kept at the gateway and reaches you only when the operator\r\nreleases it. Please find out from the sender whether it is his, and then ask\r\n" +
		"the operator to release or to bounce it:\r\n\r\n" + n.commands()
}

func (n *notice) commands() string {
	return fmt.Sprintf("  pforte queue release %s\r\n  pforte queue bounce %s\r\n", n.held.ID, n.held.ID)
}

func (n *notice) facts(number, arrival, sender, recipients, reason, more string) string {
	from := n.held.From
	if from == "" {
		from = "<>"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\r\n%s: %s\r\n%s: %s\r\n%s:\r\n", number, n.held.ID, arrival, n.held.Received.Format(time.RFC1123Z), sender, from, recipients)
	for _, a := range n.to[:min(len(n.to), maxNoticeList)] {
		fmt.Fprintf(&b, "  %s\r\n", a)
	}
	if rest := len(n.to) - maxNoticeList; rest > 0 {
		fmt.Fprintf(&b, "  … %d %s\r\n", rest, more)
	}
	fmt.Fprintf(&b, "%s: %s\r\n", reason, plainText(n.held.HoldReason))
	return b.String()
}
