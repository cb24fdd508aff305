package relay

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// Whatever a body is and however it comes in, it is stored byte for byte, and found
// by its digest in the form of the integrity field.
func TestBodyPassesByteForByte(t *testing.T) {
	w := newOutWorld(t, nil)
	s := w.session("server a")
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 300<<10)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	for name, body := range map[string]string{
		"empty": "", "a line": "x\r\n", "no line end": "x", "empty lines": "\r\n\r\n\r\n", "looks like a header": "From: x@y\r\nBcc: z\r\n\r\n",
		"8 bit": "Gr\xc3\xbc\xc3\x9fe\r\n", "trailing": "x \t \r\n\r\n\r\n", "noise": string(noise), "a piece": strings.Repeat("y", pieceBuffer), "a piece and one": strings.Repeat("y", pieceBuffer+1),
	} {
		got := w.mustHand(s, outMail, outLetter(body, "From: "+outMail, "To: "+outCitizen), outCitizen)
		if sha256.Sum256([]byte(got.body)) != sha256.Sum256([]byte(body)) {
			t.Errorf("%s: %d bytes became %d", name, len(body), len(got.body))
		}
		canonical := strings.TrimRight(body, "\r\n")
		if name == "noise" {
			canonical = body
		}
		sum := sha256.Sum256([]byte(canonical + "\r\n"))
		if key := handedOver(t, w.queue, got.envelope); key != "body:"+base64.StdEncoding.EncodeToString(sum[:]) {
			t.Errorf("%s: when it is handed over, its key is %q", name, key)
		}
		if want := strings.ContainsFunc(body, func(r rune) bool { return r >= 0x80 }); got.envelope.EightBit != want || got.envelope.UTF8 {
			t.Errorf("%s: 8 bit %v, want %v", name, got.envelope.EightBit, want)
		}
	}
}

// handedOver reads a message as a next hop does, in pieces of all sizes, and returns
// the key of its body.
func handedOver(t *testing.T, q *queue.Queue, e *queue.Envelope) string {
	t.Helper()
	var o queue.Outcome
	c := newContent()
	c.tell(e, &o)
	if o.Keys != nil {
		t.Fatal("a message that was not read has a key")
	}
	body, err := q.Body(e.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	r := &watched{body, c, new(error)}
	for n := 1; err == nil; n = n*3%1000 + 1 {
		_, err = r.Read(make([]byte, n))
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	c.tell(e, &o)
	if len(o.Keys) != 2 || len(o.Notes) != 1 || o.Keys[0] != "body:"+o.Notes[0].Event.Data[dataBody] {
		t.Fatalf("recorded: %+v", o)
	}
	return o.Keys[0]
}

func TestTraceOfWhatWasSent(t *testing.T) {
	w := newOutWorld(t, func(d *config.Document) {
		d.Tenants[0].Options = []config.DispatchDefault{{Sender: "*", Ask: []string{config.AskDispatch}}}
		d.Tenants[0].Keywords = []config.Keyword{{Text: "#privat", Ask: []string{config.AskPrivate}}}
	})
	s := w.session("server a")
	answer, err := s.hand("Meier@gemeinde-a.example", smtp.MailOptions{EnvelopeID: "q 1", Return: smtp.DSNReturnFull, Size: 300}, outLetter("x\r\n", "From: Meier <meier@gemeinde-a.example>",
		"Sender: "+outMail, "To: "+outCitizen, "Subject: Bescheid #privat", "Message-ID: <1@gemeinde-a.example>", "x-de-mail-private-id: AZ 1/2", "x-de-mail-auth-level: high", "Priority: urgent"),
		outCitizen, "wohngeld@gemeinde-a.example", outCitizen)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(answer, "; asked for: confirm-dispatch (default) private (keyword)") {
		t.Errorf("answer %q", answer)
	}
	got := w.stored(answer)
	e := got.envelope
	if fmt.Sprint(e.Attributes) != fmt.Sprint(map[string]string{attrReturn: "Meier@gemeinde-a.example", attrOptions: "confirm-dispatch private", attrSources: "confirm-dispatch=default private=keyword",
		attrRemoved: "x-de-mail-auth-level", attrSystem: "server a", attrMessageID: "<1@gemeinde-a.example>", attrPrivateID: "AZ 1/2"}) {
		t.Errorf("attributes %v", e.Attributes)
	}
	if e.From != outOffice || e.Class != queue.Urgent || e.ENVID != "q 1" || e.RET != "FULL" || e.Hop != hopProvider || e.Direction != queue.Out {
		t.Errorf("envelope %+v", e)
	}
	if len(e.Recipients) != 2 || e.Recipients[1].Address != "wohngeld@gemeinde-a.de-mail.example" || e.Recipients[1].Original != "rfc822;wohngeld@gemeinde-a.example" {
		t.Errorf("recipients %+v", e.Recipients)
	}
	for _, key := range []string{"message-id:<1@gemeinde-a.example>", "private-id:AZ 1/2", "address:meier@gemeinde-a.example", "address:" + outOffice, "address:" + outCitizen} {
		if ids, err := w.queue.Find(key, 10); err != nil || !slices.Contains(ids, e.ID) {
			t.Errorf("%s: %v, %v", key, ids, err)
		}
	}
	if !strings.Contains(got.header, "Subject: Bescheid\r\n") || !strings.Contains(got.header, "x-de-mail-private: yes\r\n") {
		t.Errorf("header:\n%s", got.header)
	}
}

// DSN parameters are taken over exactly (RFC 3461 §5.2).
func TestDSNParameters(t *testing.T) {
	w := newOutWorld(t, nil)
	s := w.session("server a")
	if err := s.Mail(outMail, &smtp.MailOptions{EnvelopeID: strings.Repeat("e", maxENVID), Return: smtp.DSNReturnHeaders}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		to string
		o  smtp.RcptOptions
	}{
		{outCitizen, smtp.RcptOptions{}},
		{"a@buerger.de-mail.example", smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifyNever}}},
		{"b@buerger.de-mail.example", smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifySuccess, smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: "B+x=y@Firma.example"}},
		{"wohngeld@gemeinde-a.example", smtp.RcptOptions{OriginalRecipientType: smtp.DSNAddressTypeUTF8, OriginalRecipient: "gr\u00fc\u00df@firma.example"}},
	} {
		if err := s.Rcpt(r.to, &r.o); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := s.Data(strings.NewReader(outLetter("", "From: "+outMail)))
	if err != nil {
		t.Fatal(err)
	}
	e := w.stored(answer).envelope
	var got []string
	for _, r := range e.Recipients {
		got = append(got, r.Notify+"|"+r.Original)
	}
	if want := []string{"|", "NEVER|", "SUCCESS,FAILURE,DELAY|rfc822;B+x=y@Firma.example", "|utf-8;gr\u00fc\u00df@firma.example"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if e.ENVID != strings.Repeat("e", maxENVID) || e.RET != "HDRS" {
		t.Errorf("ENVID %q, RET %q", e.ENVID, e.RET)
	}
}

// What is taken of the queue's room is given back, however a transaction ends.
func TestRoomIsGivenBack(t *testing.T) {
	w := newOutWorld(t, nil)
	for name, end := range map[string]func(*outSession){
		"reset":   func(s *outSession) { s.Reset() },
		"close":   func(s *outSession) { s.Close() },
		"another": func(s *outSession) { _ = s.Mail("", &smtp.MailOptions{}) },
		"refused": func(s *outSession) { _, _ = s.Data(strings.NewReader("")); s.Reset() },
	} {
		s, err := w.admit("server a")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Mail(outMail, &smtp.MailOptions{}); err != nil {
			t.Fatal(err)
		}
		released := 0
		inner := s.mail.release
		s.mail.release = func() { released++; inner() }
		end(s)
		s.Close()
		if released != 1 {
			t.Errorf("%s: released %d times", name, released)
		}
	}
}

// A connection that a configuration turns over to another tenant counts for that one.
func TestAnotherTenantsConnection(t *testing.T) {
	w := newOutWorld(t, nil)
	s := w.session("server a")
	w.doc.Tenants[0].Clients, w.doc.Tenants[1].Clients = w.doc.Tenants[1].Clients, w.doc.Tenants[0].Clients
	w.live.Set(w.snapshot())
	if err := s.Mail("poststelle@gemeinde-b.example", &smtp.MailOptions{}); err != nil {
		t.Fatal(err)
	}
	if a, b := w.r.meters.of["gemeinde-a"].open, w.r.meters.of["gemeinde-b"].open; a != 0 || b != 1 {
		t.Errorf("counted: %d and %d", a, b)
	}
	s.Close()
	if b := w.r.meters.of["gemeinde-b"].open; b != 0 {
		t.Errorf("after the end: %d", b)
	}
}

var _ smtpguard.Authenticator = (*outSession)(nil)
