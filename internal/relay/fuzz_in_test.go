package relay

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
)

// FuzzIncoming hands in any bytes for a tenant that refuses and one that marks:
// what is not refused is stored byte-identical below the trace, but for the fields
// that pretend to be ours; and what is called proved is proved. It goes as far as
// the commit, whose background work would blind the fuzzer.
func FuzzIncoming(f *testing.F) {
	w := newInWorld(f, func(d *config.Document) { d.Tenants[1].Integrity = config.IntegrityMark })
	good := w.compose(dmdatest.DeMail{Subject: "Bescheid"})
	f.Add(good)
	f.Add(w.compose(dmdatest.DeMail{Options: demail.Options{Authoritative: true}}))
	f.Add(w.compose(dmdatest.DeMail{Type: demail.TypeReceipt, From: "eingangsbestaetigung@provider.de-mail.example", Body: []byte("<x/>\r\n")}))
	f.Add(w.compose(dmdatest.DeMail{Type: demail.TypeNotification, Notify: demail.NotifyUnknownRecipient, From: "meldung@provider.de-mail.example"}))
	f.Add(append([]byte("Authentication-Results: (x\r\n )"+inHost+"; a=b\r\nX-Pforte-X: 1\r\n"), good...))
	f.Add([]byte("From: a@b.example\r\nx-de-mail-message-id: 1\r\n\tx\r\n"))
	f.Add([]byte("a:\r\n\r\n"))
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("Received: from x by "+inHost+" with y\r\n", 5) + "\r\n"))
	f.Fuzz(func(t *testing.T, message []byte) {
		w.t = t
		for _, to := range []string{postA, postB} {
			marks := to == postB
			m, body, trace, err := w.arrive(to, message)
			if err != nil {
				if c := answerOf(err); c[0] != '5' {
					t.Errorf("refused with %s", c)
				}
				continue
			}
			if want := withoutForgeries(message); body != want {
				t.Errorf("stored\n%q\nwant\n%q", body, want)
			}
			if h, err := demail.ReadHeader(bufio.NewReader(strings.NewReader(trace+"\r\n")), 0); err != nil || len(h.Values(letter.FieldResults)) != 1 {
				t.Errorf("trace %q: %v", trace, err)
			}
			h, _ := demail.ReadHeader(bufio.NewReader(bytes.NewReader(message)), 0)
			_, proved := demail.VerifyIntegrity(h, bytes.NewReader(message[h.Size():]), demail.VerifyOptions{Roots: w.pki.Pool(), Revocation: w.revoked.Check})
			if pass := strings.Contains(m.results(), "x-de-mail-integrity=pass"); pass != (proved == nil) || !pass && !marks {
				t.Errorf("%s, verified %v", m.results(), proved)
			}
		}
	})
}

// arrive does all that Data does before the commit.
func (w *inWorld) arrive(to string, message []byte) (m *taken, stored, trace string, err error) {
	w.t.Helper()
	s := w.session()
	if err := errors.Join(s.Mail("erika@buerger.de-mail.example", &smtp.MailOptions{}), s.Rcpt(to, &smtp.RcptOptions{})); err != nil {
		w.t.Fatal(err)
	}
	body, err := w.queue.NewBody(s.MaxSize())
	if err != nil {
		w.t.Fatal(err)
	}
	defer body.Abort()
	if m, err = s.take(bytes.NewReader(message), body); err == nil {
		err = s.judge(m)
	}
	if err == nil {
		err = w.r.readNews(m, body)
	}
	if err != nil {
		return nil, "", "", err
	}
	e, err := s.envelope(s.parcels[0], m, body.ID())
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := body.Reader()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	all, err := io.ReadAll(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return m, string(all), string(e.Prefix), nil
}

// withoutForgeries takes out, line by line and with other means than the relay,
// what pretends to be ours.
func withoutForgeries(message []byte) string {
	var out strings.Builder
	rest := string(message)
	for rest != "" && !strings.HasPrefix(rest, "\r\n") {
		end := strings.Index(rest, "\r\n") + 2
		for end < len(rest) && (rest[end] == ' ' || rest[end] == '\t') {
			end += strings.Index(rest[end:], "\r\n") + 2
		}
		field := rest[:end]
		rest = rest[end:]
		name, value, _ := strings.Cut(field, ":")
		name = strings.ToLower(strings.TrimRight(name, " \t"))
		if strings.HasPrefix(name, "x-pforte-") || name == "authentication-results" && letter.Claims(strings.ReplaceAll(value, "\r\n", ""), inHost) {
			continue
		}
		out.WriteString(field)
	}
	return out.String() + rest
}
