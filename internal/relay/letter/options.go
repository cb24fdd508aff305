package letter

import (
	"errors"
	"strings"
	"unicode/utf8"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Where a dispatch option of a message comes from.
const (
	fromHeader  = "header"
	fromDefault = "default"
	fromKeyword = "keyword"
)

// Asked is what a message asks of the provider, and where each option comes from:
// the receipt that stands in its trace and, in short, in our answer.
type Asked struct {
	Options demail.Options
	sources map[string]string // by the option's name; only those that are on
}

// optionName ties a dispatch option to the name that people see.
type optionName struct {
	on   bool
	name string
}

func optionNames(o demail.Options) []optionName {
	return []optionName{{o.ConfirmDispatch, "confirm-dispatch"}, {o.ConfirmReceipt, "confirm-receipt"}, {o.ConfirmRetrieve, "confirm-retrieve"},
		{o.Private, "private"}, {o.Authoritative, "authoritative"}}
}

// add takes over what o asks for and was not asked for before.
func (a *Asked) add(o demail.Options, source string) {
	for _, n := range optionNames(o) {
		if n.on && a.sources[n.name] == "" {
			if a.sources == nil {
				a.sources = map[string]string{}
			}
			a.sources[n.name] = source
		}
	}
	a.Options = either(a.Options, o)
}

func either(a, b demail.Options) demail.Options {
	return demail.Options{ConfirmDispatch: a.ConfirmDispatch || b.ConfirmDispatch, ConfirmReceipt: a.ConfirmReceipt || b.ConfirmReceipt,
		ConfirmRetrieve: a.ConfirmRetrieve || b.ConfirmRetrieve, Private: a.Private || b.Private, Authoritative: a.Authoritative || b.Authoritative}
}

// list names the options that are on, each as form makes it; "none" without any.
func (a *Asked) list(form func(name, source string) string) string {
	var all []string
	for _, n := range optionNames(a.Options) {
		if n.on {
			all = append(all, form(n.name, a.sources[n.name]))
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, " ")
}

// Names lists the options that are on; "none" without any.
func (a *Asked) Names() string {
	return a.list(func(name, _ string) string { return name })
}

// Origins lists them with where each comes from.
func (a *Asked) Origins() string {
	return a.list(func(name, source string) string { return name + "=" + source })
}

// Receipt is the end of our answer; empty if nothing is asked for.
func (a *Asked) Receipt() string {
	if a.Options == (demail.Options{}) {
		return ""
	}
	return "; asked for: " + a.list(func(name, source string) string { return name + " (" + source + ")" })
}

// dispatch finds out what the message asks for, in this order:
//
//  1. Header fields. If there is any option field, the fields alone decide, also
//     with "no": a system that writes them knows De-Mail, and must be able to do
//     without an option that is a default. A keyword then is plain text.
//  2. The tenant's default for this sender.
//  3. Keywords in the subject, which ask for more than the default does, and take
//     nothing away. They are taken out of the subject.
//
// What was asked for in one place is never weakened by another, and what cannot be
// met refuses the message.
func (l *Letter) dispatch() error {
	var err error
	if demail.HasOptions(l.h) {
		err = l.optionFields()
	} else {
		l.Asked.add(l.tenant.DefaultOptions(l.Sender, l.senderMail), fromDefault)
		err = l.keywords()
	}
	if err == nil {
		err = l.possible()
	}
	if err != nil {
		return err
	}
	if n := utf8.RuneCountInString(l.h.Get(demail.FieldPrivateID)); n > demail.MaxPrivateID {
		return l.refuse(554, "5.6.0", "%s ist laenger als %d Zeichen", "%s is longer than %d characters", demail.FieldPrivateID, demail.MaxPrivateID)
	}
	l.Asked.Options.Apply(l.h)
	return nil
}

func (l *Letter) optionFields() error {
	o, err := demail.OptionsFromHeader(l.h)
	var bad *demail.OptionError
	if errors.As(err, &bad) {
		return l.refuse(554, "5.7.0", `Versandoption %s ist weder yes noch no; schreiben Sie "yes" oder "no", in Kleinbuchstaben`,
			`dispatch option %s is neither yes nor no; write "yes" or "no", in lower case`, bad.Field)
	}
	l.Asked.add(o, fromHeader)
	return err
}

// keywords adds what keywords in the subject ask for.
func (l *Letter) keywords() error {
	if len(l.tenant.Keywords) == 0 || !l.h.Has("subject") {
		return nil
	}
	words := make([]string, len(l.tenant.Keywords))
	for i, k := range l.tenant.Keywords {
		words[i] = k.Text
	}
	subject, found, err := strike(l.h.Get("subject"), words)
	if err != nil {
		return l.refuse(554, "5.6.0", "Betreff laesst sich nicht nach Schlagworten durchsuchen (%s); schreiben Sie ihn in UTF-8, oder setzen Sie die Versandoptionen als Kopffelder",
			"the subject cannot be searched for keywords (%s); write it in UTF-8, or set dispatch options as header fields", err)
	}
	if len(found) == 0 {
		return nil
	}
	for _, i := range found {
		l.Asked.add(l.tenant.Keywords[i].Ask, fromKeyword)
	}
	return l.set("Subject", subject)
}

// possible checks the combination. Every tenant is a public authority that logs in
// at level high (TR-01201, security module, chapter 10), so all that can be wrong
// is a confirmation of retrieve for a message that is not private; defaults and
// keywords ask for both or are refused with the configuration.
func (l *Letter) possible() error {
	if l.Asked.Options.Check(demail.LevelHigh, true) == nil {
		return nil
	}
	return l.refuse(554, "5.7.0", "Abholbestaetigung gibt es nur fuer persoenliche Nachrichten; setzen Sie auch %s: yes",
		"a confirmation of retrieve needs the option private; set %s: yes as well", demail.FieldPrivate)
}
