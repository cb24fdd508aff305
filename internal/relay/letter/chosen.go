package letter

import (
	"slices"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// chosen writes x-de-mail-chosen-recipient from what the sender chose: the field
// itself, else To and Cc. Blind recipients are never in it, neither under bcc= nor
// because a system lists them elsewhere; the provider finds them in the envelope
// (TR-01201-3.4 §3.1.8).
func (l *Letter) chosen() error {
	list := demail.Recipients{To: once(l.shown.To), CC: once(l.shown.CC)}
	if l.h.Has(demail.FieldChosenRecipient) {
		var err error
		if list, err = l.declared(list); err != nil {
			return err
		}
	}
	if len(list.To)+len(list.CC) == 0 {
		l.h.Remove(demail.FieldChosenRecipient)
		return nil
	}
	text, err := list.Format()
	if err != nil {
		return l.refuse(554, "5.6.0", "Empfaengerliste laesst sich nicht schreiben (%s); lassen Sie die Adresse weg oder nennen Sie sie nur im Umschlag",
			"list of recipients cannot be written (%s); leave the address out, or name it in the envelope only", err)
	}
	return l.set(demail.FieldChosenRecipient, text)
}

// declared reads the field as the tenant wrote it. Its own e-mail addresses in it
// are mapped; who is blind is left out, unless To or Cc show him.
func (l *Letter) declared(shown demail.Recipients) (demail.Recipients, error) {
	given, err := demail.ParseRecipients(l.h.Get(demail.FieldChosenRecipient))
	if err != nil {
		return given, l.refuse(554, "5.6.0", "Kopffeld %s ist fehlerhaft (%s); schreiben Sie to=a;b ;cc=c", "header field %s is faulty (%s); write to=a;b ;cc=c", demail.FieldChosenRecipient, err)
	}
	blind, err := l.blind(given.BCC)
	if err != nil {
		return given, err
	}
	var out demail.Recipients
	for _, part := range []struct {
		from []demail.Address
		to   *[]demail.Address
	}{{given.To, &out.To}, {given.CC, &out.CC}} {
		for _, a := range part.from {
			if a, err = l.mapped(a); err != nil {
				return out, err
			}
			if !slices.Contains(blind, a) || slices.Contains(shown.To, a) || slices.Contains(shown.CC, a) {
				*part.to = append(*part.to, a)
			}
		}
	}
	return out, nil
}

// mapped is the De-Mail address of one in the recipients' field.
func (l *Letter) mapped(a demail.Address) (demail.Address, error) {
	if own, ok := l.tenant.Table.DeMail(a.String()); ok {
		return own, nil
	}
	if !l.Snapshot.IsDeMail(a) {
		return a, l.refuse(554, "5.6.0", "Kopffeld %s: %s ist keine De-Mail-Adresse; lassen Sie sie weg", "header field %s: %s is no De-Mail address; leave it out",
			demail.FieldChosenRecipient, a)
	}
	return a, nil
}

// blind lists whom Bcc, Resent-Bcc and bcc= name.
func (l *Letter) blind(bcc []demail.Address) ([]demail.Address, error) {
	var all []demail.Address
	for _, a := range bcc {
		if own, ok := l.tenant.Table.DeMail(a.String()); ok {
			a = own
		}
		all = append(all, a)
	}
	for _, name := range [...]string{"bcc", "resent-bcc"} {
		_, _, err := l.change(name, func(address string) (string, bool, error) {
			a, ok := l.tenant.Table.DeMail(unquoted(address))
			if !ok {
				a, _ = demail.ParseAddress(address)
			}
			all = append(all, a)
			return "", false, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// once leaves out what stands there before.
func once(list []demail.Address) []demail.Address {
	if len(list) < 2 {
		return list
	}
	seen := make(map[demail.Address]bool, len(list))
	return slices.DeleteFunc(list, func(a demail.Address) bool {
		again := seen[a]
		seen[a] = true
		return again
	})
}
