package relay

import (
	"bufio"
	"errors"
	"net/mail"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-smtp"
	"golang.org/x/tools/txtar"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Whatever a tenant's system hands in is refused, or what goes out can be read
// again, speaks for addresses of this tenant and no other, says nothing that only
// the provider may say, names nobody who is blind, and has its body unchanged.
func FuzzOutgoing(f *testing.F) {
	files, err := filepath.Glob("testdata/letters/*.txtar")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		header, body, _ := strings.Cut(string(a.Files[0].Data), "\n\n")
		f.Add("", header, body, strings.Contains(string(a.Comment), "utf8: yes"))
	}
	for _, from := range []string{"a@x.example <poststelle@gemeinde-a.example>", "Amt: poststelle@gemeinde-a.example;", "<@r.example:meier@gemeinde-a.example>", "\"poststelle\"@gemeinde-a.example (c)",
		"meier @ gemeinde-a.example, =?utf-8?q?x=40y?= <wohngeld@gemeinde-a.example>", "poststelle@gemeinde-a.de-mail.example"} {
		f.Add(from, "Sender: meier@gemeinde-a.example\nTo: "+outCitizen+"\nBcc: geheim@buerger.de-mail.example\nx-de-mail-private: yes", "x\r\n", false)
	}
	const renew = 500 // messages after which the queue is made anew: it lies in memory
	w := letterWorld(f)
	taken := 0
	f.Fuzz(func(t *testing.T, from, header, body string, utf8 bool) {
		if from != "" {
			header = "From: " + from + "\n" + header
		}
		w.t = t
		if taken == renew {
			if err := errors.Join(w.queue.Close(), w.start(vfs.NewMem())); err != nil {
				t.Fatal(err)
			}
			taken = 0
		}
		s := w.session("server a")
		message := strings.ReplaceAll(strings.ReplaceAll(header, "\r\n", "\n"), "\n", "\r\n") + "\r\n\r\n" + body
		answer, err := s.hand(outMail, smtp.MailOptions{UTF8: utf8}, message, outCitizen, "geheim@buerger.de-mail.example")
		if err != nil {
			var e *smtpguard.Error
			if !errors.As(err, &e) || e.Code/100 != 5 {
				t.Fatalf("%q: refused with %v", message, err)
			}
			return
		}
		taken++
		got := w.stored(answer)
		checkOut(t, w.live.Snapshot(), message, got)
	})
}

func checkOut(t *testing.T, snap *tenants.Snapshot, message string, got stored) {
	tenant := snap.Tenant("gemeinde-a")
	if _, want, _ := strings.Cut("\r\n"+message, "\r\n\r\n"); got.body != want {
		t.Fatalf("%q: body %q", message, got.body)
	}
	h, err := demail.ReadHeader(bufio.NewReader(strings.NewReader(got.header)), 1<<20)
	if err != nil {
		t.Fatalf("%q became %q: %v", message, got.header, err)
	}
	senders := 0
	for _, f := range h.All() {
		switch name := strings.ToLower(f.Name()); name {
		case "from", "sender", "resent-from", "resent-sender", demail.FieldSender:
			senders++
			for _, address := range addressesOf(t, f) {
				a, err := demail.ParseAddress(address)
				domain, own := tenant.Owns(a)
				if err != nil || !own || !domain.Sends {
					t.Fatalf("%q became %q: %s names %q", message, got.header, name, address)
				}
			}
		case "bcc", "resent-bcc", "return-path", "x-pforte-verdict":
			t.Fatalf("%q became %q: %s is there", message, got.header, name)
		default:
			if slices.Contains(demail.ProviderFields(), name) {
				t.Fatalf("%q became %q: %s is there", message, got.header, name)
			}
		}
	}
	if senders < 2 || len(h.Values("from")) != 1 || len(h.Values(demail.FieldSender)) != 1 {
		t.Fatalf("%q became %q: no sender", message, got.header)
	}
	checkChosen(t, message, h)
	options, err := demail.OptionsFromHeader(h)
	if err == nil {
		err = options.Check(demail.LevelHigh, true)
	}
	if err != nil {
		t.Fatalf("%q became %q: %v", message, got.header, err)
	}
}

// addressesOf reads a field with our scanner, and with the standard library's where
// that takes it, so that no address is seen by one only.
func addressesOf(t *testing.T, f demail.Field) []string {
	all, err := letter.Addresses(f.Value())
	if err != nil || len(all) == 0 {
		t.Fatalf("%q: %v", f.Value(), err)
	}
	if others, err := mail.ParseAddressList(f.Value()); err == nil {
		for _, o := range others {
			all = append(all, o.Address)
		}
	}
	return all
}

// checkChosen: blind recipients are those that Bcc names and To and Cc do not.
func checkChosen(t *testing.T, message string, h *demail.Header) {
	if !h.Has(demail.FieldChosenRecipient) {
		return
	}
	chosen, err := demail.ParseRecipients(h.Get(demail.FieldChosenRecipient))
	if err != nil || len(chosen.BCC) > 0 {
		t.Fatalf("%q: chosen %q, %v", message, h.Get(demail.FieldChosenRecipient), err)
	}
	given, err := mail.ReadMessage(strings.NewReader(message))
	if err != nil {
		return
	}
	blind, err := given.Header.AddressList("Bcc")
	if err != nil {
		return
	}
	shown := strings.ToLower(h.Get("to") + " " + h.Get("cc"))
	for _, b := range blind {
		a, err := demail.ParseAddress(b.Address)
		if err == nil && slices.Contains(chosen.All(), a) && !strings.Contains(shown, a.String()) {
			t.Fatalf("%q: %s is blind, and chosen", message, a)
		}
	}
}
