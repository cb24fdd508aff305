package dmdatest

import (
	"errors"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// answersTo makes everything that comes back because of one transaction: what its
// options ask for, and what its recipients' local parts do. Nothing is sent yet.
func (s *session) answersTo(copies []oneCopy, deliveries []Delivery) ([]*Answer, error) {
	m := &answerMaker{p: s.p}
	for _, c := range copies {
		s.answerCopy(m, c)
	}
	for _, d := range deliveries {
		s.answerDelivery(m, d)
	}
	return m.out, m.err
}

// answerCopy confirms the dispatch and says what could not be delivered.
func (s *session) answerCopy(m *answerMaker, c oneCopy) {
	to := m.answerTo(c.header)
	var sent []demail.Address
	for _, rcpt := range c.recipients {
		switch f := s.faultOf(rcpt); f.name {
		case "malware":
			m.confirm(demail.TypeMalwareAcknowledge, c.header, to, time.Time{}, rcpt)
		case "malware-notification":
			m.notify(demail.TypeMalwareNotification, f, c.header, rcpt, to)
		default:
			sent = append(sent, rcpt)
		}
	}
	if len(sent) > 0 && c.header.Get(demail.FieldConfirmDispatch) == "yes" {
		m.confirm(demail.TypeDispatch, c.header, to, time.Time{}, sent...)
	}
	for _, rcpt := range sent {
		if f := s.faultOf(rcpt); f.undelivered() {
			m.notify(demail.TypeNotification, f, c.header, rcpt, to)
		}
	}
}

// answerDelivery confirms what came into one mailbox.
func (s *session) answerDelivery(m *answerMaker, d Delivery) {
	f := s.faultOf(d.Recipient)
	if d.Header.Get(demail.FieldConfirmReceipt) == "yes" {
		m.confirmBoth(demail.TypeReceipt, d)
	}
	if f.name == "retrieve" && d.Header.Get(demail.FieldConfirmRetrieve) == "yes" {
		m.confirmBoth(demail.TypeRetrieve, d)
	}
	if f.name == "identification" {
		to := m.answerTo(d.Header)
		m.add(d.Header, to, []demail.Address{d.Recipient}, func() (DeMail, error) { return s.p.Identification(to) })
	}
}

// answerMaker composes answers and keeps the faults.
type answerMaker struct {
	p   *Provider
	out []*Answer
	err error
}

func (m *answerMaker) answerTo(h *demail.Header) demail.Address {
	to, err := answerTo(h)
	m.err = errors.Join(m.err, err)
	return to
}

// confirmBoth confirms to the sender and to the recipient (demail.md §7).
func (m *answerMaker) confirmBoth(t demail.MessageType, d Delivery) {
	sender := m.answerTo(d.Header)
	m.confirm(t, d.Header, sender, d.Time, d.Recipient)
	if d.Recipient != sender {
		m.confirm(t, d.Header, d.Recipient, d.Time, d.Recipient)
	}
}

func (m *answerMaker) confirm(t demail.MessageType, original *demail.Header, to demail.Address, delivered time.Time, about ...demail.Address) {
	m.add(original, to, about, func() (DeMail, error) { return m.p.Confirmation(t, original, to, delivered) })
}

// notify makes a notification; a faulty one has faults in fields in which they
// must be tolerated (TR-01201 part 3; demail.md §5).
func (m *answerMaker) notify(t demail.MessageType, f fault, original *demail.Header, about, to demail.Address) {
	m.add(original, to, []demail.Address{about}, func() (DeMail, error) {
		d, err := m.p.Notification(t, f.notification(), original, about, to)
		if f.name == "faulty-notification" {
			d.Fields = append(d.Fields, [2]string{"date", "gestern"}, [2]string{demail.FieldVersion, "0.9"}, [2]string{demail.FieldAuthLevel, "hoch"})
		}
		return d, err
	})
}

func (m *answerMaker) add(original *demail.Header, to demail.Address, about []demail.Address, make func() (DeMail, error)) {
	if m.err != nil {
		return
	}
	d, err := make()
	var c Composed
	if err == nil {
		c, err = m.p.Compose(d)
	}
	if err != nil {
		m.err = err
		return
	}
	m.out = append(m.out, &Answer{Type: d.Type, Notify: d.Notify, To: to, About: about, Original: original.Get(demail.FieldMessageID), Composed: c})
}
