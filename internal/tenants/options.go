package tenants

import (
	"fmt"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/mapping"
)

func (t *Tenant) addOptions(doc *config.Tenant) error {
	t.options = make(map[string]demail.Options, len(doc.Options))
	for _, d := range doc.Options {
		ask, err := config.ParseAsk(d.Ask)
		if err != nil {
			return fmt.Errorf("options of %s: %w", d.Sender, err)
		}
		t.options[mapping.Fold(d.Sender)] = ask
	}
	for _, k := range doc.Keywords {
		ask, err := config.ParseAsk(k.Ask)
		if err != nil {
			return fmt.Errorf("keyword %s: %w", k.Text, err)
		}
		t.Keywords = append(t.Keywords, Keyword{k.Text, ask})
	}
	return nil
}

// DefaultOptions is what a message of this sender asks for if it says nothing
// itself. mail is the e-mail address that the De-Mail address was mapped from, ""
// if there was none. The most exact entry counts alone: the e-mail address, the
// De-Mail address, *@ the one's domain, *@ the other's, and last "*".
func (t *Tenant) DefaultOptions(sender demail.Address, mail string) demail.Options {
	if len(t.options) == 0 {
		return demail.Options{}
	}
	mail = mapping.Fold(mail)
	for _, key := range [...]string{mail, sender.String(), anyOf(mail), anyOf(sender.String()), "*"} {
		if o, ok := t.options[key]; ok && key != "" {
			return o
		}
	}
	return demail.Options{}
}

// MaySend reports whether the system may send as a. mail is the e-mail address
// that a was mapped from, "" if there was none; either may be among the senders
// that the system is allowed, or its domain. Whether a belongs to the tenant at
// all is Owns's to say.
func (s *System) MaySend(mail string, a demail.Address) bool {
	if len(s.senders) == 0 {
		return !s.Application
	}
	mail = mapping.Fold(mail)
	for _, key := range [...]string{mail, a.String(), anyOf(mail), anyOf(a.String())} {
		if key != "" && s.senders[key] {
			return true
		}
	}
	return false
}
