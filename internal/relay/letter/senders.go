package letter

import (
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/relay/answer"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// senders: From and Sender must belong to the tenant and to the system, in a
// domain that may send, and so must those of who resent the message: a recipient
// takes them for the sender, too.
func (l *Letter) senders() error {
	for _, name := range [...]string{"from", "sender", "resent-from", "resent-sender"} {
		if err := l.unmistakable(name); err != nil {
			return err
		}
		fields, _, err := l.change(name, func(address string) (string, bool, error) {
			a, err := OwnSender(l.System, address)
			return a.String(), true, err
		})
		switch {
		case err != nil:
			return err
		case fields == 0 && name == "from":
			return l.refuse(554, "5.6.0", "Kopffeld From fehlt; lassen Sie das sendende System in Ordnung bringen", "header field From is missing; have the sending system put right")
		}
	}
	return l.deMailSender()
}

// unmistakable: each of these fields has an address, and the provider must read the
// same ones in it as we do.
func (l *Letter) unmistakable(name string) error {
	for _, f := range l.h.All() {
		if !f.Is(name) {
			continue
		}
		switch n, err := plainly(f.Text()); {
		case err != nil:
			return l.faulty(name, err)
		case n == 0:
			return l.refuse(554, "5.6.0", "Kopffeld %s nennt keine Adresse; lassen Sie das sendende System in Ordnung bringen",
				"header field %s names no address; have the sending system put right", name)
		}
	}
	return nil
}

// deMailSender sets x-de-mail-sender, or checks what the tenant chose.
func (l *Letter) deMailSender() error {
	given := l.Given
	l.Sender = l.From
	if l.h.Has(demail.FieldSender) {
		given = l.h.Get(demail.FieldSender)
		if list, err := mailboxes(given); err == nil && len(list) == 1 {
			given = list[0].address
		}
		var err error
		if l.Sender, err = OwnSender(l.System, given); err != nil {
			return err
		}
	}
	if _, mapped := l.tenant.Table.DeMail(unquoted(given)); mapped {
		l.senderMail = unquoted(given)
	}
	return l.set(demail.FieldSender, l.Sender.String())
}

// OwnSender returns the De-Mail address of one of the tenant's senders that the
// system may use, or the answer that refuses it (TR-01201, security module,
// chapter 10: who sends must be allowed to, and nothing goes out under another
// tenant's account).
func OwnSender(s *tenants.System, address string) (demail.Address, error) {
	t := s.Tenant
	mail := unquoted(address)
	a, mapped := t.Table.DeMail(mail)
	if !mapped {
		mail = ""
		a, _ = demail.ParseAddress(address) // what is none belongs to nobody
	}
	domain, ok := t.Owns(a)
	switch {
	case a.IsZero() || !ok:
		return a, answer.Refuse(t, 550, "5.7.1", "%s ist keine Absenderadresse von %s; lassen Sie sie dem De-Mail-Konto zuordnen",
			"%s is no sender address of %s; have it mapped to the De-Mail account", address, t.ID)
	case !domain.Sends:
		return a, answer.Refuse(t, 550, "5.7.1", "Domain %s darf nur empfangen; senden Sie unter einer anderen", "domain %s may only receive; send under another one", domain.Name)
	case !s.MaySend(mail, a):
		return a, answer.Refuse(t, 550, "5.7.1", "%s darf von diesem System nicht verwendet werden; lassen Sie die Adresse bei ihm eintragen",
			"%s may not be used by this system; have the address entered for it", address)
	}
	return a, nil
}

// unquoted writes a quoted local part plainly where both mean the same address
// (RFC 5321 §4.1.2), so that it is found in the mapping.
func unquoted(address string) string {
	local, domain, found := strings.Cut(address, `"@`)
	if !found || !strings.HasPrefix(local, `"`) || strings.ContainsAny(local[1:], `"\`) {
		return address
	}
	plain := local[1:] + "@" + domain
	if _, err := demail.ParseAddress(plain); err != nil {
		return address
	}
	return plain
}
