package relay

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// outgoing takes mail from tenants' systems.
type outgoing struct{ r *Relay }

// Attributes of an outgoing message.
const (
	attrReturn  = "return"  // who gets reports: the sender's e-mail address
	attrOptions = "options" // dispatch options that were asked for
	attrRemoved = "removed" // provider's fields that the tenant had set
	attrSystem  = "system"  // which of the tenant's systems handed it in
)

// Admit implements smtpguard.Backend.
func (o outgoing) Admit(ctx context.Context, peer *smtpguard.Peer) (smtpguard.Session, error) {
	s := &outSession{r: o.r, ctx: ctx, peer: peer}
	if err := s.identify(); err != nil {
		return nil, err
	}
	return s, nil
}

// outSession is one connection of a tenant's system.
type outSession struct {
	r      *Relay
	ctx    context.Context
	peer   *smtpguard.Peer
	snap   *tenants.Snapshot
	system *tenants.System

	open    bool // a transaction
	from    demail.Address
	back    string // the sender as given: where reports go
	options smtp.MailOptions
	rcpts   []queue.Recipient
}

// identify finds the tenant anew when the configuration has changed, so that a
// system that was taken out does not go on on an open connection.
func (s *outSession) identify() error {
	snap := s.r.o.Tenants.Snapshot()
	if snap == s.snap {
		return nil
	}
	system, err := snap.System(s.peer.TLS.PeerCertificates, s.peer.Remote.Addr(), now())
	if err != nil {
		e := smtpguard.Errorf(550, "5.7.1", "your certificate is not that of a registered system / Ihr Zertifikat gehoert zu keinem eingetragenen System")
		e.Cause, e.Close = err, true
		return e
	}
	s.snap, s.system = snap, system
	return nil
}

// MaxSize implements smtpguard.Sizer.
func (s *outSession) MaxSize() int64 { return s.system.Tenant.MaxSize }

// Mail implements smtpguard.Session.
func (s *outSession) Mail(from string, o *smtp.MailOptions) error {
	if err := s.identify(); err != nil {
		return err
	}
	t := s.system.Tenant
	if from == "" {
		return refuse(t, 550, "5.7.1", "Nachrichten ohne Absender (Meldungen) sind keine De-Mail; behalten Sie sie im eigenen Netz",
			"messages without a sender (reports) are no De-Mail; keep them in your own network")
	}
	a, err := ownSender(t, from)
	if err != nil {
		return err
	}
	if err := s.r.o.Queue.Room(t.MaxSize, 1); err != nil {
		return storeFault(err)
	}
	s.open, s.from, s.options, s.rcpts = true, a, *o, nil
	s.back = returnAddress(t, from, a)
	return nil
}

// returnAddress is the e-mail address behind a sender.
func returnAddress(t *tenants.Tenant, from string, a demail.Address) string {
	if _, mapped := t.Table.DeMail(from); mapped {
		return from
	}
	if mail := t.Table.Mail(a); len(mail) > 0 {
		return mail[0]
	}
	return t.Postmaster
}

// Rcpt implements smtpguard.Session.
func (s *outSession) Rcpt(to string, o *smtp.RcptOptions) error {
	if !s.open {
		return smtpguard.Errorf(503, "5.5.1", "MAIL comes first")
	}
	a, err := demail.ParseAddress(to)
	if err != nil || !s.snap.IsDeMail(a) {
		return refuse(s.system.Tenant, 550, "5.7.1", "%s ist keine De-Mail-Adresse; senden Sie gewoehnliche E-Mail nicht ueber das De-Mail-Gateway",
			"%s is no De-Mail address; do not send ordinary e-mail through the De-Mail gateway", to)
	}
	s.rcpts = addRecipient(s.rcpts, a.String(), "", o)
	return nil
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

// Data implements smtpguard.Session.
func (s *outSession) Data(r io.Reader) (string, error) {
	if !s.open || len(s.rcpts) == 0 {
		return "", smtpguard.Errorf(503, "5.5.1", "RCPT comes first")
	}
	t := s.system.Tenant
	body, err := s.r.o.Queue.NewBody(t.MaxSize + headroom)
	if err != nil {
		return "", storeFault(err)
	}
	defer body.Abort()
	e := &queue.Envelope{Tenant: t.ID, Direction: queue.Out, Hop: hopProvider, Class: queue.Normal, From: s.from.String(), Recipients: s.rcpts,
		ENVID: s.options.EnvelopeID, RET: string(s.options.Return), Received: now()}
	if err := s.take(r, body, e); err != nil {
		return "", err
	}
	if err := s.r.o.Queue.Commit(s.ctx, e, body); err != nil {
		return "", storeFault(err)
	}
	s.r.accepted(e, e.From)
	return "accepted as " + string(e.ID), nil
}

// take reads the message, rewrites its header and stores it.
func (s *outSession) take(r io.Reader, body *queue.Body, e *queue.Envelope) error {
	br := bufio.NewReaderSize(r, readBuffer)
	h, err := demail.ReadHeader(br, maxHeader)
	if err != nil {
		return headerFault(err)
	}
	l := &letter{h: h, snap: s.snap, tenant: s.system.Tenant, from: s.from, utf8: s.options.UTF8, id: body.ID(), host: s.r.o.Hostname(), now: e.Received}
	if err := l.prepare(); err != nil {
		return err
	}
	w := &eightBit{w: body}
	if _, err := h.WriteTo(w); err != nil {
		return contentFault(err)
	}
	e.UTF8 = w.seen
	if _, err := io.Copy(w, br); err != nil {
		return contentFault(err)
	}
	e.EightBit = w.seen
	e.Attributes = map[string]string{attrReturn: s.back, attrOptions: optionsText(l.options), attrSystem: s.system.Name}
	if len(l.gone) > 0 {
		e.Attributes[attrRemoved] = clip(strings.Join(l.gone, " "), queue.MaxText)
	}
	return nil
}

// readBuffer is what a session reads ahead of a message's header.
const readBuffer = 8 << 10

// headerFault makes an answer of what ReadHeader found; the guard's own faults
// pass.
func headerFault(err error) error {
	switch {
	case errors.Is(err, demail.ErrHeaderTooLarge):
		return smtpguard.Errorf(552, "5.3.4", "message header is larger than %d bytes or has too many fields", maxHeader)
	case errors.Is(err, demail.ErrHeaderMalformed):
		return smtpguard.Errorf(554, "5.6.0", "message header is malformed: %s", err)
	}
	return err
}

// contentFault makes an answer of a fault while a message was copied: of the
// sender's side (the guard's) or of the store.
func contentFault(err error) error {
	var guard *smtpguard.Error
	if errors.As(err, &guard) {
		return err
	}
	return storeFault(err)
}

// Reset implements smtpguard.Session.
func (s *outSession) Reset() { s.open, s.rcpts = false, nil }

// Close implements smtpguard.Session.
func (s *outSession) Close() {}

// eightBit notes whether a byte outside of ASCII passes.
type eightBit struct {
	w    io.Writer
	seen bool
}

func (e *eightBit) Write(p []byte) (int, error) {
	for i := 0; i < len(p) && !e.seen; i++ {
		e.seen = p[i] >= 0x80
	}
	return e.w.Write(p)
}

// optionsText is the list of dispatch options for trace and log.
func optionsText(o demail.Options) string {
	var all []string
	for _, x := range []struct {
		on   bool
		name string
	}{{o.ConfirmDispatch, "confirm-dispatch"}, {o.ConfirmReceipt, "confirm-receipt"}, {o.ConfirmRetrieve, "confirm-retrieve"},
		{o.Private, "private"}, {o.Authoritative, "authoritative"}} {
		if x.on {
			all = append(all, x.name)
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, " ")
}

func clip(s string, n int) string { return s[:min(len(s), n)] }
