package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

func ctxFor(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func anyTo(address string) func(dmdatest.Delivery) bool {
	return func(d dmdatest.Delivery) bool { return d.Recipient.String() == address }
}

func TestMailOut(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	c := w.greeted(w.clientA)
	body := "Guten Tag,\r\n\r\n.Punkt\r\n..\r\nGr\xc3\xbc\xc3\x9fe  \r\n" + strings.Repeat("x", 998) + "\r\n"
	message := compose(body,
		"Received: from pc17.intern by mail.gemeinde-a.example; Fri, 20 Nov 2026 07:59:00 +0000",
		"Return-Path: <"+mailA+">",
		"From: =?utf-8?Q?Gr=C3=BCner?=\r\n\t<Poststelle@Gemeinde-A.example> (Amt, 2. Stock)",
		"Sender: "+mailA,
		"Reply-To: bauamt@gemeinde-a.example",
		"To: \"Muster, Erika\" <"+citizen+">, bauamt@gemeinde-a.example",
		"Cc: Liste: <hans@buerger.de-mail.example>, fremd@firma.example;",
		"Bcc: geheim@buerger.de-mail.example",
		"Subject: =?utf-8?Q?Bescheid_=C3=BCber?=\r\n =?utf-8?Q?_Geb=C3=BChren?=",
		"Date: Fri, 20 Nov 2026 08:00:00 +0000",
		"Message-ID: <1@gemeinde-a.example>",
		"X-De-Mail-Private: yes", "x-de-mail-confirmation-of-dispatch: yes", "x-de-mail-private-id: AZ-1",
		"x-de-mail-auth-level: high", "X-De-Mail-Message-Type: notification", "x-de-mail-unheard-of: 1", "X-Pforte-Recipient: forged@x.example",
		"MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "Content-Transfer-Encoding: 8bit")
	answer := c.send("<"+mailA+"> BODY=8BITMIME SIZE=2000", message, "250 2.0.0 accepted as ", "<"+citizen+">", "<geheim@buerger.de-mail.example>")
	id, receipt, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(answer, "250 2.0.0 accepted as ")), "; ")
	if receipt != "asked for: confirm-dispatch (header) private (header)" {
		t.Errorf("receipt %q", receipt)
	}
	if mark := r.marks.await(t, "relayd.accepted", 1); mark.Fields["id"] != id || mark.Fields["tenant"] != "gemeinde-a" || mark.Fields["direction"] != "out" {
		t.Errorf("mark %+v, id %s", mark, id)
	}
	got, err := w.provider.Await(ctxFor(t), anyTo(citizen))
	if err != nil {
		t.Fatal(err)
	}
	if got.From.String() != officeA || got.BodySHA256 != sha256.Sum256([]byte(body)) {
		t.Errorf("reverse-path %s, body unchanged %v", got.From, got.BodySHA256 == sha256.Sum256([]byte(body)))
	}
	handed := string(got.Received)
	for _, want := range []string{
		"From: =?utf-8?Q?Gr=C3=BCner?=\r\n\t<" + officeA + "> (Amt, 2. Stock)\r\n",
		"Sender: " + officeA + "\r\n",
		"Reply-To: bauamt@gemeinde-a.de-mail.example\r\n",
		"To: \"Muster, Erika\" <" + citizen + ">, bauamt@gemeinde-a.de-mail.example\r\n",
		"Cc: Liste: <hans@buerger.de-mail.example>, fremd@firma.example;\r\n",
		"Subject: =?utf-8?Q?Bescheid_=C3=BCber?=\r\n =?utf-8?Q?_Geb=C3=BChren?=\r\n",
		"Message-ID: <1@gemeinde-a.example>\r\n",
		"x-de-mail-private-id: AZ-1\r\n",
	} {
		if !strings.Contains(unfold(handed), unfold(want)) {
			t.Errorf("header lacks %q:\n%s", want, handed)
		}
	}
	for _, never := range []string{"pc17", "Return-Path", "Bcc", "geheim", "auth-level", "notification", "unheard", "forged"} {
		if strings.Contains(handed, never) {
			t.Errorf("header has %q:\n%s", never, handed)
		}
	}
	for name, want := range map[string]string{
		demail.FieldPrivate: "yes", demail.FieldConfirmDispatch: "yes", demail.FieldConfirmReceipt: "no", demail.FieldSender: officeA,
		demail.FieldChosenRecipient: "to=" + citizen + ";bauamt@gemeinde-a.de-mail.example;cc=hans@buerger.de-mail.example",
	} {
		if value := strings.ReplaceAll(got.Header.Get(name), " ", ""); value != want {
			t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	if mark := r.marks.await(t, "relayd.delivered", 1); mark.Fields["id"] != id || mark.Fields["next"] != mxName || mark.Fields["attempts"] != "1" {
		t.Errorf("mark %+v", mark)
	}
	if len(w.provider.Ledger()) != 1 {
		t.Errorf("ledger %+v", w.provider.Ledger())
	}
}

func unfold(s string) string {
	return strings.NewReplacer("\r\n ", " ", "\r\n\t", "\t").Replace(s)
}

func TestMissingFieldsAreAdded(t *testing.T) {
	w := newWorld(t)
	w.start()
	c := w.greeted(w.clientA)
	c.send("<"+mailA+">", compose("x\r\n", "From: "+officeA), "250", "<"+citizen+">")
	got, err := w.provider.Await(ctxFor(t), anyTo(citizen))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Date: ", "Message-ID: <01", "Subject:", "Received: from gemeinde-a by " + boxName} {
		if !bytes.Contains(got.Received, []byte(name)) {
			t.Errorf("%q is missing:\n%s", name, got.Received)
		}
	}
}

func TestMailIn(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	sent, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}, Subject: "Gr\u00fc\u00dfe",
		Body: []byte(".Punkt\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"), Options: demail.Options{Authoritative: true},
		Fields: [][2]string{{"mime-version", "1.0"}, {"content-type", "text/plain; charset=utf-8"}, {"content-transfer-encoding", "8bit"}}})
	if err != nil {
		t.Fatal(err)
	}
	got := w.serverA.await(t, 1)
	if got.from != citizen || fmt.Sprint(got.to) != "["+mailA+"]" {
		t.Errorf("from %s to %v", got.from, got.to)
	}
	trace, below, found := bytes.Cut(got.raw, []byte("\r\nreceived: from post box by "))
	if !found || !bytes.Equal(append([]byte("received: from post box by "), below...), sent.Raw) {
		t.Fatalf("not byte-identical below the trace:\n%s\n--- sent:\n%s", got.raw, sent.Raw)
	}
	for _, want := range []string{"Received: from ", " by " + boxName + " with ESMTPS id 0", "Authentication-Results: " + boxName + "; x-de-mail-integrity=pass (signed)",
		"X-Pforte-Recipient: " + officeA} {
		if !strings.Contains(strings.ReplaceAll(string(trace), "\r\n", ""), want) {
			t.Errorf("trace lacks %q:\n%s", want, trace)
		}
	}
	if mark := r.marks.await(t, "relayd.delivered", 1); mark.Fields["direction"] != "in" {
		t.Errorf("mark %+v", mark)
	}
}

func TestMailInForTwoTenants(t *testing.T) {
	w := newWorld(t)
	w.doc.Tenants[1].Domains[0].CatchAll = "zentrale@gemeinde-b.example"
	r := w.start()
	if _, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA, "bauamt@gemeinde-a.de-mail.example", "irgendwer@gemeinde-b.de-mail.example"}}); err != nil {
		t.Fatal(err)
	}
	a, b := w.serverA.await(t, 1), w.serverB.await(t, 1)
	if fmt.Sprint(a.to) != "[poststelle@gemeinde-a.example bauamt@gemeinde-a.example]" || fmt.Sprint(b.to) != "[zentrale@gemeinde-b.example]" {
		t.Errorf("to %v and %v", a.to, b.to)
	}
	if bytes.Contains(a.raw, []byte("X-Pforte-Recipient")) || !bytes.Contains(b.raw, []byte("X-Pforte-Recipient: irgendwer@gemeinde-b.de-mail.example")) {
		t.Error("the trace names several recipients, or not the only one")
	}
}

func TestForgedTraceIsRemoved(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	if _, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA},
		Fields: [][2]string{{"authentication-results", boxName + "; x-de-mail-integrity=pass (signed)"}, {"x-pforte-verdict", "fine"}}}); err != nil {
		t.Fatal(err)
	}
	got := w.serverA.await(t, 1)
	if bytes.Count(bytes.ToLower(got.raw), []byte("authentication-results:")) != 1 || bytes.Contains(got.raw, []byte("x-pforte-verdict")) {
		t.Errorf("forged fields passed:\n%s", got.raw)
	}
}

func TestRefusalsOut(t *testing.T) {
	w := newWorld(t)
	w.doc.Tenants[0].Domains = append(w.doc.Tenants[0].Domains, config.Domain{Name: "in.gemeinde-a.de-mail.example", Direction: config.DirectionReceive})
	w.doc.Tenants[0].Mappings = append(w.doc.Tenants[0].Mappings, config.Mapping{Mail: "in@gemeinde-a.example", DeMail: "in@in.gemeinde-a.de-mail.example"})
	w.doc.Tenants[1].Language = "en"
	w.start()
	from, to := "<"+mailA+">", "<"+citizen+">"
	head := func(fields ...string) []byte {
		return compose("x\r\n", append([]string{"From: " + mailA, "Subject: x"}, fields...)...)
	}
	tests := []struct {
		name, from, to string
		message        []byte
		code, text     string
	}{
		{"another tenant's sender", "<poststelle@gemeinde-b.example>", "", nil, "550 5.7.1", "keine Absenderadresse"},
		{"another tenant's De-Mail address", "<" + officeB + ">", "", nil, "550 5.7.1", "keine Absenderadresse"},
		{"a sender without mapping", "<wer@gemeinde-a.example>", "", nil, "550 5.7.1", "zuordnen"},
		{"a De-Mail address of its own that nobody has", "<wer@gemeinde-a.de-mail.example>", "", nil, "550 5.7.1", "zuordnen"},
		{"a domain that only receives", "<in@gemeinde-a.example>", "", nil, "550 5.7.1", "nur empfangen"},
		{"no sender", "<>", "", nil, "550 5.7.1", "ohne Absender"},
		{"a recipient outside of De-Mail", from, "<erika@firma.example>", nil, "550 5.7.1", "keine De-Mail-Adresse"},
		{"a recipient that looks like De-Mail", from, "<erika@xde-mail.example>", nil, "550 5.7.1", "keine De-Mail-Adresse"},
		{"From of another tenant", from, to, compose("x\r\n", "From: poststelle@gemeinde-b.example"), "550 5.7.1", "keine Absenderadresse"},
		{"a second author who is a stranger", from, to, compose("x\r\n", "From: "+mailA+", fremd@firma.example"), "550 5.7.1", "keine Absenderadresse"},
		{"Sender of another tenant", from, to, head("Sender: poststelle@gemeinde-b.example"), "550 5.7.1", "keine Absenderadresse"},
		{"x-de-mail-sender of another tenant", from, to, head("x-de-mail-sender: " + officeB), "550 5.7.1", "keine Absenderadresse"},
		{"no From", from, to, compose("x\r\n", "Subject: x"), "554 5.6.0", "From fehlt"},
		{"an empty From", from, to, compose("x\r\n", "From: nobody:;"), "554 5.6.0", "nennt keine Adresse"},
		{"two From", from, to, head("From: " + mailA), "554 5.6.0", "2-mal"},
		{"From hidden by white space", from, to, head("from : poststelle@gemeinde-b.example"), "554 5.6.0", "2-mal"},
		{"broken From", from, to, compose("x\r\n", "From: \"Amt <"+mailA+">"), "554 5.6.0", "fehlerhaft"},
		{"Reply-To outside of De-Mail", from, to, head("Reply-To: amt@firma.example"), "554 5.6.0", "keine De-Mail-Adresse"},
		{"two Reply-To addresses", from, to, head("Reply-To: " + mailA + ", bauamt@gemeinde-a.example"), "554 5.6.0", "genau eine"},
		{"8-bit header", from, to, head("X-Amt: \xfc"), "554 5.6.7", "ASCII"},
		{"bad option value", from, to, head("x-de-mail-private: Yes"), "554 5.7.0", "Versandoption"},
		{"retrieve without private", from, to, head("x-de-mail-confirmation-of-retrieve: yes"), "554 5.7.0", "setzen Sie auch x-de-mail-private: yes"},
		{"long private-id", from, to, head("x-de-mail-private-id: " + strings.Repeat("x y ", 200) + "\r\n " + strings.Repeat("x y ", 200)), "554 5.6.0", "1024"},
		{"bad chosen recipients", from, to, head("x-de-mail-chosen-recipient: an=" + citizen), "554 5.6.0", "fehlerhaft"},
		{"no header", from, to, []byte("just text\r\n"), "554 5.6.0", "malformed"},
		{"a loop", from, to, head(strings.TrimSuffix(strings.Repeat("Received: from x by "+boxName+" with ESMTPS; now\r\n", 5), "\r\n")), "554 5.4.6", "im Kreis"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := w.greeted(w.clientA)
			c.t = t
			var answer string
			switch {
			case test.to == "":
				answer = c.say("MAIL FROM:"+test.from, test.code)
			case test.message == nil:
				c.say("MAIL FROM:"+test.from, "250")
				answer = c.say("RCPT TO:"+test.to, test.code)
			default:
				answer = c.send(test.from, test.message, test.code, test.to)
			}
			if !strings.Contains(answer, test.text) {
				t.Errorf("answer %q, want %q in it", answer, test.text)
			}
			c.say("RSET", "250")
		})
	}
	if answer := w.greeted(w.clientB).say("MAIL FROM:<"+mailA+">", "550 5.7.1"); !strings.Contains(answer, "is no sender address") {
		t.Errorf("not in the tenant's language: %q", answer)
	}
	if stats, err := w.running.d.queue.Stats(); err != nil || stats.Total.Messages != 0 || len(w.provider.Ledger()) != 0 {
		t.Errorf("something was taken: %+v, %v", stats, err)
	}
}

func TestStrangersAndPlainText(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	stranger := newAuthority(t, "stranger").host(t, "mail.gemeinde-a.example")
	w.dial(r.implicit, stranger).expect("550 5.7.1")
	c := w.dial(r.implicit, tls.Certificate{})
	if _, err := c.r.ReadString('\n'); err == nil {
		t.Error("a client without a certificate was greeted")
	}
	plain, err := smtp.Dial(r.starttls)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	err = plain.Mail(mailA, nil)
	var refused *smtp.SMTPError
	if !errors.As(err, &refused) || refused.Code != 530 {
		t.Errorf("mail in plain text: %v", err)
	}
}

func TestRefusalsIn(t *testing.T) {
	w := newWorld(t)
	w.doc.Tenants[1].Domains[0].Direction = config.DirectionSend
	r := w.start()
	spoilBody := func(_ *demail.Header, b []byte) []byte { return append(b, "x\r\n"...) }
	spoilHeader := func(h *demail.Header, b []byte) []byte { _ = h.Replace("subject", "other"); return b }
	noProof := func(h *demail.Header, b []byte) []byte { h.Remove(demail.FieldIntegrity); return b }
	for _, test := range []struct {
		name string
		mail dmdatest.DeMail
		code int
		text string
	}{
		{"an unknown address", dmdatest.DeMail{To: []string{"wer@gemeinde-a.de-mail.example"}}, 550, "no such address"},
		{"an unknown domain", dmdatest.DeMail{To: []string{"wer@gemeinde-z.de-mail.example"}}, 550, "is not served here"},
		{"a domain that only sends", dmdatest.DeMail{To: []string{officeB}}, 550, "does not receive"},
		{"a changed body", dmdatest.DeMail{To: []string{officeA}, Spoil: spoilBody}, 554, "integrity"},
		{"a changed header", dmdatest.DeMail{To: []string{officeA}, Spoil: spoilHeader}, 554, "integrity"},
		{"a changed signed header", dmdatest.DeMail{To: []string{officeA}, Spoil: spoilHeader, Options: demail.Options{Authoritative: true}}, 554, "integrity"},
		{"no proof", dmdatest.DeMail{To: []string{officeA}, Spoil: noProof}, 554, "integrity"},
	} {
		test.mail.From = citizen
		_, err := w.provider.Push(ctxFor(t), r.push, test.mail)
		var refused *dmdatest.Refusal
		if !errors.As(err, &refused) || refused.Code != test.code || !strings.Contains(refused.Text, test.text) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if n := w.serverA.count() + w.serverB.count(); n > 0 {
		t.Errorf("%d messages were delivered", n)
	}
}

// What is offered to whom. Who cannot send reports does not announce them: tenants
// get DSN, the provider, who keeps the duty, does not.
func TestOffers(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	provider, tenant := w.dial(r.push, w.pki.Client()), w.dial(r.implicit, w.clientA)
	for c, with := range map[*talk]bool{provider: false, tenant: true} {
		c.expect("220")
		caps := c.say("EHLO mail.example", "250")
		if strings.Contains(caps, "DSN\r\n") != with {
			t.Errorf("DSN is to be offered: %v; what is: %q", with, caps)
		}
		for _, keyword := range []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING", "SIZE ", "LIMITS RCPTMAX="} {
			if !strings.Contains(caps, keyword) {
				t.Errorf("%s is not offered: %q", keyword, caps)
			}
		}
	}
	provider.say("MAIL FROM:<"+citizen+"> RET=HDRS ENVID=q1", "555 5.5.4")
	provider.say("MAIL FROM:<"+citizen+">", "250")
	provider.say("RCPT TO:<"+officeA+"> NOTIFY=SUCCESS,FAILURE", "555 5.5.4")
}

func TestOnlyTheProviderMayPush(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	push := func() error {
		_, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}})
		return err
	}
	if err := push(); err != nil {
		t.Fatal(err)
	}
	for name, cert := range map[string]tls.Certificate{"a tenant": w.clientA, "another client of the provider's authority": w.token} {
		c := w.dial(r.push, cert)
		if line, err := c.r.ReadString('\n'); err == nil {
			t.Errorf("%s was greeted with %q", name, line)
		}
	}
	w.pki.Revoke(w.pki.Client().Leaf)
	if err := r.d.now().revocation.Refresh(ctxFor(t)); err != nil {
		t.Fatal(err)
	}
	if push() == nil {
		t.Error("a revoked certificate may push")
	}
}

func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.provider.SetDown(true)
	w.start()
	w.greeted(w.clientA).send("<"+mailA+">", letterA("one"), "250", "<"+citizen+">")
	w.running.end(t)
	w.provider.SetDown(false)
	w.start()
	if _, err := w.provider.Await(ctxFor(t), anyTo(citizen)); err != nil {
		t.Fatal(err)
	}
}

func TestTemporaryFailuresAreRetried(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.greeted(w.clientA).send("<"+mailA+">", letterA("retry"), "250", "<temperror-2@buerger.de-mail.example>", "<"+citizen+">")
	if _, err := w.provider.Await(ctxFor(t), anyTo("temperror-2@buerger.de-mail.example")); err != nil {
		t.Fatal(err)
	}
	if mark := r.marks.await(t, "relayd.delivered", 2); mark.Fields["attempts"] != "3" {
		t.Errorf("mark %+v", mark)
	}
	if d := w.provider.Duplicates(); len(d) != 0 {
		t.Errorf("duplicates %v", d)
	}
}

func TestFailuresAreReported(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	c := w.greeted(w.clientA)
	c.send("<"+mailA+"> RET=FULL ENVID=q1", letterA("gone"), "250",
		"<permerror@buerger.de-mail.example> ORCPT=rfc822;erika@firma.example", "<"+citizen+">", "<550@buerger.de-mail.example> NOTIFY=NEVER")
	got := w.serverA.await(t, 1)
	if got.from != "" || fmt.Sprint(got.to) != "["+mailA+"]" {
		t.Errorf("report from %q to %v", got.from, got.to)
	}
	for _, want := range []string{"report-type=delivery-status", "Final-Recipient: rfc822;permerror@buerger.de-mail.example", "Original-Recipient: rfc822;erika@firma.example",
		"Action: failed", "Status: 5.", "Diagnostic-Code: smtp;550", "Remote-MTA: dns;" + mxName, "Original-Envelope-Id: q1", "To: <" + mailA + ">",
		"Guten Tag\r\n.Punkt\r\n"} {
		if !bytes.Contains(got.raw, []byte(want)) {
			t.Errorf("report lacks %q", want)
		}
	}
	for _, never := range []string{"550@buerger", "rfc822;" + citizen} {
		if bytes.Contains(got.raw, []byte(never)) {
			t.Errorf("report has %q:\n%s", never, got.raw)
		}
	}
	r.marks.await(t, "relayd.bounced", 1)
	w.mustDrain(r)
	if n := w.serverA.count(); n != 1 {
		t.Errorf("%d reports", n)
	}
}

// mustDrain waits until nothing waits in the queue.
func (w *world) mustDrain(r *running) {
	w.t.Helper()
	ctx := ctxFor(w.t)
	for {
		stats, err := r.d.queue.Stats()
		if err != nil {
			w.t.Fatal(err)
		}
		if stats.Total.Messages == 0 {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("messages still wait: %+v", stats)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestGivingUpAfterTheLastTry(t *testing.T) {
	w := newWorld(t)
	w.schedule.GiveUp = 300 * time.Millisecond
	w.start()
	w.greeted(w.clientA).send("<"+mailA+">", letterA("late"), "250", "<temperror@buerger.de-mail.example>")
	got := w.serverA.await(t, 1)
	for _, want := range []string{"Status: 5.4.7", "Action: failed", "temperror@buerger.de-mail.example"} {
		if !bytes.Contains(got.raw, []byte(want)) {
			t.Errorf("report lacks %q:\n%s", want, got.raw)
		}
	}
	if bytes.Contains(got.raw, []byte("Guten Tag\r\n.Punkt")) {
		t.Error("the body was returned without RET=FULL")
	}
}

func TestIncomingThatCannotBeDelivered(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.serverA.setRefusal(mailA, 550, smtp.EnhancedCode{5, 1, 1})
	if _, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}}); err != nil {
		t.Fatal(err)
	}
	got := w.serverA.await(t, 1)
	if got.from != "" || fmt.Sprint(got.to) != "[postmaster@gemeinde-a.example]" || !bytes.Contains(got.raw, []byte("Final-Recipient: rfc822;"+mailA)) {
		t.Errorf("report from %q to %v:\n%s", got.from, got.to, got.raw)
	}
	w.mustDrain(r)
	dead, err := r.d.queue.DeadLetters("", 10)
	if err != nil || len(dead) != 1 {
		t.Fatalf("dead letters %v, %v", dead, err)
	}
	status, err := r.d.status()
	if err != nil || status.Dead != 1 || !has(status.Conditions, "relay.dead") {
		t.Errorf("conditions %+v, %v", status.Conditions, err)
	}
	w.serverA.setRefusal(mailA, 0, smtp.EnhancedCode{})
	if err := r.d.queue.Revive(dead[0].Envelope.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := w.serverA.await(t, 2); got.from != citizen || fmt.Sprint(got.to) != "["+mailA+"]" {
		t.Errorf("revived: from %s to %v", got.from, got.to)
	}
	if len(w.provider.Ledger()) != 0 {
		t.Error("something went back to the provider")
	}
}

func has(list []manage.Condition, code string) bool {
	for _, c := range list {
		if c.Code == code {
			return true
		}
	}
	return false
}

func TestReportOfAReport(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.serverA.setRefusal(mailA, 550, smtp.EnhancedCode{5, 2, 1})
	c := w.greeted(w.clientA)
	c.send("<"+mailA+">", letterA("first"), "250", "<permerror@buerger.de-mail.example>")
	got := w.serverA.await(t, 1)
	if fmt.Sprint(got.to) != "[postmaster@gemeinde-a.example]" || !bytes.Contains(got.raw, []byte("Final-Recipient: rfc822;permerror@buerger.de-mail.example")) {
		t.Errorf("to %v: the first report is not in:\n%s", got.to, got.raw)
	}
	w.mustDrain(r)
	if dead, err := r.d.queue.DeadLetters("", 10); err != nil || len(dead) != 0 {
		t.Fatalf("dead letters %v, %v", dead, err)
	}
	w.serverA.setRefusal("postmaster@gemeinde-a.example", 550, smtp.EnhancedCode{5, 2, 1})
	c.send("<"+mailA+">", letterA("second"), "250", "<permerror@buerger.de-mail.example>")
	r.marks.await(t, "relayd.bounced", 5) // first, its report, second, its report, the report of that
	w.mustDrain(r)
	if dead, err := r.d.queue.DeadLetters("", 10); err != nil || len(dead) != 1 || dead[0].Envelope.Recipients[0].Address != "postmaster@gemeinde-a.example" {
		t.Fatalf("dead letters %v, %v", dead, err)
	}
}

func TestReload(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	a, b := w.greeted(w.clientA), w.greeted(w.clientB)
	changed := r.d.live.Changed()
	doc := *w.doc
	doc.Serial++
	doc.Tenants = doc.Tenants[1:]
	w.doc = &doc
	r.reload <- nil
	<-changed
	a.say("MAIL FROM:<"+mailA+">", "550 5.7.1")
	b.say("MAIL FROM:<poststelle@gemeinde-b.example>", "250")
	if status, err := r.d.detail(); err != nil || status.Serial != 2 || status.Tenants != 1 {
		t.Errorf("status %+v, %v", status, err)
	}
}

func TestWaitsForCertificates(t *testing.T) {
	w := newWorld(t)
	have := make(chan struct{})
	w.options = func(o *Options) {
		o.ClientCertificate = func() (*tls.Certificate, error) {
			select {
			case <-have:
				return &w.token, nil
			default:
				return nil, hsm.ErrNoCertificate
			}
		}
	}
	r := w.launch()
	status, err := r.d.status()
	if err != nil || status.Accepting || status.Waiting == "" || !has(status.Conditions, "relay.certificate") {
		t.Errorf("status %+v, %v", status, err)
	}
	close(have)
	r.marks.await(t, "relayd.ready", 1)
	w.greeted(w.clientA)
	if detail, err := r.d.detail(); err != nil || detail.Connections != 1 {
		t.Errorf("detail %+v, %v", detail, err)
	}
	if status, err = r.d.status(); err != nil || !status.Accepting || status.Waiting != "" || has(status.Conditions, "relay.certificate") {
		t.Errorf("status %+v, %v", status, err)
	}
}

// One destination that hangs holds up nobody else.
func TestAHangingDestination(t *testing.T) {
	w := newWorld(t)
	w.schedule.Waits = []time.Duration{time.Hour}
	w.options = func(o *Options) { o.NextHop.DataEnd = 5 * time.Second }
	r := w.start()
	a, b := w.greeted(w.clientA), w.greeted(w.clientB)
	for i := range 60 {
		a.send("<"+mailA+">", letterA(fmt.Sprint("hang", i)), "250", "<timeout@buerger.de-mail.example>")
	}
	start := time.Now()
	b.send("<poststelle@gemeinde-b.example>", compose("x\r\n", "From: poststelle@gemeinde-b.example", "Subject: free"), "250", "<"+citizen+">")
	if _, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.provider.Await(ctxFor(t), anyTo(citizen)); err != nil {
		t.Fatal(err)
	}
	w.serverA.await(t, 1)
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("others waited %v", took)
	}
}

// A disk that fails: no 250 for what is not stored, and the process ends, for only
// a new one can tell what is on disk.
func TestSickQueue(t *testing.T) {
	w := newWorld(t)
	var sick atomic.Bool
	w.fs = errorfs.Wrap(w.fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if sick.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return errors.New("input/output error")
		}
		return nil
	}))
	r := w.start()
	c := w.greeted(w.clientA)
	c.send("<"+mailA+">", letterA("healthy"), "250", "<"+citizen+">")
	if _, err := w.provider.Await(ctxFor(t), anyTo(citizen)); err != nil {
		t.Fatal(err)
	}
	r.marks.await(t, "relayd.delivered", 1)
	sick.Store(true)
	c.send("<"+mailA+">", letterA("sick"), "4", "<"+citizen+">")
	if err := <-r.done; !errors.Is(err, queue.ErrSick) {
		t.Errorf("the daemon ended with %v", err)
	}
	close(r.done)
	if n := len(w.provider.Ledger()); n != 1 {
		t.Errorf("%d messages reached the provider", n)
	}
}

func TestControlSocket(t *testing.T) {
	w := newWorld(t)
	w.provider.SetDown(true)
	w.schedule.Waits = []time.Duration{time.Hour}
	path := filepath.Join(t.TempDir(), "relayd.sock")
	w.options = func(o *Options) {
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		o.Control, o.Callers = ln, []localapi.Caller{localapi.UID(uint32(os.Getuid()))}
	}
	r := w.start()
	w.greeted(w.clientA).send("<"+mailA+">", compose("Guten Tag\r\n", "From: "+mailA, "To: "+citizen, "Subject: geheim"), "250", "<"+citizen+">")
	id := r.marks.await(t, "relayd.accepted", 1).Fields["id"]
	api := localapi.Dial(path, Codes()...)
	call := func(method string, in, out any) {
		t.Helper()
		if err := api.Call(ctxFor(t), method, in, out); err != nil {
			t.Fatalf("%s: %v", method, err)
		}
	}
	var mail Status
	var counts manage.Queue
	var detail Detail
	var list manage.QueuePage
	var trace manage.QueueDetail
	call(MethodStatus, nil, &mail)
	call(MethodQueue, nil, &counts)
	call(MethodDetail, nil, &detail)
	call(MethodList, manage.QueueFilter{Tenant: "gemeinde-a"}, &list)
	call(MethodShow, manage.QueueID{ID: id}, &trace)
	call(MethodReload, nil, nil)
	if mail.Messages != 1 || counts.Tenants["gemeinde-a"].Messages != 1 || !mail.Accepting || detail.Connections != 1 || detail.Certificates.Server.IsZero() {
		t.Errorf("%+v %+v %+v", mail, counts, detail)
	}
	if len(list.Messages) != 1 || list.Messages[0].ID != id || list.Messages[0].Recipients[0].Address != citizen || trace.Events[0].Kind != "accepted" {
		t.Errorf("%+v %+v", list, trace)
	}
	all, err := json.Marshal([]any{list, trace, mail, counts})
	if err != nil || bytes.Contains(all, []byte("geheim")) || bytes.Contains(all, []byte("Guten Tag")) {
		t.Errorf("content is shown: %s, %v", all, err)
	}
}

func TestLargeMessages(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	body := strings.Repeat(strings.Repeat("x", 76)+"\r\n", (4<<20)/78)
	c := w.greeted(w.clientA)
	c.send("<"+mailA+">", compose(body, "From: "+mailA, "To: "+citizen, "Subject: big"), "250", "<"+citizen+">")
	got, err := w.provider.Await(ctxFor(t), anyTo(citizen))
	if err != nil {
		t.Fatal(err)
	}
	if got.BodySHA256 != sha256.Sum256([]byte(body)) {
		t.Error("the body changed on the way out")
	}
	sent, err := w.provider.Push(ctxFor(t), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	in := w.serverA.await(t, 1)
	if !bytes.HasSuffix(in.raw, sent.Raw) {
		t.Error("the message changed on the way in")
	}
}

func TestHealthy(t *testing.T) {
	w := newWorld(t)
	w.doc.Provider.CRL = nil
	r := w.start()
	if err := r.d.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	status, err := r.d.status()
	if err != nil || !has(status.Conditions, "relay.crl.none") {
		t.Errorf("conditions %+v, %v", status.Conditions, err)
	}
}
