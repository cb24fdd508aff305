// Package letter makes the header of a De-Mail out of what a tenant's system hands in:
// it checks who may send as whom, maps addresses, writes the recipients' field, and
// finds out what the message asks for. It works on the header in memory and on
// nothing else: no disk, no network, no clock. What is wrong is answered in the
// tenant's language.
//
// The steps, in order (Rewrite): letter.go has the header as a whole, senders.go the
// fields that say who sends, mailbox.go the addresses within a field, chosen.go the
// recipients' field, options.go the dispatch options, subject.go keywords in the
// subject. ours.go knows the fields that only we may write, for incoming mail, too.
//
// The order matters: senders are known before options are looked up by them, and
// x-de-mail-chosen-recipient is written before Bcc goes.
package letter

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/relay/answer"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Bounds that end loops (RFC 5321 §6.3): of all Received fields, and of our own.
const (
	maxReceived    = 100
	maxOwnReceived = 5
)

// Origin is where a message comes from, and who takes it.
type Origin struct {
	Snapshot *tenants.Snapshot
	System   *tenants.System
	From     demail.Address // of the envelope, mapped
	Given    string         // of the envelope, as the system gave it
	UTF8     bool           // the system said SMTPUTF8
	ID       string         // the queue's
	Host     string         // our name
	Now      time.Time
}

// Letter is a header that has become a De-Mail's, and what was found out about it.
type Letter struct {
	Origin
	Sender  demail.Address // x-de-mail-sender
	Asked   Asked
	Removed []string // provider's fields that the tenant had set

	h          *demail.Header
	tenant     *tenants.Tenant
	senderMail string            // the e-mail address that Sender was mapped from, "" if from none
	shown      demail.Recipients // of To and Cc
}

// Rewrite checks h and makes it a De-Mail's, in place. Every error is an answer to the
// system; h is of no use then.
func Rewrite(h *demail.Header, o Origin) (*Letter, error) {
	l := &Letter{Origin: o, h: h, tenant: o.System.Tenant}
	for _, step := range [...]func(*Letter) error{
		(*Letter).loops, (*Letter).single, (*Letter).ascii, (*Letter).senders, (*Letter).readers, (*Letter).replyTo,
		(*Letter).chosen, (*Letter).strange, (*Letter).strip, (*Letter).dispatch, (*Letter).complete,
	} {
		if err := step(l); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Letter) refuse(code int, enhanced, german, english string, args ...any) error {
	return answer.Refuse(l.tenant, code, enhanced, german, english, args...)
}

// loops ends what goes round and round.
func (l *Letter) loops() error {
	if Loops(l.h, l.Host) {
		return l.refuse(554, "5.4.6", "Nachricht laeuft im Kreis (Felder Received); pruefen Sie, wohin Ihr Mailserver De-Mails leitet",
			"message goes round in a loop (Received fields); check where your mail server sends De-Mails")
	}
	return nil
}

// Loops reports whether a message has been too often somewhere, or here.
func Loops(h *demail.Header, host string) bool {
	all, own := 0, 0
	for _, f := range h.All() {
		if f.Is("received") {
			all++
			if strings.Contains(f.Value(), " by "+host+" ") {
				own++
			}
		}
	}
	return all > maxReceived || own >= maxOwnReceived
}

// onceOnly are fields of which RFC 5322 §3.6 or TR-01201-3.4 allows one: of two,
// two readers could take different ones.
var onceOnly = [...]string{"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id",
	demail.FieldSender, demail.FieldChosenRecipient, demail.FieldPrivateID,
	demail.FieldConfirmDispatch, demail.FieldConfirmReceipt, demail.FieldConfirmRetrieve, demail.FieldAuthoritative, demail.FieldPrivate}

func (l *Letter) single() error {
	var seen [len(onceOnly)]int
	for _, f := range l.h.All() {
		for i, name := range onceOnly {
			if f.Is(name) {
				seen[i]++
			}
		}
	}
	for i, n := range seen {
		if n > 1 {
			return l.refuse(554, "5.6.0", "Kopffeld %s steht %d-mal da, erlaubt ist es einmal; lassen Sie das sendende System in Ordnung bringen",
				"header field %s stands there %d times, and may once; have the sending system put right", onceOnly[i], n)
		}
	}
	return nil
}

func (l *Letter) ascii() error {
	if l.UTF8 {
		return nil
	}
	for _, f := range l.h.All() {
		if !f.ASCII() {
			return l.refuse(554, "5.6.7", "Kopffeld %s hat Zeichen ausserhalb von ASCII; kodieren Sie es nach RFC 2047",
				"header field %s has characters outside of ASCII; encode it by RFC 2047", f.Name())
		}
	}
	return nil
}

// change rewrites the addresses of every field of that name in place and counts
// the fields and their addresses.
func (l *Letter) change(name string, to func(address string) (string, bool, error)) (fields, addresses int, err error) {
	for i, f := range l.h.All() {
		if !f.Is(name) {
			continue
		}
		fields++
		var fault error
		text, err := rewrite(f.Text(), func(address string) (string, bool) {
			addresses++
			new, ok, err := to(address)
			if err != nil && fault == nil {
				fault = err
			}
			return new, ok && err == nil
		})
		switch {
		case fault != nil:
			return fields, addresses, fault
		case err != nil:
			return fields, addresses, l.faulty(name, err)
		case text == f.Text():
			continue
		}
		if err := l.h.Set(i, text); err != nil {
			return fields, addresses, l.unwritable(name)
		}
	}
	return fields, addresses, nil
}

func (l *Letter) faulty(name string, err error) error {
	return l.refuse(554, "5.6.0", "Kopffeld %s ist fehlerhaft (%s); lassen Sie das sendende System in Ordnung bringen",
		"header field %s is faulty (%s); have the sending system put right", name, err)
}

func (l *Letter) unwritable(name string) error {
	return l.refuse(554, "5.6.0", "Kopffeld %s laesst sich nicht schreiben; kuerzen Sie es", "header field %s cannot be written; shorten it", name)
}

// readers: To and Cc get the tenant's own e-mail addresses mapped; others stay. The
// De-Mail addresses in them are the recipients that everybody sees.
func (l *Letter) readers() error {
	for _, f := range [...]struct {
		name  string
		shown *[]demail.Address
	}{{"to", &l.shown.To}, {"cc", &l.shown.CC}, {"resent-to", nil}, {"resent-cc", nil}} {
		_, _, err := l.change(f.name, func(address string) (string, bool, error) {
			a, own := l.tenant.Table.DeMail(unquoted(address))
			if !own && f.shown != nil {
				a, _ = demail.ParseAddress(address) // what is none is shown, and not chosen
			}
			if f.shown != nil && !a.IsZero() && l.Snapshot.IsDeMail(a) {
				*f.shown = append(*f.shown, a)
			}
			return a.String(), own, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replyTo must be one De-Mail address, for confirmations go there (TR-01201-3.4
// §3.1.1).
func (l *Letter) replyTo() error {
	if err := l.unmistakable("reply-to"); err != nil {
		return err
	}
	fields, addresses, err := l.change("reply-to", func(address string) (string, bool, error) {
		if a, ok := l.tenant.Table.DeMail(unquoted(address)); ok {
			return a.String(), true, nil
		}
		if a, err := demail.ParseAddress(address); err == nil && l.Snapshot.IsDeMail(a) {
			return "", false, nil
		}
		return "", false, l.refuse(554, "5.6.0", "Reply-To %s ist keine De-Mail-Adresse; lassen Sie das Feld weg oder nennen Sie eine",
			"Reply-To %s is no De-Mail address; leave the field out or name one", address)
	})
	if err == nil && fields > 0 && addresses != 1 {
		return l.refuse(554, "5.6.0", "Reply-To muss genau eine Adresse nennen; lassen Sie die anderen weg", "Reply-To must name exactly one address; leave out the others")
	}
	return err
}

// strange refuses options that nobody knows, such as misspelt ones: taken out with
// all other unknown fields, they would not be missed until a confirmation is.
func (l *Letter) strange() error {
	for _, f := range l.h.All() {
		if !f.HasPrefix("x-de-mail-") || !strings.EqualFold(f.Value(), "yes") {
			continue
		}
		if !slices.ContainsFunc(demail.Rules(), func(r demail.Rule) bool { return f.Is(r.Name) }) {
			return l.refuse(554, "5.7.0", "Versandoption %s gibt es nicht; schreiben Sie sie richtig oder lassen Sie sie weg",
				"dispatch option %s does not exist; spell it right, or leave it out", f.Name())
		}
	}
	return nil
}

// strip removes what a tenant's system must not say or should not show. Received
// fields tell of the tenant's network; it decides whether they go out.
func (l *Letter) strip() error {
	l.h.RemoveFunc(func(f demail.Field) bool {
		return f.Is("bcc") || f.Is("resent-bcc") || f.Is("return-path") || f.Is("received") && !l.tenant.KeepReceived || Pretends(f, l.Host)
	})
	l.Removed = demail.StripProviderFields(l.h)
	return nil
}

// complete adds what every De-Mail must have (TR-01201-3.4 §3.1.1), and our trace.
func (l *Letter) complete() error {
	for _, f := range [...]struct {
		name  string
		value func() string
	}{
		{"Subject", func() string { return "" }},
		{"Date", func() string { return l.Now.Format(time.RFC1123Z) }},
		{"Message-ID", func() string { return fmt.Sprintf("<%s@%s>", l.ID, l.Host) }},
	} {
		if !l.h.Has(f.name) {
			if err := l.set(f.name, f.value()); err != nil {
				return err
			}
		}
	}
	return l.h.Prepend("Received", "from "+l.tenant.ID+" by "+l.Host+" with ESMTPS id "+l.ID+"; "+l.Now.Format(time.RFC1123Z))
}

func (l *Letter) set(name, value string) error {
	if err := l.h.Replace(name, value); err != nil {
		return l.unwritable(name)
	}
	return nil
}
