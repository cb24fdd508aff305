package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// socket gives the relay a control socket and a client of it.
func (w *world) socket(t *testing.T) *localapi.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "relayd.sock")
	w.options = func(o *Options) {
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		o.Control, o.Callers = ln, []localapi.Caller{localapi.UID(uint32(os.Getuid()))}
	}
	return localapi.Dial(path, Codes()...)
}

func traces(t *testing.T, api *localapi.Client, q manage.MailTraceQuery) manage.MailTraces {
	t.Helper()
	var out manage.MailTraces
	if err := api.Call(ctxFor(t), manage.MethodMailTrace, q, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// progress awaits the states of the only message that a query fits.
func progress(t *testing.T, api *localapi.Client, query, want string) manage.MailTrace {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		all := traces(t, api, manage.MailTraceQuery{Query: query})
		if len(all.Traces) != 1 || all.More {
			t.Fatalf("%q: %d traces", query, len(all.Traces))
		}
		var got []string
		for _, r := range all.Traces[0].Recipients {
			got = append(got, r.State)
		}
		if strings.Join(got, ", ") == want {
			return all.Traces[0]
		}
		if time.Now().After(end) {
			t.Fatalf("%q: %v, want %s; %+v", query, got, want, all.Traces[0].Events)
		}
	}
}

// From acceptance to retrieval, with all that the provider proves on the way.
func TestMailTrace(t *testing.T) {
	w := newWorld(t)
	api := w.socket(t)
	r := w.start()
	w.provider.SetGateway(r.push)
	c := w.greeted(w.clientA)
	unknown := "unknown-recipient@buerger.de-mail.example"
	message := compose("vertraulich\r\n", "From: "+mailA, "To: "+citizen+", "+unknown, "Subject: geheim", "Message-ID: <trace@gemeinde-a.example>",
		"x-de-mail-private-id: AZ 4711", "x-de-mail-confirmation-of-dispatch: yes", "x-de-mail-confirmation-of-receipt: yes",
		"x-de-mail-confirmation-of-retrieve: yes", "x-de-mail-private: yes")
	c.send("<"+mailA+">", message, "250", "<"+citizen+">", "<"+unknown+">")
	id := r.marks.await(t, "relayd.accepted", 1).Fields["id"]
	progress(t, api, id, "received, failed")
	if n, err := w.provider.Retrieve(citizen); n != 1 || err != nil {
		t.Fatalf("%d retrieved, %v", n, err)
	}
	got := progress(t, api, "<trace@gemeinde-a.example>", "retrieved, failed")
	steps := ""
	for _, s := range got.Recipients[0].Steps {
		steps += s.State + "; "
		if s.Time.IsZero() || s.Noted.IsZero() || (s.Other == "") != (s.State == manage.MailAccepted || s.State == manage.MailHandedOver) {
			t.Errorf("step %+v", s)
		}
	}
	if steps != "accepted; handed over; dispatched; received; retrieved; " || len(got.Recipients[0].Contradictions) != 0 {
		t.Errorf("%s %v", steps, got.Recipients[0].Contradictions)
	}
	if last := got.Recipients[1].Steps; last[len(last)-1].Text != string(demail.NotifyUnknownRecipient) {
		t.Errorf("%+v", last)
	}
	if got.Message.ID != id || got.Message.State != "" || len(got.Events) == 0 {
		t.Errorf("%+v", got.Message)
	}
	w.mustDrain(r)
	for i := range w.serverA.count() { // the tenant gets the confirmations, as they came
		if a := w.serverA.await(t, i+1); !bytes.Contains(a.raw, []byte("; x-de-mail-confirmation=pass")) && !bytes.Contains(a.raw, []byte("\r\n x-de-mail-confirmation=pass")) {
			t.Errorf("without the result:\n%.800s", a.raw)
		}
	}
	if n := w.serverA.count(); n != 4 {
		t.Errorf("%d confirmations and notifications, want dispatch, receipt, retrieve and one failure", n)
	}
	for query, want := range map[string]int{strings.ToLower(id): 1, "trace@gemeinde-a.example": 1, "AZ 4711": 5, unknown: 1, strings.ToUpper(citizen): 1, mailA: 5,
		officeA: 5, "nobody@x.example": 0, "01JZZZZZZZZZZZZZZZZZZZZZZZ": 0, "": 0, strings.Repeat("x", 5000): 0} {
		all := traces(t, api, manage.MailTraceQuery{Query: query})
		if len(all.Traces) != want {
			t.Errorf("%.40q: %d traces, want %d", query, len(all.Traces), want)
		}
		for i := 1; i < len(all.Traces); i++ {
			if all.Traces[i].Message.ID > all.Traces[i-1].Message.ID {
				t.Errorf("%.40q: not newest first", query)
			}
		}
		if text, _ := json.Marshal(all); bytes.Contains(text, []byte("geheim")) || bytes.Contains(text, []byte("vertraulich")) {
			t.Errorf("content is shown: %s", text)
		}
	}
	if all := traces(t, api, manage.MailTraceQuery{Query: mailA, Limit: 2}); len(all.Traces) != 2 || !all.More {
		t.Errorf("limit 2: %d traces, more %v", len(all.Traces), all.More)
	}
	if all := traces(t, api, manage.MailTraceQuery{Query: citizen, Tenant: "gemeinde-b"}); len(all.Traces) != 0 {
		t.Errorf("another tenant's: %+v", all)
	}
}

// Every algorithm, and a letter to somebody on the same box: the sender's tenant
// gets the state, the recipient's a note.
func TestConfirmationsForBothSides(t *testing.T) {
	w := newWorld(t)
	api := w.socket(t)
	r := w.start()
	c := w.greeted(w.clientA)
	c.send("<"+mailA+">", compose("x\r\n", "From: "+mailA, "To: "+citizen, "Subject: x", "Message-ID: <both@gemeinde-a.example>", "x-de-mail-confirmation-of-receipt: yes"), "250", "<"+citizen+">")
	got, err := w.provider.Await(ctxFor(t), anyTo(citizen))
	if err != nil {
		t.Fatal(err)
	}
	about, err := demail.ParseAddress(officeA)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := w.provider.Confirmation(demail.TypeReceipt, got.Header, about, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	// To both tenants, of which only one has sent something.
	proof.To = []string{officeA, officeB}
	if _, err := w.provider.Push(ctxFor(t), r.push, proof); err != nil {
		t.Fatal(err)
	}
	progress(t, api, "<both@gemeinde-a.example>", "received")
	for query, want := range map[string]string{officeA: "", officeB: "none"} {
		all := traces(t, api, manage.MailTraceQuery{Query: query, Limit: 1})
		if confirms := all.Traces[0].Message.Attributes["confirms"]; want != "" && confirms != want || confirms == "" {
			t.Errorf("%s: confirms %q", query, confirms)
		}
	}
}

// A confirmation whose XML was changed proves nothing, even if the message is sound.
func TestForgedConfirmation(t *testing.T) {
	w := newWorld(t)
	api := w.socket(t)
	r := w.start()
	w.greeted(w.clientA).send("<"+mailA+">", letterA("one"), "250", "<"+citizen+">")
	got, err := w.provider.Await(ctxFor(t), anyTo(citizen))
	if err != nil {
		t.Fatal(err)
	}
	to, err := demail.ParseAddress(officeA)
	if err != nil {
		t.Fatal(err)
	}
	sound, err := w.provider.Confirmation(demail.TypeReceipt, got.Header, to, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	other := got.Header.Clone()
	if err := other.Replace("message-id", "<other@gemeinde-a.example>"); err != nil {
		t.Fatal(err)
	}
	stranger, err := w.provider.Confirmation(demail.TypeReceipt, other, to, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	hashed := sound
	hashed.Integrity = &demail.IntegrityOptions{}
	for name, d := range map[string]dmdatest.DeMail{"of another message": stranger, "only hashed": hashed} {
		if _, err := w.provider.Push(ctxFor(t), r.push, d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.mustDrain(r)
	progress(t, api, "<one@gemeinde-a.example>", "handed over")
	if _, err := w.provider.Push(ctxFor(t), r.push, sound); err != nil {
		t.Fatal(err)
	}
	progress(t, api, "<one@gemeinde-a.example>", "received")
}

// A quarantine through the whole daemon: 250, held, the postmaster is told, released.
func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	w.doc.Tenants[0].Integrity = config.IntegrityQuarantine
	r := w.start()
	sent, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}, Subject: "geheim",
		Spoil: func(_ *demail.Header, b []byte) []byte { return append(b, "x\r\n"...) }})
	if err != nil {
		t.Fatal(err)
	}
	notice := w.serverA.await(t, 1)
	if fmt.Sprint(notice.to) != "[postmaster@gemeinde-a.example]" || !bytes.Contains(notice.raw, []byte("Subject: De-Mail angehalten")) || bytes.Contains(notice.raw, []byte("geheim")) {
		t.Errorf("to %v:\n%s", notice.to, notice.raw)
	}
	held, _, err := r.d.queue.List(t.Context(), queue.Filter{State: queue.OnHold})
	if err != nil || len(held) != 1 {
		t.Fatalf("%d held, %v", len(held), err)
	}
	if w.serverA.count() != 1 {
		t.Error("it was delivered")
	}
	if n, err := r.d.queue.Unhold([]queue.ID{held[0].ID}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got := w.serverA.await(t, 2); !bytes.HasSuffix(got.raw, sent.Raw) || !bytes.Contains(got.raw, []byte("x-de-mail-integrity=fail")) {
		t.Errorf("released:\n%s", got.raw)
	}
}
