package relay

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// Every refusal of a message, its code, and its text in both languages: a remedy
// is in each that the tenant can do something about.
func TestRefusals(t *testing.T) {
	const (
		letter  = "" // an ordinary one
		senders = "poststelle@%s.example"
	)
	head := func(fields ...string) string {
		return outLetter("x\r\n", append([]string{"From: " + senders, "Subject: x"}, fields...)...)
	}
	with := func(message string, code int, enhanced, german, english string) refusalCase {
		return refusalCase{message: message, code: code, enhanced: enhanced, german: german, english: english}
	}
	for name, c := range map[string]refusalCase{
		"another tenant's sender":     {from: "poststelle@gemeinde-z.example", code: 550, enhanced: "5.7.1", german: "lassen Sie sie dem De-Mail-Konto zuordnen", english: "have it mapped"},
		"a domain that only receives": {from: "in@%s.example", code: 550, enhanced: "5.7.1", german: "darf nur empfangen", english: "may only receive"},
		"no sender":                   {from: "-", code: 550, enhanced: "5.7.1", german: "behalten Sie sie im eigenen Netz", english: "keep them in your own network"},
		"ENVID":                       {mail: smtp.MailOptions{EnvelopeID: strings.Repeat("x", maxENVID+1)}, code: 501, enhanced: "5.5.4", german: "kuerzen Sie sie", english: "shorten it"},
		"ORCPT": {rcpt: smtp.RcptOptions{OriginalRecipientType: "RFC822", OriginalRecipient: strings.Repeat("x", maxORCPT-6)}, code: 501, enhanced: "5.5.4",
			german: "kuerzen Sie ihn", english: "shorten it"},
		"a recipient outside of De-Mail":       {to: "erika@firma.example", code: 550, enhanced: "5.7.1", german: "senden Sie gewoehnliche E-Mail nicht", english: "do not send ordinary e-mail"},
		"a recipient that looks like De-Mail":  {to: "erika@xde-mail.example", code: 550, enhanced: "5.7.1", german: "keine De-Mail-Adresse", english: "no De-Mail address"},
		"another tenant's e-mail address":      {to: "poststelle@gemeinde-z.example", code: 550, enhanced: "5.7.1", german: "keine De-Mail-Adresse", english: "no De-Mail address"},
		"From of a stranger":                   with(outLetter("", "From: x@firma.example"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"a second author":                      with(outLetter("", "From: "+senders+", x@firma.example"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"an author in a group":                 with(outLetter("", "From: Amt: "+senders+", x@firma.example;"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"an author behind a route":             with(outLetter("", "From: <@relay.example:x@firma.example>"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"a quoted author":                      with(outLetter("", "From: \"x y\"@firma.example"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"Sender of a stranger":                 with(head("Sender: x@firma.example"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"Resent-From of a stranger":            with(head("Resent-From: "+senders, "Resent-From: x@firma.example"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"x-de-mail-sender of a stranger":       with(head("x-de-mail-sender: x@buerger.de-mail.example"), 550, "5.7.1", "keine Absenderadresse", "no sender address"),
		"no From":                              with(outLetter("", "Subject: x"), 554, "5.6.0", "From fehlt", "From is missing"),
		"an empty From":                        with(outLetter("", "From: nobody:;"), 554, "5.6.0", "nennt keine Adresse", "names no address"),
		"an empty Sender":                      with(head("Sender: (nobody)"), 554, "5.6.0", "nennt keine Adresse", "names no address"),
		"a broken From":                        with(outLetter("", "From: \"Amt <"+senders+">"), 554, "5.6.0", "in Ordnung bringen", "put right"),
		"a broken To":                          with(head("To: <"), 554, "5.6.0", "in Ordnung bringen", "put right"),
		"two From":                             with(head("From : "+senders), 554, "5.6.0", "2-mal", "2 times"),
		"two options of a kind":                with(head("x-de-mail-private: yes", "X-De-Mail-Private: no"), 554, "5.6.0", "2-mal", "2 times"),
		"Reply-To outside of De-Mail":          with(head("Reply-To: amt@firma.example"), 554, "5.6.0", "lassen Sie das Feld weg", "leave the field out"),
		"two Reply-To":                         with(head("Reply-To: "+senders+", "+outCitizen), 554, "5.6.0", "lassen Sie die anderen weg", "leave out the others"),
		"an empty Reply-To":                    with(head("Reply-To: (nobody)"), 554, "5.6.0", "nennt keine Adresse", "names no address"),
		"8 bit in the header":                  with(head("X-Amt: \xfc"), 554, "5.6.7", "kodieren Sie es", "encode it"),
		"an option that is neither yes nor no": with(head("x-de-mail-private: Yes"), 554, "5.7.0", "in Kleinbuchstaben", "in lower case"),
		"an option that nobody knows":          with(head("X-De-Mail-Confirmation-Of-Reciept: Yes"), 554, "5.7.0", "gibt es nicht", "does not exist"),
		"retrieve without private":             with(head("x-de-mail-confirmation-of-retrieve: yes"), 554, "5.7.0", "setzen Sie auch x-de-mail-private: yes", "set x-de-mail-private: yes"),
		"a keyword in an unknown encoding":     with(outLetter("", "From: "+senders, "Subject: =?koi8-r?Q?=D0?= #abholen"), 554, "5.6.0", "in UTF-8", "in UTF-8"),
		"a long private-id":                    with(head("x-de-mail-private-id: "+strings.Repeat("x y ", 200)+"\r\n "+strings.Repeat("x y ", 200)), 554, "5.6.0", "1024", "1024"),
		"bad chosen recipients":                with(head("x-de-mail-chosen-recipient: an="+outCitizen), 554, "5.6.0", "schreiben Sie to=a;b", "write to=a;b"),
		"chosen recipients outside of De-Mail": with(head("x-de-mail-chosen-recipient: to=x@firma.example"), 554, "5.6.0", "lassen Sie sie weg", "leave it out"),
		"chosen recipients and a broken Bcc":   with(head("x-de-mail-chosen-recipient: to="+outCitizen, "Bcc: <"), 554, "5.6.0", "in Ordnung bringen", "put right"),
		"a recipient that looks like a key":    with(head("To: to=x@buerger.de-mail.example"), 554, "5.6.0", "nur im Umschlag", "in the envelope only"),
		"no header":                            with("just text\r\n", 554, "5.6.0", "in Ordnung bringen", "put right"),
		"a large header":                       with(head("X-Amt: "+strings.Repeat(strings.Repeat("x", 900)+"\r\n ", maxOutHeader/900+2)+"x"), 552, "5.3.4", "mehrere Nachrichten", "several messages"),
		"many fields":                          with(head(strings.Split(strings.Repeat("X: y|", 3000), "|")[:3000]...), 552, "5.3.4", "mehrere Nachrichten", "several messages"),
		"a large message":                      with(head()+strings.Repeat("x", 2<<20), 552, "5.3.4", "teilen Sie sie auf", "split it"),
		"a loop":                               with(head(strings.Split(strings.Repeat("Received: from x by "+outHost+" with ESMTPS; now|", 5), "|")[:5]...), 554, "5.4.6", "im Kreis", "in a loop"),
		"a long way":                           with(head(strings.Split(strings.Repeat("Received: from x by y; now|", 101), "|")[:101]...), 554, "5.4.6", "im Kreis", "in a loop"),
		"a field that cannot be written":       with(head("To: "+strings.Repeat("x", 990)+"@y.example"+", <"+senders+">"), 554, "5.6.0", "kuerzen Sie es", "shorten it"),
		"a letter":                             with(letter, 250, "2.0.0", "", ""),
	} {
		t.Run(name, func(t *testing.T) { c.run(t) })
	}
}

// refusalCase is one message, or its envelope, that is refused. %s is the tenant.
type refusalCase struct {
	from, to        string
	mail            smtp.MailOptions
	rcpt            smtp.RcptOptions
	message         string
	code            int
	enhanced        string
	german, english string
}

func (c *refusalCase) run(t *testing.T) {
	w := newOutWorld(t, func(d *config.Document) {
		for i := range d.Tenants {
			d.Tenants[i].MaxSize = 1 << 20
			d.Tenants[i].Keywords = []config.Keyword{{Text: "#abholen", Ask: []string{config.AskRetrieve, config.AskPrivate}}}
		}
	})
	for system, language := range map[string]string{"server a": c.german, "server b": c.english} {
		id := "gemeinde-" + system[len(system)-1:]
		fill := func(s, usual string) string {
			if s == "" {
				s = usual
			}
			return strings.ReplaceAll(strings.TrimPrefix(s, "-"), "%s", id)
		}
		answer, err := c.converse(w.session(system), fill(c.from, "poststelle@%s.example"), fill(c.to, outCitizen),
			fill(c.message, outLetter("x\r\n", "From: "+fill(c.from, "poststelle@%s.example"), "Subject: x")))
		if c.code == 250 {
			if err != nil || !strings.HasPrefix(answer, "accepted as ") {
				t.Errorf("%s: %q, %v", system, answer, err)
			}
			continue
		}
		e := refusal(t, err)
		if got := fmt.Sprintf("%d.%d.%d", e.Enhanced[0], e.Enhanced[1], e.Enhanced[2]); e.Code != c.code || got != c.enhanced || !strings.Contains(e.Text, language) {
			t.Errorf("%s: %v, want %d %s with %q", system, e, c.code, c.enhanced, language)
		}
	}
	if stats, err := w.queue.Stats(); err != nil || c.code != 250 && stats.Total.Messages != 0 {
		t.Errorf("something was taken: %+v, %v", stats, err)
	}
}

func (c *refusalCase) converse(s *outSession, from, to, message string) (string, error) {
	if err := s.Mail(from, &c.mail); err != nil {
		return "", err
	}
	defer s.Reset()
	if err := s.Rcpt(to, &c.rcpt); err != nil {
		return "", err
	}
	return s.Data(strings.NewReader(message))
}

// Refusals that depend on what came before.
func TestRefusalsOfASession(t *testing.T) {
	limited := func(d *config.Document) {
		d.Tenants[0].Rates = config.Rates{Connections: 1, MessagesPerMinute: 1, RecipientsPerMinute: 1}
	}
	mail := func(s *outSession) error { return s.Mail(outMail, &smtp.MailOptions{}) }
	rcpt := func(s *outSession, to string) error { return s.Rcpt(to, &smtp.RcptOptions{}) }
	for name, c := range map[string]struct {
		change   func(*config.Document)
		do       func(w *outWorld) error
		code     int
		enhanced string
		text     string
		closes   bool
	}{
		"no certificate": {do: func(w *outWorld) error { _, err := w.admit(""); return err }, code: 550, enhanced: "5.7.1", text: "eingetragenen System", closes: true},
		"too many connections": {change: limited, do: func(w *outWorld) error {
			w.session("server a")
			_, err := w.admit("server a")
			return err
		}, code: 421, enhanced: "4.7.0", text: "lassen Sie die Grenze erhoehen", closes: true},
		"too many messages": {change: limited, do: func(w *outWorld) error {
			s := w.session("server a")
			return errors.Join(mail(s), mail(s))
		}, code: 451, enhanced: "4.7.1", text: "lassen Sie die Grenze erhoehen"},
		"too many recipients in a minute": {change: limited, do: func(w *outWorld) error {
			s := w.session("server a")
			return errors.Join(mail(s), rcpt(s, outCitizen), rcpt(s, "b@buerger.de-mail.example"))
		}, code: 451, enhanced: "4.7.1", text: "lassen Sie die Grenze erhoehen"},
		"too many recipients": {do: func(w *outWorld) error {
			s := w.session("server a")
			err := mail(s)
			for i := range queue.MaxRecipients {
				err = errors.Join(err, rcpt(s, fmt.Sprintf("a%d@buerger.de-mail.example", i)))
			}
			if err != nil {
				return err
			}
			return rcpt(s, outCitizen)
		}, code: 452, enhanced: "4.5.3", text: "in einer weiteren Nachricht"},
		"RCPT before MAIL": {do: func(w *outWorld) error { return rcpt(w.session("server a"), outCitizen) }, code: 503, enhanced: "5.5.1", text: "MAIL comes first"},
		"DATA before RCPT": {do: func(w *outWorld) error {
			s := w.session("server a")
			_, err := s.Data(strings.NewReader(""))
			return errors.Join(mail(s), err)
		}, code: 503, enhanced: "5.5.1", text: "RCPT comes first"},
		"an application as somebody else": {do: func(w *outWorld) error { return mail(w.session("app a")) }, code: 550, enhanced: "5.7.1", text: "bei ihm eintragen"},
		"a system that was taken out": {do: func(w *outWorld) error {
			s := w.session("server a")
			w.doc.Tenants[0].Clients = w.doc.Tenants[0].Clients[1:]
			w.live.Set(w.snapshot())
			return mail(s)
		}, code: 550, enhanced: "5.7.1", text: "eingetragenen System", closes: true},
		"a mechanism that is not offered": {do: func(w *outWorld) error { _, err := w.session("server a").Auth("CRAM-MD5"); return err }, code: 504, enhanced: "5.5.4", text: "not offered"},
		"a closed queue": {do: func(w *outWorld) error {
			s := w.session("server a")
			if err := errors.Join(mail(s), rcpt(s, outCitizen), w.queue.Close()); err != nil {
				return err
			}
			_, err := s.Data(strings.NewReader(outLetter("x\r\n", "From: "+outMail)))
			return err
		}, code: 421, enhanced: "4.3.0", text: "nicht bereit"},
		"a fault of the sender's side": {do: func(w *outWorld) error {
			s := w.session("server a")
			if err := errors.Join(mail(s), rcpt(s, outCitizen)); err != nil {
				return err
			}
			_, err := s.Data(io.MultiReader(strings.NewReader(outLetter("x\r\n", "From: "+outMail)), failing{smtpguard.Errorf(554, "5.6.0", "message has a bare LF")}))
			return err
		}, code: 554, enhanced: "5.6.0", text: "bare LF"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newOutWorld(t, c.change)
			e := refusal(t, c.do(w))
			if got := fmt.Sprintf("%d.%d.%d", e.Enhanced[0], e.Enhanced[1], e.Enhanced[2]); e.Code != c.code || got != c.enhanced || !strings.Contains(e.Text, c.text) || e.Close != c.closes {
				t.Errorf("%v (closes %v), want %d %s with %q", e, e.Close, c.code, c.enhanced, c.text)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// What the queue cannot do becomes the right code, and its text stays here.
func TestStoreRefusals(t *testing.T) {
	full := errors.New("no space left on device")
	for want, err := range map[string]error{
		"552 5.3.4": fmt.Errorf("write: %w", queue.ErrTooLarge), "452 4.3.1": fmt.Errorf("%w: %w", queue.ErrFull, full),
		"421 4.3.0": queue.ErrSick, "451 4.3.0": errors.New("surprise"),
	} {
		w := newOutWorld(t, nil)
		for _, id := range []string{"gemeinde-a", "gemeinde-b"} {
			e := refusal(t, storeRefusal(w.live.Snapshot().Tenant(id), err))
			if got := fmt.Sprintf("%d %d.%d.%d", e.Code, e.Enhanced[0], e.Enhanced[1], e.Enhanced[2]); got != want || strings.Contains(e.Text, "surprise") || strings.Contains(e.Text, "device") {
				t.Errorf("%v: %v, want %s", err, e, want)
			}
		}
	}
}

// A disk without room is refused at MAIL.
func TestFullDisk(t *testing.T) {
	w := newOutWorld(t, nil)
	w.open(fullDisk{vfs.NewMem()})
	e := refusal(t, w.session("server a").Mail(outMail, &smtp.MailOptions{}))
	if e.Code != 452 || !strings.Contains(e.Text, "kein Platz") {
		t.Errorf("%v", e)
	}
}

type fullDisk struct{ vfs.FS }

func (fullDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 10 << 20, TotalBytes: 1 << 30, UsedBytes: 1<<30 - 10<<20}, nil
}

// A disk that fails while a message is stored: no 250.
func TestSickDisk(t *testing.T) {
	w := newOutWorld(t, nil)
	var sick atomic.Bool
	w.open(errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if sick.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("input/output error")
		}
		return nil
	})))
	s := w.session("server a")
	if err := s.Mail(outMail, &smtp.MailOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Rcpt(outCitizen, &smtp.RcptOptions{}); err != nil {
		t.Fatal(err)
	}
	sick.Store(true)
	_, err := s.Data(strings.NewReader(outLetter("x\r\n", "From: "+outMail)))
	if e := refusal(t, err); e.Code/100 != 4 {
		t.Errorf("%v", e)
	}
}
