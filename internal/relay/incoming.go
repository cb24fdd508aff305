package relay

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// incoming takes De-Mails from the provider, whose certificate the listener's TLS
// has checked.
type incoming struct{ r *Relay }

// Attributes of an incoming message.
const (
	attrIntegrity = "integrity" // what its proof is: algorithm and kind
	attrType      = "type"      // x-de-mail-message-type
)

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
}

// parcel is one tenant's share of a message.
type parcel struct {
	tenant *tenants.Tenant
	rcpts  []queue.Recipient
	to     []demail.Address
	body   *queue.Body
}

// MaxSize implements smtpguard.Sizer: some tenant takes as much.
func (s *inSession) MaxSize() int64 { return s.r.o.Tenants.Snapshot().Largest() }

// Mail implements smtpguard.Session.
func (s *inSession) Mail(from string, o *smtp.MailOptions) error {
	if err := s.r.o.Queue.Room(max(o.Size, smtpguard.DefaultMessageBytes), 1); err != nil {
		return storeFault(err)
	}
	s.Reset()
	s.open, s.snap, s.from, s.options = true, s.r.o.Tenants.Snapshot(), from, *o
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
	if len(mail) == 0 {
		return smtpguard.Errorf(550, "5.1.1", "no such address: %s", a)
	}
	p, err := s.parcel(t)
	if err != nil {
		return err
	}
	for _, m := range mail {
		p.rcpts = addRecipient(p.rcpts, m, a.String(), o)
	}
	p.to = append(p.to, a)
	return nil
}

// parcel returns the tenant's share of the open transaction.
func (s *inSession) parcel(t *tenants.Tenant) (*parcel, error) {
	for _, p := range s.parcels {
		if p.tenant == t {
			if len(p.rcpts) >= queue.MaxRecipients-1 {
				return nil, smtpguard.Errorf(452, "4.5.3", "too many recipients")
			}
			return p, nil
		}
	}
	if len(s.parcels) == maxTenantsPerMessage {
		return nil, smtpguard.Errorf(452, "4.5.3", "too many recipients of different tenants")
	}
	p := &parcel{tenant: t}
	s.parcels = append(s.parcels, p)
	return p, nil
}

// Data implements smtpguard.Session.
func (s *inSession) Data(r io.Reader) (string, error) {
	if len(s.parcels) == 0 {
		return "", smtpguard.Errorf(503, "5.5.1", "RCPT comes first")
	}
	defer s.abort()
	limit, writers := int64(0), []io.Writer{}
	for _, p := range s.parcels {
		var err error
		if p.body, err = s.r.o.Queue.NewBody(p.tenant.MaxSize + headroom); err != nil {
			return "", storeFault(err)
		}
		writers = append(writers, p.body)
		limit = max(limit, p.tenant.MaxSize)
	}
	m, err := s.take(r, io.MultiWriter(writers...))
	if err != nil {
		return "", err
	}
	return s.commit(m)
}

// taken is what is known of a message after its last byte.
type taken struct {
	proof    demail.Result
	kind     string
	eightBit bool
	utf8     bool
}

// take stores the message as it comes and checks its integrity on the way.
func (s *inSession) take(r io.Reader, to io.Writer) (*taken, error) {
	br := bufio.NewReaderSize(r, readBuffer)
	h, err := demail.ReadHeader(br, maxHeader)
	if err != nil {
		return nil, headerFault(err)
	}
	host := s.r.o.Hostname()
	if err := loop(h, host); err != nil {
		return nil, err
	}
	w := &eightBit{w: to}
	stored := h.Clone()
	stored.Remove(ownFields(h, host)...)
	if _, err := stored.WriteTo(w); err != nil {
		return nil, contentFault(err)
	}
	m := &taken{kind: clip(h.Get(demail.FieldMessageType), queue.MaxText), utf8: w.seen}
	trust := s.r.o.Connection().Trust
	body := &splitErrors{r: io.TeeReader(br, w)}
	m.proof, err = demail.VerifyIntegrity(h, body, demail.VerifyOptions{Roots: trust.Roots, Revocation: trust.Revocation.Check})
	switch {
	case body.err != nil:
		return nil, contentFault(body.err)
	case err != nil:
		e := smtpguard.Errorf(554, "5.7.7", "message integrity is not proved: %s", err)
		e.Cause = err
		return nil, e
	}
	m.eightBit = w.seen
	return m, nil
}

// splitErrors keeps the error of reading apart from what its reader makes of it.
type splitErrors struct {
	r   io.Reader
	err error
}

func (s *splitErrors) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// commit makes every parcel durable. After a failure in the middle the provider
// sends again, and those that were stored come twice: better than not at all.
func (s *inSession) commit(m *taken) (string, error) {
	ids := ""
	for _, p := range s.parcels {
		e, err := s.envelope(p, m)
		if err != nil {
			return "", err
		}
		if err := s.r.o.Queue.Commit(s.ctx, e, p.body); err != nil {
			return "", storeFault(err)
		}
		s.r.accepted(e, e.From)
		ids += " " + string(e.ID)
	}
	return "accepted as" + ids, nil
}

func (s *inSession) envelope(p *parcel, m *taken) (*queue.Envelope, error) {
	at := now()
	trace, err := (&arrival{peer: s.peer, host: s.r.o.Hostname(), id: p.body.ID(), at: at, proof: m.proof, to: p.to}).fields()
	if err != nil {
		return nil, err
	}
	return &queue.Envelope{Tenant: p.tenant.ID, Direction: queue.In, Hop: hopTenant, Class: queue.Normal, From: s.from, Recipients: p.rcpts,
		ENVID: s.options.EnvelopeID, RET: string(s.options.Return), EightBit: m.eightBit, UTF8: m.utf8, Received: at, Prefix: trace,
		Attributes: map[string]string{attrIntegrity: m.proof.Algorithm.String() + " " + kindOf(m.proof), attrType: m.kind}}, nil
}

func (s *inSession) abort() {
	for _, p := range s.parcels {
		if p.body != nil {
			p.body.Abort()
		}
	}
}

// Reset implements smtpguard.Session.
func (s *inSession) Reset() { s.open, s.parcels = false, nil }

// Close implements smtpguard.Session.
func (s *inSession) Close() {}
