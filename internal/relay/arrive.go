package relay

import (
	"bufio"
	"crypto/x509"
	"errors"
	"io"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// Attributes of an incoming message.
const (
	attrIntegrity = "integrity"    // what its proof is: algorithm and kind, or why there is none
	attrType      = "type"         // x-de-mail-message-type
	attrDuplicate = "duplicate-of" // an earlier message with the same x-de-mail-message-id
	attrConfirms  = "confirms"     // the messages whose state it tells, "none" if it tells of none
	attrUnproved  = "unproved"     // why a confirmation changes no state
)

// Data implements smtpguard.Session.
func (s *inSession) Data(r io.Reader) (string, error) {
	if len(s.parcels) == 0 {
		return "", smtpguard.Errorf(503, "5.5.1", "RCPT comes first")
	}
	defer s.Reset()
	body, err := s.r.o.Queue.NewBody(s.MaxSize() + headroom)
	if err != nil {
		return "", storeFault(err)
	}
	defer body.Abort()
	m, err := s.take(r, body)
	if err == nil {
		err = s.judge(m)
	}
	if err == nil {
		err = s.r.readNews(m, body)
	}
	if err != nil {
		return "", err
	}
	return s.commit(m, body)
}

// taken is what is known of a message after its last byte.
type taken struct {
	h        *demail.Header // as it came
	top      int            // bytes of the header as it is stored
	proof    demail.Result
	fault    error // why there is no proof
	kind     string
	eightBit bool
	utf8     bool
	news     news
}

// take stores the message as it comes and checks its integrity on the way. What
// cannot be checked now is no verdict, but for later.
func (s *inSession) take(r io.Reader, to *queue.Body) (*taken, error) {
	br := bufio.NewReaderSize(r, readBuffer)
	h, err := demail.ReadHeader(br, maxHeader)
	if err != nil {
		return nil, headerFault(err)
	}
	host := s.r.o.Hostname()
	if letter.Loops(h, host) {
		return nil, smtpguard.Errorf(554, "5.4.6", "message goes round in a loop")
	}
	w := &eightBit{w: to}
	stored := h.Clone()
	stored.RemoveFunc(func(f demail.Field) bool { return letter.Pretends(f, host) })
	if _, err := stored.WriteTo(w); err != nil {
		return nil, contentFault(err)
	}
	m := &taken{h: h, top: stored.Size(), kind: clip(h.Get(demail.FieldMessageType), queue.MaxText), utf8: w.seen}
	opt, asked := s.r.trust()
	body := &splitErrors{r: io.TeeReader(br, w)}
	m.proof, m.fault = demail.VerifyIntegrity(h, body, opt)
	switch {
	case body.err != nil:
		return nil, contentFault(body.err)
	case m.fault != nil && asked.unknown != nil:
		return nil, notNow(asked.unknown)
	}
	m.eightBit = w.seen
	return m, nil
}

// trust is by what signatures are checked now.
func (r *Relay) trust() (demail.VerifyOptions, *revocation) {
	signers := r.o.Connection().Signers
	asked := &revocation{check: signers.Revoked}
	return demail.VerifyOptions{Roots: signers.Roots, Revocation: asked.of}, asked
}

// revocation tells a certificate that is revoked from one of which that could not
// be learned.
type revocation struct {
	check   func(certificate, issuer *x509.Certificate) error
	unknown error
}

func (r *revocation) of(certificate, issuer *x509.Certificate) error {
	err := r.check(certificate, issuer)
	if err != nil && !errors.Is(err, dmda.ErrRevoked) {
		r.unknown = err
	}
	return err
}

// notNow answers that a signature cannot be checked at the moment.
func notNow(cause error) error {
	e := smtpguard.Errorf(451, "4.7.7", "the signature cannot be checked at the moment, please try again later")
	e.Cause = cause
	return e
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

// commit makes every parcel durable, one after the other, each from the one body
// that came in: only one copy is open at a time. After a failure in the middle the
// provider sends again, and those that were stored come twice: better than not at
// all.
func (s *inSession) commit(m *taken, body *queue.Body) (string, error) {
	ids := ""
	for i, p := range s.parcels {
		mine := body
		if i < len(s.parcels)-1 {
			var err error
			if mine, err = s.r.copyOf(body); err != nil {
				return "", storeFault(err)
			}
		}
		id, err := s.store(p, m, mine)
		if err != nil {
			return "", err
		}
		ids += " " + string(id)
	}
	return "accepted as" + ids, nil
}

// store makes one parcel durable, with what it proves of others; and the notice, if
// it is on hold, before the provider reads 250.
func (s *inSession) store(p *parcel, m *taken, body *queue.Body) (queue.ID, error) {
	defer body.Abort()
	e, err := s.envelope(p, m, body.ID())
	if err == nil {
		err = s.r.tellOthers(e, m)
	}
	if err != nil {
		return "", err
	}
	if err := s.r.o.Queue.Commit(s.ctx, e, body); err != nil {
		return "", storeFault(err)
	}
	if e.Hold {
		if err := s.r.noticeHold(s.ctx, p, e); err != nil {
			return "", storeFault(err)
		}
	}
	s.r.accepted(e, e.From)
	if m.fault != nil {
		s.r.o.Log.Warn("integrity not proved", "id", e.ID, "tenant", e.Tenant, "held", e.Hold, "reason", reasonText(m.fault))
	}
	if m.news.fault != nil {
		s.r.o.Log.Warn("confirmation changes no state", "id", e.ID, "tenant", e.Tenant, "reason", m.news.reason())
	}
	return e.ID, nil
}

// copyOf writes what a body holds into another one, in small pieces.
func (r *Relay) copyOf(body *queue.Body) (*queue.Body, error) {
	from, err := body.Reader()
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := r.o.Queue.NewBody(body.Size())
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Abort()
		return nil, err
	}
	return to, nil
}

func (s *inSession) envelope(p *parcel, m *taken, id queue.ID) (*queue.Envelope, error) {
	at := now()
	trace, err := (&arrival{peer: s.peer, host: s.r.o.Hostname(), id: id, at: at, results: m.results(), to: p.to}).fields()
	if err != nil {
		return nil, err
	}
	e := &queue.Envelope{ID: id, Tenant: p.tenant.ID, Direction: queue.In, Hop: hopTenant, Class: queue.Normal, From: s.from, Recipients: p.rcpts,
		EightBit: m.eightBit, UTF8: m.utf8, Received: at, Prefix: trace,
		Hold: p.hold != "", HoldReason: clip(p.hold, queue.MaxText),
		Attributes: map[string]string{attrIntegrity: m.integrity(), attrType: m.kind}}
	e.Keys = identify(m.h, e.Attributes)
	if proof, err := demail.ParseProof(m.h.Get(demail.FieldIntegrity)); err == nil {
		key := integrityKey(proof.ValueKey())
		e.Keys = append(e.Keys, key, ownKey(e.Tenant, queue.In, key))
	}
	for _, a := range p.to {
		e.Keys = append(e.Keys, addressKey(a.String()))
	}
	for i := range p.rcpts {
		e.Keys = append(e.Keys, addressKey(p.rcpts[i].Address))
	}
	if s.from != "" {
		e.Keys = append(e.Keys, addressKey(s.from))
	}
	return e, nil
}

// integrity is the result in a few words, for the trace.
func (t *taken) integrity() string {
	if t.fault != nil {
		return clip("failed: "+reasonText(t.fault), queue.MaxText)
	}
	return t.proof.Algorithm.String() + " " + kindOf(t.proof)
}
