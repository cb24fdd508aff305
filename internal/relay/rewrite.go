package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// letter is the header of an outgoing message on its way to become a De-Mail.
type letter struct {
	h      *demail.Header
	snap   *tenants.Snapshot
	tenant *tenants.Tenant
	from   demail.Address // of the envelope, mapped
	utf8   bool           // the sender said SMTPUTF8
	id     queue.ID
	host   string
	now    time.Time

	options demail.Options // asked for
	gone    []string       // provider's fields that were removed
}

// prepare checks and rewrites the header. Every error is an answer.
func (l *letter) prepare() error {
	for _, step := range []func() error{
		l.loops, l.single, l.ascii, l.senders, l.readers, l.replyTo, l.strip, l.dispatch, l.chosen, l.complete,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (l *letter) refuse(code int, enhanced, german, english string, args ...any) error {
	return refuse(l.tenant, code, enhanced, german, english, args...)
}

// loops ends what goes round and round.
func (l *letter) loops() error {
	return loop(l.h, l.host)
}

func loop(h *demail.Header, host string) error {
	all := h.Values("received")
	own := 0
	for _, v := range all {
		if strings.Contains(v, " by "+host+" ") {
			own++
		}
	}
	if len(all) > maxReceived || own >= maxOwnReceived {
		return smtpguard.Errorf(554, "5.4.6", "message goes round in a loop")
	}
	return nil
}

// single refuses doubled fields of which RFC 5322 §3.6 allows one: two readers
// could take different ones.
func (l *letter) single() error {
	for _, name := range []string{"from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id",
		demail.FieldSender, demail.FieldChosenRecipient, demail.FieldPrivateID,
		demail.FieldConfirmDispatch, demail.FieldConfirmReceipt, demail.FieldConfirmRetrieve, demail.FieldAuthoritative, demail.FieldPrivate} {
		if n := len(l.h.Values(name)); n > 1 {
			return l.refuse(554, "5.6.0", "Kopffeld %s steht %d-mal da, erlaubt ist es einmal", "header field %s stands there %d times, and may once", name, n)
		}
	}
	return nil
}

func (l *letter) ascii() error {
	if l.utf8 {
		return nil
	}
	for _, f := range l.h.Fields() {
		if slices.ContainsFunc(f.Raw(), func(b byte) bool { return b >= 0x80 }) {
			return l.refuse(554, "5.6.7", "Kopffeld %s hat Zeichen ausserhalb von ASCII; kodieren Sie es nach RFC 2047",
				"header field %s has characters outside of ASCII; encode it by RFC 2047", f.Name())
		}
	}
	return nil
}

// change rewrites the addresses of a field in place.
func (l *letter) change(name string, to func(address string) (string, bool, error)) error {
	i := slices.IndexFunc(l.h.Fields(), func(f demail.Field) bool { return f.Is(name) })
	if i < 0 {
		return nil
	}
	f := l.h.Fields()[i]
	var fault error
	text, err := rewrite(rawValue(f), func(address string) (string, bool) {
		new, ok, err := to(address)
		if err != nil && fault == nil {
			fault = err
		}
		return new, ok && err == nil
	})
	switch {
	case fault != nil:
		return fault
	case err != nil:
		return l.refuse(554, "5.6.0", "Kopffeld %s ist fehlerhaft: %s", "header field %s is faulty: %s", name, err)
	case text == rawValue(f):
		return nil
	}
	if err := l.h.Replace(f.Name(), text); err != nil {
		return l.refuse(554, "5.6.0", "Kopffeld %s laesst sich nicht umschreiben", "header field %s cannot be rewritten", name)
	}
	return nil
}

// rawValue is a field's text with its folds, without its name and its end.
func rawValue(f demail.Field) string {
	_, value, _ := bytes.Cut(f.Raw(), []byte(":"))
	return strings.Trim(string(value), " \t\r\n")
}

// senders: From and Sender must belong to the tenant, in a domain that may send.
func (l *letter) senders() error {
	if !l.h.Has("from") {
		return l.refuse(554, "5.6.0", "Kopffeld From fehlt", "header field From is missing")
	}
	for _, name := range []string{"from", "sender"} {
		n := 0
		err := l.change(name, func(address string) (string, bool, error) {
			n++
			a, err := ownSender(l.tenant, address)
			return a.String(), true, err
		})
		if err != nil {
			return err
		}
		if n == 0 && l.h.Has(name) {
			return l.refuse(554, "5.6.0", "Kopffeld %s nennt keine Adresse", "header field %s names no address", name)
		}
	}
	return l.deMailSender()
}

// deMailSender sets x-de-mail-sender, or checks what the tenant chose.
func (l *letter) deMailSender() error {
	sender := l.from
	if l.h.Has(demail.FieldSender) {
		var err error
		if sender, err = ownSender(l.tenant, l.h.Get(demail.FieldSender)); err != nil {
			return err
		}
	}
	return l.set(demail.FieldSender, sender.String())
}

// ownSender returns the De-Mail address of one of the tenant's senders, or the
// answer that refuses it.
func ownSender(t *tenants.Tenant, address string) (demail.Address, error) {
	a, domain, ok := own(t, address)
	switch {
	case !ok:
		return a, refuse(t, 550, "5.7.1", "%s ist keine Absenderadresse von %s; lassen Sie sie dem De-Mail-Konto zuordnen",
			"%s is no sender address of %s; have it mapped to the De-Mail account", address, t.ID)
	case !domain.Sends:
		return a, refuse(t, 550, "5.7.1", "Domain %s darf nur empfangen", "domain %s may only receive", domain.Name)
	}
	return a, nil
}

// own maps an address of the tenant: an e-mail address by its table, or one of
// its De-Mail addresses as it is.
func own(t *tenants.Tenant, address string) (demail.Address, tenants.Domain, bool) {
	a, mapped := t.Table.DeMail(address)
	if !mapped {
		var err error
		if a, err = demail.ParseAddress(address); err != nil {
			return demail.Address{}, tenants.Domain{}, false
		}
	}
	d, ok := t.Owns(a)
	return a, d, ok
}

// readers: To and Cc get the tenant's own addresses mapped; others stay.
func (l *letter) readers() error {
	for _, name := range []string{"to", "cc"} {
		err := l.change(name, func(address string) (string, bool, error) {
			a, ok := l.tenant.Table.DeMail(address)
			return a.String(), ok, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// replyTo must be one De-Mail address, for confirmations go there (TR-01201-3.4
// §3.1.1).
func (l *letter) replyTo() error {
	n := 0
	err := l.change("reply-to", func(address string) (string, bool, error) {
		n++
		if a, ok := l.tenant.Table.DeMail(address); ok {
			return a.String(), true, nil
		}
		if a, err := demail.ParseAddress(address); err == nil && l.snap.IsDeMail(a) {
			return "", false, nil
		}
		return "", false, l.refuse(554, "5.6.0", "Reply-To %s ist keine De-Mail-Adresse; lassen Sie das Feld weg oder nennen Sie eine",
			"Reply-To %s is no De-Mail address; leave the field out or name one", address)
	})
	if err == nil && l.h.Has("reply-to") && n != 1 {
		return l.refuse(554, "5.6.0", "Reply-To muss genau eine Adresse nennen", "Reply-To must name exactly one address")
	}
	return err
}

// strip removes what a tenant's system must not say or should not show.
func (l *letter) strip() error {
	l.h.Remove("bcc", "resent-bcc", "received", "return-path")
	l.h.Remove(ownFields(l.h, l.host)...)
	l.gone = demail.StripProviderFields(l.h)
	return nil
}

// dispatch checks the options. Every tenant is a public authority that logs in at
// level high (TR-01201, security module, chapter 10).
func (l *letter) dispatch() error {
	o, err := demail.OptionsFromHeader(l.h)
	if err == nil {
		err = o.Check(demail.LevelHigh, true)
	}
	if err != nil {
		text := strings.ReplaceAll(err.Error(), "\n", "; ")
		return l.refuse(554, "5.7.0", "Versandoption nicht moeglich: %s", "dispatch option cannot be met: %s", text)
	}
	if n := len([]rune(l.h.Get(demail.FieldPrivateID))); n > demail.MaxPrivateID {
		return l.refuse(554, "5.6.0", "%s ist laenger als %d Zeichen", "%s is longer than %d characters", demail.FieldPrivateID, demail.MaxPrivateID)
	}
	o.Apply(l.h)
	l.options = o
	return nil
}

// chosen writes x-de-mail-chosen-recipient from what the sender chose: the field
// itself, else To and Cc. Blind recipients are never in it; the provider finds
// them in the envelope (TR-01201-3.4 §3.1.8).
func (l *letter) chosen() error {
	list := demail.Recipients{To: l.deMails("to"), CC: l.deMails("cc")}
	if l.h.Has(demail.FieldChosenRecipient) {
		var err error
		if list, err = demail.ParseRecipients(l.h.Get(demail.FieldChosenRecipient)); err != nil {
			return l.refuse(554, "5.6.0", "Kopffeld %s ist fehlerhaft: %s", "header field %s is faulty: %s", demail.FieldChosenRecipient, err)
		}
	}
	list.BCC = nil
	if len(list.To)+len(list.CC) == 0 {
		l.h.Remove(demail.FieldChosenRecipient)
		return nil
	}
	text, err := list.Format()
	if err != nil {
		return l.refuse(554, "5.6.0", "Empfaengerliste laesst sich nicht schreiben: %s", "list of recipients cannot be written: %s", err)
	}
	return l.set(demail.FieldChosenRecipient, text)
}

// deMails lists the De-Mail addresses of a field, each once.
func (l *letter) deMails(name string) []demail.Address {
	var all []demail.Address
	list, _ := mailboxes(l.h.Get(name)) // change has read it already
	for _, m := range list {
		if a, err := demail.ParseAddress(m.address); err == nil && l.snap.IsDeMail(a) && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// complete adds what every De-Mail must have (TR-01201-3.4 §3.1.1), and our trace.
func (l *letter) complete() error {
	for _, f := range [][2]string{
		{"Subject", ""},
		{"Date", l.now.Format(time.RFC1123Z)},
		{"Message-ID", fmt.Sprintf("<%s@%s>", l.id, l.host)},
	} {
		if !l.h.Has(f[0]) {
			if err := l.set(f[0], f[1]); err != nil {
				return err
			}
		}
	}
	received := fmt.Sprintf("from %s by %s with ESMTPS id %s; %s", l.tenant.ID, l.host, l.id, l.now.Format(time.RFC1123Z))
	return l.h.Prepend("Received", received)
}

func (l *letter) set(name, value string) error {
	if err := l.h.Replace(name, value); err != nil {
		return l.refuse(554, "5.6.0", "Kopffeld %s laesst sich nicht schreiben", "header field %s cannot be written", name)
	}
	return nil
}
