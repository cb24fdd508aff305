package dmdatest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/demail/confirmation"
)

// firm is a mailbox of the provider, on no gateway.
const firm = "empfang@firma.de-mail.example"

// asking is a message with options.
func asking(o demail.Options, fields string) string {
	h := demail.NewHeader()
	o.Apply(h)
	var b bytes.Buffer
	_, _ = h.WriteTo(&b)
	return strings.TrimSuffix(b.String(), "\r\n") + "x-de-mail-private-id: az-9\r\n" + fields + simple
}

// told are the answers as "type to about".
func told(answers []Answer) []string {
	var out []string
	for _, a := range answers {
		kind := string(a.Type)
		if a.Type == demail.TypeNotification {
			kind = string(a.Notify)
		}
		out = append(out, fmt.Sprintf("%s %s %v", kind, a.To, a.About))
	}
	return out
}

// TestAnswers: what comes back for which options and recipients, and to whom.
func TestAnswers(t *testing.T) {
	all := demail.Options{ConfirmDispatch: true, ConfirmReceipt: true, ConfirmRetrieve: true, Private: true}
	at := func(local string) string { return local + "@de-mail.example" }
	back := func(kind, to string, about ...string) string { return fmt.Sprintf("%s %s %v", kind, to, about) }
	for name, c := range map[string]struct {
		options demail.Options
		fields  string
		to      []string
		want    []string
	}{
		"nothing asked": {demail.Options{}, "", []string{firm}, nil},
		"dispatch":      {demail.Options{ConfirmDispatch: true}, "", []string{firm, postB}, []string{back("confirmation of dispatch", postA, firm, postB)}},
		"receipt": {demail.Options{ConfirmReceipt: true}, "", []string{firm}, []string{
			back("confirmation of receipt", postA, firm), back("confirmation of receipt", firm, firm)}},
		"receipt of one's own": {demail.Options{ConfirmReceipt: true}, "", []string{postA}, []string{back("confirmation of receipt", postA, postA)}},
		"reply-to":             {demail.Options{ConfirmDispatch: true}, "Reply-To: Amt <bauamt@gemeinde-a.de-mail.example>\r\n", []string{firm}, []string{back("confirmation of dispatch", "bauamt@gemeinde-a.de-mail.example", firm)}},
		"reply-to nowhere":     {demail.Options{ConfirmDispatch: true}, "Reply-To: x\r\n", []string{firm}, nil},
		"fetched at once": {all, "", []string{at("retrieve")}, []string{
			back("confirmation of dispatch", postA, at("retrieve")),
			back("confirmation of receipt", postA, at("retrieve")), back("confirmation of receipt", at("retrieve"), at("retrieve")),
			back("confirmation of retrieve", postA, at("retrieve")), back("confirmation of retrieve", at("retrieve"), at("retrieve"))}},
		"malware":         {all, "", []string{at("malware")}, []string{back("malware-acknowledge", postA, at("malware"))}},
		"malware, notice": {all, "", []string{at("malware-notification")}, []string{back("malware-notification", postA, at("malware-notification"))}},
		"closed account": {demail.Options{ConfirmDispatch: true}, "", []string{at("closed-account"), firm}, []string{
			back("confirmation of dispatch", postA, at("closed-account"), firm), back("closed-account", postA, at("closed-account"))}},
		"unknown":            {demail.Options{}, "", []string{at("unknown-recipient")}, []string{back("unknown-recipient", postA, at("unknown-recipient"))}},
		"format":             {demail.Options{}, "", []string{at("invalid-format")}, []string{back("invalid-format", postA, at("invalid-format"))}},
		"other":              {demail.Options{}, "", []string{at("other")}, []string{back("other", postA, at("other"))}},
		"faulty":             {demail.Options{}, "", []string{at("faulty-notification")}, []string{back("unknown-recipient", postA, at("faulty-notification"))}},
		"identification":     {demail.Options{}, "", []string{at("identification")}, []string{back("identification", postA, at("identification"))}},
		"once, not again":    {demail.Options{}, "", []string{at("closed-account-1")}, []string{back("closed-account", postA, at("closed-account-1"))}},
		"several faults":     {demail.Options{}, "", []string{at("other"), at("invalid-format")}, []string{back("other", postA, at("other")), back("invalid-format", postA, at("invalid-format"))}},
		"fetched, not asked": {demail.Options{}, "", []string{at("retrieve")}, nil},
	} {
		w := newWorld(t, func(c *Config) { c.GatewayName = "gate.example" })
		g, address := startGateway(t, w.pki)
		w.SetGateway(address)
		err := w.send(t, postA, c.to, asking(c.options, c.fields))
		if name == "reply-to nowhere" { // our own check of what is delivered refuses it
			if _, n := code(err); n != 554 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := w.settle(t)
		if !slices.Equal(told(got), c.want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(told(got), "\n"), strings.Join(c.want, "\n"))
		}
		w.checkPushed(t, name, g, got)
		stored := len(w.Deliveries())
		for _, rcpt := range c.to {
			a, _ := demail.ParseAddress(rcpt)
			if parseFault(a.Local()).undelivered() {
				stored++
			}
		}
		if stored != len(c.to) || len(w.Ledger()) != 1 {
			t.Errorf("%s: %d of %d delivered or withheld", name, stored, len(c.to))
		}
	}
}

// settle waits until every answer has found its end.
func (w *world) settle(t *testing.T) []Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		w.mu.Lock()
		ended, changed := w.ended == len(w.answers), w.changed
		w.mu.Unlock()
		if ended {
			return w.Answers()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("answers are still on their way")
		}
	}
}

// checkPushed compares what a gateway got with the answers for its accounts, and
// checks each message.
func (w *world) checkPushed(t *testing.T, name string, g *gateway, answers []Answer) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	var want [][]byte
	for _, a := range answers {
		if a.Err != nil || a.Pushed != w.onToken(a.To) {
			t.Errorf("%s: %s to %s: pushed %v, %v", name, a.Type, a.To, a.Pushed, a.Err)
		}
		if a.Pushed {
			want = append(want, a.Composed.Raw)
		}
		h, body, err := split(a.Composed.Raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, faults := demail.Validate(h); faults.Err() != nil || (len(faults) > 0) != (name == "faulty") {
			t.Errorf("%s: %v", name, faults)
		}
		if _, err := demail.VerifyIntegrity(h, bytes.NewReader(body), trust(w.pki)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c, err := confirmation.Parse(h, bytes.NewReader(body), trust(w.pki))
		if err != nil || c.Fault != nil || c.Type != a.Type || a.Type != demail.TypeIdentification && c.PrivateID != "az-9" {
			t.Errorf("%s: %v, %v", name, c, err)
			continue
		}
		if a.Type != demail.TypeIdentification && !slices.Equal(c.Recipients, a.About) {
			t.Errorf("%s: about %v, want %v", name, c.Recipients, a.About)
		}
	}
	if !slices.EqualFunc(g.raw, want, bytes.Equal) {
		t.Errorf("%s: the gateway got %d messages, want %d", name, len(g.raw), len(want))
	}
}

// TestRetrieve: a log-in confirms what is there, once.
func TestRetrieve(t *testing.T) {
	w := newWorld(t, nil)
	o := demail.Options{ConfirmRetrieve: true, Private: true}
	if err := w.send(t, postA, []string{firm, other}, asking(o, "")); err != nil {
		t.Fatal(err)
	}
	if err := w.send(t, postA, []string{firm}, simple); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{1, 0} {
		if n, err := w.Retrieve(firm); n != want || err != nil {
			t.Errorf("log-in %d: %d, %v", i, n, err)
		}
	}
	if _, err := w.Retrieve("x"); err == nil {
		t.Error("nobody has logged in")
	}
	got := w.settle(t)
	want := []string{"confirmation of retrieve " + postA + " [" + firm + "]", "confirmation of retrieve " + firm + " [" + firm + "]"}
	if !slices.Equal(told(got), want) {
		t.Errorf("%q", told(got))
	}
	h, body, _ := split(got[0].Composed.Raw)
	c, err := confirmation.Parse(h, bytes.NewReader(body), trust(w.pki))
	if err != nil || time.Since(c.DeliveryTime) > time.Hour || c.Time.Before(c.DeliveryTime) {
		t.Errorf("%v, %v", c, err)
	}
}

// TestAnswersOfBlindCopies: each blind recipient's copy is confirmed for itself, and tells
// of nobody else.
func TestAnswersOfBlindCopies(t *testing.T) {
	w := newWorld(t, nil)
	message := asking(demail.Options{ConfirmDispatch: true}, demail.FieldChosenRecipient+": to="+firm+"\r\n")
	if err := w.send(t, postA, []string{firm, "blind@firma.de-mail.example"}, message); err != nil {
		t.Fatal(err)
	}
	got := w.settle(t)
	if len(got) != 2 || bytes.Contains(got[0].Composed.Raw, []byte("blind@")) {
		t.Fatalf("%q", told(got))
	}
	for _, a := range got {
		if xml := attachments(t, a.Composed.Raw)["application/xml"]; bytes.Contains(xml, []byte("blind@")) != (a.About[0].String() != firm) {
			t.Errorf("about %v: %s", a.About, xml)
		}
	}
}

// TestLockToken: the local part locks, and unlocking lets mail through again.
func TestLockToken(t *testing.T) {
	w := newWorld(t, nil)
	for i, step := range []struct {
		to   string
		step string
		code int
	}{{"lock-token@de-mail.example", "RCPT", 550}, {firm, "MAIL", 550}, {firm, "", 0}} {
		if i == 2 {
			w.LockToken("gateway-1", false)
		}
		if at, n := code(w.send(t, postA, []string{step.to}, simple)); at != step.step || n != step.code {
			t.Errorf("step %d: %s %d", i, at, n)
		}
	}
}

// TestGatewayIsTriedAgain: an answer waits for a gateway that is away, one that
// says never is believed, and what was not handed over comes with the next Serve.
func TestGatewayIsTriedAgain(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.GatewayName = "gate.example"; c.Gateway = "127.0.0.1:1" })
	g, address := startGateway(t, w.pki)
	if err := w.send(t, postA, []string{"closed-account@de-mail.example"}, simple); err != nil {
		t.Fatal(err)
	}
	if a := w.Answers(); len(a) != 1 || a[0].Pushed {
		t.Fatalf("%v", a)
	}
	w.SetGateway(address)
	a, err := w.AwaitAnswer(t.Context(), func(a Answer) bool { return a.Notify == demail.NotifyClosedAccount })
	if err != nil || !a.Pushed || len(g.rcpt) != 1 || g.rcpt[0] != postA {
		t.Errorf("%+v, %v", a, err)
	}
	if err := w.send(t, postA, []string{"other@de-mail.example"}, asking(demail.Options{}, "Reply-To: refuse@gemeinde-a.de-mail.example\r\n")); err != nil {
		t.Fatal(err)
	}
	a, err = w.AwaitAnswer(t.Context(), func(a Answer) bool { return a.Notify == demail.NotifyOther })
	if err != nil || a.Pushed || a.Err == nil {
		t.Errorf("%+v, %v", a, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.AwaitAnswer(ctx, func(Answer) bool { return false }); err == nil {
		t.Error("nothing was waited for")
	}
}

// TestReversePath: the system address, or nothing on demand.
func TestReversePath(t *testing.T) {
	p := silent(t, newPKI(t), demail.Algorithm{})
	to, _ := demail.ParseAddress(postA)
	d, err := p.Identification(to)
	if err != nil {
		t.Fatal(err)
	}
	for null, want := range map[bool]string{false: "Ident-Bestaetigung@" + domain, true: ""} {
		d.NullPath = null
		if c, err := p.Compose(d); err != nil || c.From != want {
			t.Errorf("%v: %q, %v", null, c.From, err)
		}
	}
}

func TestNoSuchAnswer(t *testing.T) {
	p := silent(t, newPKI(t), demail.Algorithm{})
	h, to := originalHeader(t, p), demail.Address{}
	if _, err := p.Confirmation(demail.TypeNormal, h, to, time.Time{}); err == nil {
		t.Error("a normal message confirms")
	}
	if _, err := p.Notification(demail.TypeReceipt, demail.NotifyOther, h, to, to); err == nil {
		t.Error("a confirmation notifies")
	}
}
