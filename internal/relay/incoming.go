package relay

import (
	"context"
	"slices"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// incoming takes De-Mails from the provider, whose certificate the listener's TLS
// has checked.
type incoming struct{ r *Relay }

// Admit implements smtpguard.Backend.
func (i incoming) Admit(ctx context.Context, peer *smtpguard.Peer) (smtpguard.Session, error) {
	return &inSession{r: i.r, ctx: ctx, peer: peer}, nil
}

// inSession is one connection of the provider.
type inSession struct {
	r    *Relay
	ctx  context.Context
	peer *smtpguard.Peer

	open    bool
	snap    *tenants.Snapshot // of the transaction
	from    string
	options smtp.MailOptions
	parcels []*parcel
	release []func() // of reserved room
}

// parcel is one tenant's share of a message.
type parcel struct {
	tenant *tenants.Tenant
	rcpts  []queue.Recipient
	to     []demail.Address
	hold   string // why it is accepted on hold, "" if it is not
}

// MaxSize implements smtpguard.Sizer: before there are recipients, what some tenant
// takes; then what all of the message's tenants take.
func (s *inSession) MaxSize() int64 {
	if len(s.parcels) == 0 {
		return s.r.o.Tenants.Snapshot().Largest()
	}
	limit := s.parcels[0].tenant.MaxSize
	for _, p := range s.parcels {
		limit = min(limit, p.tenant.MaxSize)
	}
	return limit
}

// Mail implements smtpguard.Session. Any sender will do, also a provider's system
// address or none: who it is, the provider has checked.
func (s *inSession) Mail(from string, o *smtp.MailOptions) error {
	s.Reset()
	if err := s.reserve(o.Size); err != nil {
		return err
	}
	s.open, s.snap, s.from, s.options = true, s.r.o.Tenants.Snapshot(), from, *o
	return nil
}

// reserve keeps room for one tenant's copy of the message.
func (s *inSession) reserve(size int64) error {
	if size == 0 {
		size = s.MaxSize()
	}
	release, err := s.r.o.Queue.Reserve(size + headroom)
	if err != nil {
		return storeFault(err)
	}
	s.release = append(s.release, release)
	return nil
}

// Rcpt implements smtpguard.Session.
func (s *inSession) Rcpt(to string, o *smtp.RcptOptions) error {
	if !s.open {
		return smtpguard.Errorf(503, "5.5.1", "MAIL comes first")
	}
	a, err := demail.ParseAddress(to)
	if err != nil {
		return smtpguard.Errorf(553, "5.1.3", "not a De-Mail address")
	}
	t, domain, known := s.snap.Domain(a.Domain())
	switch {
	case !known:
		return smtpguard.Errorf(550, "5.1.2", "domain %s is not served here", a.Domain())
	case !domain.Receives:
		return smtpguard.Errorf(550, "5.7.1", "domain %s does not receive", a.Domain())
	case s.options.Size > t.MaxSize:
		return smtpguard.Errorf(552, "5.3.4", "message is larger than %d bytes", t.MaxSize)
	}
	mail := t.Table.Mail(a)
	if len(mail) == 0 && domain.CatchAll != "" {
		mail = []string{domain.CatchAll}
	}
	switch {
	case len(mail) == 0:
		return smtpguard.Errorf(550, "5.1.1", "no such address: %s", a)
	case len(mail) > queue.MaxRecipients:
		return smtpguard.Errorf(550, "5.2.4", "%s stands for more than %d addresses", a, queue.MaxRecipients)
	}
	return s.add(t, a, mail, o)
}

// add puts a recipient into its tenant's parcel. 452 makes the provider send the
// rest in transactions of their own (RFC 5321 §4.5.3.1.10).
func (s *inSession) add(t *tenants.Tenant, a demail.Address, mail []string, o *smtp.RcptOptions) error {
	i := slices.IndexFunc(s.parcels, func(p *parcel) bool { return p.tenant == t })
	if i < 0 {
		switch {
		case len(s.parcels) == maxTenantsPerMessage:
			return smtpguard.Errorf(452, "4.5.3", "too many recipients of different tenants")
		case len(s.parcels) > 0 && s.options.Size == 0 && t.MaxSize != s.parcels[0].tenant.MaxSize:
			// One answer for both would be wrong for one of them if the message turned
			// out to lie between the two.
			return smtpguard.Errorf(452, "4.5.3", "recipients with different size limits; say SIZE, or send apart")
		}
		if len(s.parcels) > 0 {
			if err := s.reserve(s.options.Size); err != nil {
				return err
			}
		}
		s.parcels = append(s.parcels, &parcel{tenant: t})
		i = len(s.parcels) - 1
	}
	p := s.parcels[i]
	if len(p.rcpts)+len(mail) > queue.MaxRecipients || len(p.to) >= queue.MaxRecipients {
		return smtpguard.Errorf(452, "4.5.3", "too many recipients")
	}
	for _, m := range mail {
		p.rcpts = addRecipient(p.rcpts, m, a.String(), o)
	}
	if !slices.Contains(p.to, a) {
		p.to = append(p.to, a)
	}
	return nil
}

// Reset implements smtpguard.Session.
func (s *inSession) Reset() {
	for _, release := range s.release {
		release()
	}
	s.open, s.parcels, s.release = false, nil, nil
}

// Close implements smtpguard.Session.
func (s *inSession) Close() { s.Reset() }
