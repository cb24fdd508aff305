package dmdatest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// authMechanism is what the simulator writes into x-de-mail-auth-mechanism; the
// guideline leaves the text open (TR-01201-3.4 §3.1.10).
const authMechanism = "client certificate on a gateway token"

// accept judges a whole message, makes the copies that are delivered and records
// the transaction. The error is the SMTP answer.
func (s *session) accept(raw []byte, acknowledged bool) error {
	if len(raw) > MaxMessage {
		return reply(552, "5.3.4", "message is too large")
	}
	h, body, err := split(raw)
	if err != nil {
		return reply(554, "5.6.0", err.Error())
	}
	if s.p.full(int64(len(body)), len(s.recipients)) {
		return reply(452, "4.3.1", "the simulator's memory for messages is used up")
	}
	received := raw[:len(raw)-len(body)]
	messageID := h.Get("message-id")
	copies, err := s.prepare(h)
	if err != nil {
		return err
	}
	sum, now := sha256.Sum256(body), time.Now()
	var deliveries []Delivery
	for _, c := range copies {
		if err := s.p.seal(c.header, body); err != nil {
			return reply(554, "5.6.0", err.Error())
		}
		for _, rcpt := range c.recipients {
			if s.faultOf(rcpt).undelivered() {
				continue
			}
			d := Delivery{
				ID: c.header.Get(demail.FieldMessageID), Token: s.token.Name, From: s.from, Recipient: rcpt,
				Header: c.header.Clone(), Received: received, Body: body, BodySHA256: sum, Time: now,
			}
			if s.p.cfg.HashOnly {
				d.Body = nil
			}
			if err := d.Header.Prepend(demail.FieldEnvelopeTo, rcpt.String()); err != nil {
				return reply(554, "5.6.0", err.Error())
			}
			deliveries = append(deliveries, d)
		}
	}
	answers, err := s.answersTo(copies, deliveries)
	if err != nil {
		return reply(554, "5.6.0", oneLine(err))
	}
	s.p.record(Receipt{
		MessageID: messageID, Token: s.token.Name, From: s.from, Recipients: slices.Clone(s.recipients),
		BodySHA256: sum, Size: int64(len(raw)), Time: now, Acknowledged: acknowledged,
	}, deliveries, answers)
	return nil
}

// faultOf is the fault that this recipient of the transaction asked for.
func (s *session) faultOf(a demail.Address) fault {
	if i := slices.Index(s.recipients, a); i >= 0 {
		return s.faults[i]
	}
	return fault{}
}

// split takes header and body apart and refuses what would let two readers see
// two messages: bare CR, bare LF, NUL.
func split(raw []byte) (*demail.Header, []byte, error) {
	h, err := demail.ReadHeader(bufio.NewReader(bytes.NewReader(raw)), 0)
	if err != nil {
		return nil, nil, err
	}
	body := raw[h.Size():] // what was read is what WriteTo would write
	if !wholeLines(body) {
		return nil, nil, errors.New("bare CR, bare LF or NUL in the body")
	}
	return h, body, nil
}

// wholeLines reports whether b has CR and LF in pairs only, and no NUL.
func wholeLines(b []byte) bool {
	if bytes.IndexByte(b, 0) >= 0 {
		return false
	}
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		line, cut := b, len(b)
		if i >= 0 {
			if i == 0 || b[i-1] != '\r' {
				return false
			}
			line, cut = b[:i-1], i+1
		}
		if bytes.IndexByte(line, '\r') >= 0 {
			return false
		}
		b = b[cut:]
	}
	return true
}

// oneCopy is a header and who gets it.
type oneCopy struct {
	header     *demail.Header
	recipients []demail.Address
}

// prepare checks what the sender chose, replaces the provider's fields, and makes
// one copy for the open recipients and one for each blind one (TR-01201-3.4
// §3.1.8, §3.1.21).
func (s *session) prepare(h *demail.Header) ([]oneCopy, error) {
	if err := s.checkSender(h); err != nil {
		return nil, err
	}
	opts, err := demail.OptionsFromHeader(h)
	if err == nil {
		err = opts.Check(demail.LevelHigh, s.account.Public)
	}
	if err != nil {
		return nil, reply(554, "5.7.0", oneLine(err))
	}
	list, err := chosen(h, s.recipients)
	if err != nil {
		return nil, reply(554, "5.6.0", oneLine(err))
	}
	demail.StripProviderFields(h)
	opts.Apply(h)
	if err := s.complete(h); err != nil {
		return nil, reply(554, "5.6.0", oneLine(err))
	}
	copies, err := s.copies(h, list)
	if err != nil {
		return nil, reply(554, "5.6.0", oneLine(err))
	}
	return copies, nil
}

// checkSender wants From and x-de-mail-sender among the token's own addresses.
func (s *session) checkSender(h *demail.Header) error {
	from, err := mail.ParseAddressList(h.Get("from"))
	if err != nil || len(h.Values("from")) != 1 {
		return reply(554, "5.6.0", "message needs exactly one From")
	}
	names := []string{}
	for _, a := range from {
		names = append(names, a.Address)
	}
	if h.Has(demail.FieldSender) {
		names = append(names, h.Get(demail.FieldSender))
	}
	for _, name := range names {
		a, err := demail.ParseAddress(name)
		if err != nil || !s.account.owns(a) {
			return reply(550, "5.7.1", "From or x-de-mail-sender is not of the sender's account")
		}
	}
	return nil
}

// chosen gives the recipients that the sender chose. Recipients of the envelope
// that the field leaves out are blind ones; without a field all are open.
func chosen(h *demail.Header, envelope []demail.Address) (demail.Recipients, error) {
	if !h.Has(demail.FieldChosenRecipient) {
		return demail.Recipients{To: envelope}, nil
	}
	list, err := demail.ParseRecipients(h.Get(demail.FieldChosenRecipient))
	if err != nil {
		return demail.Recipients{}, err
	}
	list.BCC = nil
	for _, a := range envelope {
		if !slices.Contains(list.To, a) && !slices.Contains(list.CC, a) {
			list.BCC = append(list.BCC, a)
		}
	}
	return list, nil
}

// complete sets what a provider sets (TR-01201-3.4 §3.1) but for the fields that
// differ between copies.
func (s *session) complete(h *demail.Header) error {
	for _, f := range [][2]string{
		{"date", time.Now().Format(time.RFC1123Z)},
		{"message-id", "<" + newID() + "@" + s.p.cfg.Host + ">"},
		{"subject", ""},
	} {
		if !h.Has(f[0]) {
			if err := h.Append(f[0], f[1]); err != nil {
				return err
			}
		}
	}
	if !h.Has(demail.FieldSender) {
		if err := h.Append(demail.FieldSender, s.from.String()); err != nil {
			return err
		}
	}
	trace := fmt.Sprintf("from %s (token %s) by %s with ESMTPS; %s",
		word(s.helo), word(s.token.Name), s.p.cfg.Host, time.Now().Format(time.RFC1123Z))
	if err := h.Prepend("received", trace); err != nil {
		return err
	}
	return setFields(h, s.p.providerFields(demail.TypeNormal, s.account.Holder))
}

// providerFields are those that do not depend on the recipients.
func (p *Provider) providerFields(t demail.MessageType, holder string) [][2]string {
	fields := [][2]string{
		{demail.FieldOriginatorProvider, p.cfg.Host},
		{demail.FieldMessageType, string(t)},
		{demail.FieldVersion, demail.Version},
	}
	if t != demail.TypeNormal {
		return fields
	}
	return append(fields, [][2]string{
		{demail.FieldAuthLevel, string(demail.LevelHigh)},
		{demail.FieldAuthMechanism, authMechanism},
		{demail.FieldAccountHolder, holder},
	}...)
}

func setFields(h *demail.Header, fields [][2]string) error {
	for _, f := range fields {
		if err := h.Replace(f[0], f[1]); err != nil {
			return err
		}
	}
	return nil
}

// copies divides the recipients of the envelope.
func (s *session) copies(h *demail.Header, list demail.Recipients) ([]oneCopy, error) {
	var open []demail.Address
	for _, a := range s.recipients {
		if !slices.Contains(list.BCC, a) {
			open = append(open, a)
		}
	}
	var out []oneCopy
	add := func(to []demail.Address, l demail.Recipients) error {
		c := oneCopy{h.Clone(), to}
		out = append(out, c)
		return s.p.address(c.header, l)
	}
	if len(open) > 0 {
		if err := add(open, demail.Recipients{To: list.To, CC: list.CC}); err != nil {
			return nil, err
		}
	}
	for _, a := range list.BCC {
		l := demail.Recipients{To: list.To, CC: list.CC, BCC: []demail.Address{a}}
		if err := add([]demail.Address{a}, l); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// address writes the fields of one copy: a number of its own and its recipients.
func (p *Provider) address(h *demail.Header, l demail.Recipients) error {
	text, err := l.Format()
	if err != nil {
		return err
	}
	return setFields(h, [][2]string{
		{demail.FieldChosenRecipient, text},
		{demail.FieldActualRecipient, text},
		{demail.FieldMessageID, newID() + "@" + p.cfg.Host},
	})
}

// seal computes the integrity last of all, signed if the sender is confirmed, and
// refuses to deliver what TR-01201-3.4 would not allow.
func (p *Provider) seal(h *demail.Header, body []byte) error {
	opt := demail.IntegrityOptions{Time: time.Now()}
	if h.Get(demail.FieldAuthoritative) == "yes" {
		p.sign(&opt)
	}
	if err := demail.Seal(h, bytes.NewReader(body), opt); err != nil {
		return err
	}
	_, faults := demail.Validate(h)
	if err := faults.Err(); err != nil {
		return errors.New(oneLine(err))
	}
	return nil
}

// newID is 128 random bits in hex: unique for every message (TR-01201-3.4 §3.1.18).
func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return fmt.Sprintf("%x", b)
}

// oneLine makes joined errors fit one SMTP answer.
func oneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// word keeps what may stand in a Received field.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && !strings.ContainsRune("();<>", r) {
			return r
		}
		return -1
	}, s)
}
