package relay

import (
	"context"
	"strings"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/answer"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// outgoing takes mail from tenants' systems.
type outgoing struct{ r *Relay }

// Admit implements smtpguard.Backend. Without a certificate that is known, a peer
// may come in to log in where systems do so at all.
func (o outgoing) Admit(ctx context.Context, peer *smtpguard.Peer) (smtpguard.Session, error) {
	s := &outSession{r: o.r, ctx: ctx, peer: peer}
	if err := s.identify(); err != nil {
		return nil, err
	}
	return s, nil
}

// outSession is one connection of a tenant's system. Between messages it holds
// nothing but what stands here.
type outSession struct {
	r       *Relay
	ctx     context.Context
	peer    *smtpguard.Peer
	snap    *tenants.Snapshot
	system  *tenants.System // nil: not known yet
	login   bool            // known by AUTH
	counted string          // the tenant that this connection counts for, "" for none

	mail *transaction // nil: none is open
}

// transaction is one message's envelope as far as it came.
type transaction struct {
	from    demail.Address
	given   string // the sender as given
	options smtp.MailOptions
	rcpts   []queue.Recipient
	release func() // gives back the room that is reserved
}

// MaxSize implements smtpguard.Sizer.
func (s *outSession) MaxSize() int64 {
	if s.system == nil {
		return s.snap.Largest()
	}
	return s.system.Tenant.MaxSize
}

// Mail implements smtpguard.Session.
func (s *outSession) Mail(from string, o *smtp.MailOptions) error {
	s.Reset()
	if err := s.identify(); err != nil {
		return err
	}
	if err := s.known(); err != nil {
		return err
	}
	t := s.system.Tenant
	if from == "" {
		return answer.Refuse(t, 550, "5.7.1", "Nachrichten ohne Absender (Meldungen) sind keine De-Mail; behalten Sie sie im eigenen Netz",
			"messages without a sender (reports) are no De-Mail; keep them in your own network")
	}
	a, err := letter.OwnSender(s.system, from)
	if err != nil {
		return err
	}
	if err := checkMailOptions(t, o); err != nil {
		return err
	}
	if !s.r.meters.message(t, now()) {
		return answer.Refuse(t, 451, "4.7.1", "mehr als %d Nachrichten in einer Minute; senden Sie spaeter erneut, oder lassen Sie die Grenze erhoehen",
			"more than %d messages in one minute; send again later, or have the limit raised", t.Rates.MessagesPerMinute)
	}
	release, err := s.r.reserve(o.Size, t.MaxSize)
	if err != nil {
		return storeRefusal(t, err)
	}
	s.mail = &transaction{from: a, given: from, options: *o, release: release}
	return nil
}

// Rcpt implements smtpguard.Session.
func (s *outSession) Rcpt(to string, o *smtp.RcptOptions) error {
	if s.mail == nil {
		return smtpguard.Errorf(503, "5.5.1", "MAIL comes first")
	}
	t := s.system.Tenant
	a, err := s.recipient(to)
	if err != nil {
		return err
	}
	if err := checkRcptOptions(t, o); err != nil {
		return err
	}
	if len(s.mail.rcpts) >= queue.MaxRecipients {
		return answer.Refuse(t, 452, "4.5.3", "mehr als %d Empfaenger; senden Sie die uebrigen in einer weiteren Nachricht",
			"more than %d recipients; send to the others in a further message", queue.MaxRecipients)
	}
	if !s.r.meters.recipient(t, now()) {
		return answer.Refuse(t, 451, "4.7.1", "mehr als %d Empfaenger in einer Minute; senden Sie spaeter erneut, oder lassen Sie die Grenze erhoehen",
			"more than %d recipients in one minute; send again later, or have the limit raised", t.Rates.RecipientsPerMinute)
	}
	original := ""
	if !strings.EqualFold(a.String(), to) {
		original = to
	}
	s.mail.rcpts = addRecipient(s.mail.rcpts, a.String(), original, o)
	return nil
}

// recipient is the De-Mail address of a forward-path: the path itself, or what an
// e-mail address of the tenant's own is mapped to, as in To and Cc. Nothing leaves
// to the Internet (TR-01201, security module, chapter 10).
func (s *outSession) recipient(to string) (demail.Address, error) {
	if a, mapped := s.system.Tenant.Table.DeMail(to); mapped {
		return a, nil
	}
	a, err := demail.ParseAddress(to)
	if err != nil || !s.snap.IsDeMail(a) {
		return a, answer.Refuse(s.system.Tenant, 550, "5.7.1", "%s ist keine De-Mail-Adresse; senden Sie gewoehnliche E-Mail nicht ueber das De-Mail-Gateway",
			"%s is no De-Mail address; do not send ordinary e-mail through the De-Mail gateway", to)
	}
	return a, nil
}

// addRecipient appends, unless the address is there already. original is the
// address that address stands for, "" if it is itself.
func addRecipient(list []queue.Recipient, address, original string, o *smtp.RcptOptions) []queue.Recipient {
	for i := range list {
		if list[i].Address == address {
			return list
		}
	}
	r := queue.Recipient{Address: address}
	if original != "" {
		r.Original = "rfc822;" + original
	}
	if o.OriginalRecipient != "" {
		r.Original = strings.ToLower(string(o.OriginalRecipientType)) + ";" + o.OriginalRecipient
	}
	var notify []string
	for _, n := range o.Notify {
		notify = append(notify, string(n))
	}
	r.Notify = strings.Join(notify, ",")
	return append(list, r)
}

// Bounds of RFC 3461 §4.2 and §4.4, in characters of the parameter; decoded they
// are shorter, never longer.
const (
	maxENVID = 100
	maxORCPT = 500
)

// checkMailOptions and checkRcptOptions refuse what could not be passed on exactly
// (RFC 3461 §5.2). The guard has checked the syntax.
func checkMailOptions(t *tenants.Tenant, o *smtp.MailOptions) error {
	if len(o.EnvelopeID) > maxENVID {
		return answer.Refuse(t, 501, "5.5.4", "ENVID ist laenger als %d Zeichen; kuerzen Sie sie", "ENVID is longer than %d characters; shorten it", maxENVID)
	}
	return nil
}

func checkRcptOptions(t *tenants.Tenant, o *smtp.RcptOptions) error {
	if len(o.OriginalRecipientType)+1+len(o.OriginalRecipient) > maxORCPT {
		return answer.Refuse(t, 501, "5.5.4", "ORCPT ist laenger als %d Zeichen; kuerzen Sie ihn", "ORCPT is longer than %d characters; shorten it", maxORCPT)
	}
	return nil
}

// Reset implements smtpguard.Session.
func (s *outSession) Reset() {
	if s.mail != nil {
		s.mail.release()
		s.mail = nil
	}
}

// Close implements smtpguard.Session.
func (s *outSession) Close() {
	s.Reset()
	s.uncount()
}
