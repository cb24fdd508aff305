package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay/answer"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Attributes of an outgoing message. Those two of its dispatch options are the
// receipt that the tenant sees in the message's trace.
const (
	attrReturn  = "return"         // who gets reports: the sender's e-mail address
	attrOptions = "options"        // dispatch options that were asked for
	attrSources = "options-source" // where each of them comes from
	attrRemoved = "removed"        // provider's fields that the tenant had set
	attrSender  = "sender"         // x-de-mail-sender, if it is not the reverse-path
	attrSystem  = "system"         // which of the tenant's systems handed it in
)

// maxOutHeader bounds the header of an outgoing message in bytes. It is held while
// it is read and rewritten; while the body streams, a session holds the queue's
// buffer and its own two only. A thousand recipients with long names need 100 KiB.
const maxOutHeader = 128 << 10

// Data implements smtpguard.Session.
func (s *outSession) Data(r io.Reader) (string, error) {
	if s.mail == nil || len(s.mail.rcpts) == 0 {
		return "", smtpguard.Errorf(503, "5.5.1", "RCPT comes first")
	}
	in := inputs.Get().(*input)
	defer in.put()
	in.head.Reset(r)
	t := s.system.Tenant
	h, err := demail.ReadHeader(in.head, maxOutHeader)
	if err != nil {
		return "", headerRefusal(t, err)
	}
	// The body's buffer is taken once the header is there: who dawdles holds little.
	body, err := s.r.o.Queue.NewBody(t.MaxSize + headroom)
	if err != nil {
		return "", storeRefusal(t, err)
	}
	defer body.Abort()
	e, receipt, err := s.begin(h, body)
	if err != nil {
		return "", err
	}
	if err := s.finish(in, body, e); err != nil {
		return "", err
	}
	if err := s.r.o.Queue.Commit(s.ctx, e, body); err != nil {
		return "", storeRefusal(t, err)
	}
	s.r.accepted(e, e.From)
	return "accepted as " + string(e.ID) + receipt, nil
}

// begin rewrites the header, writes it, and makes the envelope.
func (s *outSession) begin(h *demail.Header, body *queue.Body) (e *queue.Envelope, receipt string, err error) {
	m := s.mail
	t := s.system.Tenant
	l, err := letter.Rewrite(h, letter.Origin{Snapshot: s.snap, System: s.system, From: m.from, Given: m.given, UTF8: m.options.UTF8,
		ID: string(body.ID()), Host: s.r.o.Hostname(), Now: now()})
	if err != nil {
		return nil, "", err
	}
	e = &queue.Envelope{Tenant: t.ID, Direction: queue.Out, Hop: hopProvider, Class: precedence(h, classOf(s.system.Class)),
		From: m.from.String(), Recipients: m.rcpts, ENVID: m.options.EnvelopeID, RET: string(m.options.Return), Received: l.Now,
		Attributes: map[string]string{attrReturn: returnAddress(l), attrOptions: l.Asked.Names(), attrSystem: s.system.Name}}
	if l.Asked.Options != (demail.Options{}) {
		e.Attributes[attrSources] = l.Asked.Origins()
	}
	if len(l.Removed) > 0 {
		e.Attributes[attrRemoved] = clip(strings.Join(l.Removed, " "), queue.MaxText)
	}
	e.Keys = append(own(e.Tenant, queue.Out, identify(h, e.Attributes)), senderKeys(l)...)
	if l.Sender != l.From {
		e.Attributes[attrSender] = l.Sender.String()
	}
	w := &eightBit{w: body}
	if _, err := h.WriteTo(w); err != nil {
		return nil, "", contentRefusal(t, err)
	}
	e.UTF8 = w.seen
	return e, l.Asked.Receipt(), nil
}

// finish copies the body, byte for byte.
func (s *outSession) finish(in *input, body *queue.Body, e *queue.Envelope) error {
	w := &eightBit{w: body, seen: e.UTF8}
	for {
		n, err := in.fill()
		if _, fault := w.Write(in.piece[:n]); fault != nil {
			return contentRefusal(s.system.Tenant, fault)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return contentRefusal(s.system.Tenant, err)
		}
	}
	e.EightBit = w.seen
	for i := range e.Recipients { // only now: with a thousand they are no small thing to hold
		e.Keys = append(e.Keys, addressKey(e.Recipients[i].Address))
	}
	return nil
}

// Buffers of a message that is coming in.
const (
	readBuffer  = 8 << 10  // ahead of the header
	pieceBuffer = 16 << 10 // of the body: what is stored at a time
)

// input is the two buffers.
type input struct {
	head  *bufio.Reader
	piece []byte
}

var inputs = sync.Pool{New: func() any {
	return &input{head: bufio.NewReaderSize(nil, readBuffer), piece: make([]byte, pieceBuffer)}
}}

func (in *input) put() {
	in.head.Reset(nil)
	inputs.Put(in)
}

// fill reads a piece; the guard gives line by line, which is too small to store.
func (in *input) fill() (n int, err error) {
	for n < len(in.piece) && err == nil {
		var m int
		m, err = in.head.Read(in.piece[n:])
		n += m
	}
	return n, err
}

// senderKeys are the lookup keys of the sender, under each of its addresses.
func senderKeys(l *letter.Letter) []string {
	keys := []string{addressKey(l.From.String())}
	if l.Given != l.From.String() {
		keys = append(keys, addressKey(l.Given))
	}
	if l.Sender != l.From {
		keys = append(keys, addressKey(l.Sender.String()))
	}
	return keys
}

// returnAddress is the e-mail address that reports go to.
func returnAddress(l *letter.Letter) string {
	t := l.System.Tenant
	if _, mapped := t.Table.DeMail(l.Given); mapped {
		return l.Given
	}
	if mail := t.Table.Mail(l.From); len(mail) > 0 {
		return mail[0]
	}
	return t.Postmaster
}

// reserve asks the queue for room for one message: of the size that was declared
// (RFC 1870), else of the greatest that the tenant may send.
func (r *Relay) reserve(declared, most int64) (release func(), err error) {
	size := most
	if declared > 0 {
		size = min(size, declared)
	}
	return r.o.Queue.Reserve(size + headroom)
}

// headerRefusal makes an answer of what ReadHeader found; the guard's own faults
// pass.
func headerRefusal(t *tenants.Tenant, err error) error {
	switch {
	case errors.Is(err, demail.ErrHeaderTooLarge):
		return answer.Refuse(t, 552, "5.3.4", "Kopf der Nachricht ist groesser als %d KiB oder hat zu viele Felder; verteilen Sie die Empfaenger auf mehrere Nachrichten",
			"message header is larger than %d KiB or has too many fields; spread recipients over several messages", maxOutHeader>>10)
	case errors.Is(err, demail.ErrHeaderMalformed):
		return answer.Refuse(t, 554, "5.6.0", "Kopf der Nachricht ist fehlerhaft (%s); lassen Sie das sendende System in Ordnung bringen",
			"message header is malformed (%s); have the sending system put right", err)
	}
	return err
}

// contentRefusal makes an answer of a fault while a message was copied: of the
// sender's side (the guard's) or of the store.
func contentRefusal(t *tenants.Tenant, err error) error {
	var guard *smtpguard.Error
	if errors.As(err, &guard) {
		return err
	}
	return storeRefusal(t, err)
}

// eightBit notes whether a byte outside of ASCII passes.
type eightBit struct {
	w    io.Writer
	seen bool
}

func (e *eightBit) Write(p []byte) (int, error) {
	e.seen = e.seen || !ascii(p)
	return e.w.Write(p)
}

// ascii reports whether p has no byte above 0x7f, eight at a time.
func ascii(p []byte) bool {
	const high = 0x8080808080808080
	for ; len(p) >= 8; p = p[8:] {
		if binary.LittleEndian.Uint64(p)&high != 0 {
			return false
		}
	}
	for _, b := range p {
		if b >= 0x80 {
			return false
		}
	}
	return true
}
