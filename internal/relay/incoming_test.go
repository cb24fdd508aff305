package relay

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

const (
	postA = "post@amt-a.de-mail.example"
	postB = "post@amt-b.de-mail.example"
	postC = "post@amt-c.de-mail.example"
)

// Every algorithm of the guideline proves a message, and no longer does when header
// or body change.
func TestEveryAlgorithm(t *testing.T) {
	w := newInWorld(t, nil)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	forRSA := w.certify(t, key)
	ec := w.pki.Signer()
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for name, opt := range map[string]demail.IntegrityOptions{
			"":            {},
			"/rsa":        {Signer: key, Certificate: forRSA},
			"/rsassa-pss": {Signer: key, Certificate: forRSA, PSS: true},
			"/ec-dsa":     {Signer: ec.PrivateKey.(crypto.Signer), Certificate: ec.Leaf},
		} {
			opt.Hash = hash
			algorithm := strings.ToLower(strings.ReplaceAll(hash.String(), "-", "")) + name
			good := w.compose(dmdatest.DeMail{Integrity: &opt})
			proved := w.results(w.mustHand("", good, postA)[0])
			if !strings.Contains(proved, "x-de-mail-integrity=pass") || !strings.Contains(proved, `x-de-mail.algorithm="`+algorithm+`"`) {
				t.Errorf("%s: %s", algorithm, proved)
			}
			for what, spoil := range map[string]func(*demail.Header, []byte) []byte{
				"body":                func(_ *demail.Header, b []byte) []byte { return append(b, "x\r\n"...) },
				"header":              func(h *demail.Header, b []byte) []byte { _ = h.Replace("subject", "other"); return b },
				"second field on top": func(h *demail.Header, b []byte) []byte { _ = h.Prepend("from", "other@x.de-mail.example"); return b },
			} {
				if _, err := w.hand("", bytes.NewReader(w.compose(dmdatest.DeMail{Integrity: &opt, Spoil: spoil})), postA); answerOf(err) != "554 5.7.7" {
					t.Errorf("%s, changed %s: %v", algorithm, what, err)
				}
			}
			// The first from the top counts: what stands below is not protected and harmless.
			below := w.compose(dmdatest.DeMail{Integrity: &opt, Spoil: func(h *demail.Header, b []byte) []byte { _ = h.Append("subject", "below"); return b }})
			if _, err := w.hand("", bytes.NewReader(below), postA); err != nil {
				t.Errorf("%s, second field below: %v", algorithm, err)
			}
		}
	}
}

// certify makes a signature certificate of the provider's authority for a key.
func (w *inWorld) certify(t *testing.T, key crypto.Signer) *x509.Certificate {
	t.Helper()
	ca, caKey := signer(t, "another authority", nil, nil, nil)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature}, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	connection := w.r.o.Connection()
	connection.Signers.Roots.AddCert(ca)
	revoked := connection.Signers.Revoked
	connection.Signers.Revoked = func(c, issuer *x509.Certificate) error {
		if issuer.Equal(ca) {
			return nil
		}
		return revoked(c, issuer)
	}
	w.r.o.Connection = func() Connection { return connection }
	return c
}

// A certificate that is not good is a verdict; one that cannot be judged now is none.
func TestSignatureCertificates(t *testing.T) {
	w := newInWorld(t, nil)
	opt := func(name string, change func(*x509.Certificate)) *demail.IntegrityOptions {
		ca, caKey := signer(t, "stranger", nil, nil, nil)
		c, key := signer(t, name, ca, caKey, change)
		return &demail.IntegrityOptions{Signer: key, Certificate: c}
	}
	good := dmdatest.DeMail{Options: demail.Options{Authoritative: true}}
	if _, err := w.hand("", bytes.NewReader(w.compose(good)), postA); err != nil {
		t.Fatal(err)
	}
	for name, integrity := range map[string]*demail.IntegrityOptions{
		"of a stranger": opt("x", nil),
		"expired":       opt("x", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
	} {
		if _, err := w.hand("", bytes.NewReader(w.compose(dmdatest.DeMail{Integrity: integrity})), postA); answerOf(err) != "554 5.7.7" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.hand("", bytes.NewReader(w.compose(dmdatest.DeMail{Options: demail.Options{Authoritative: true}, Integrity: &demail.IntegrityOptions{}})), postA); answerOf(err) != "554 5.7.7" {
		t.Errorf("confirmed sender, only hashed: %v", err)
	}
	connection := w.r.o.Connection()
	unknown := errors.New("no list")
	connection.Signers.Revoked = func(_, _ *x509.Certificate) error { return unknown }
	w.r.o.Connection = func() Connection { return connection }
	_, err := w.hand("", bytes.NewReader(w.compose(good)), postA)
	if answerOf(err) != "451 4.7.7" || !errors.Is(err, unknown) {
		t.Errorf("no revocation list: %v", err)
	}
	connection.Signers.Revoked = w.revoked.Check
	w.pki.Revoke(w.pki.Signer().Leaf)
	if err := w.revoked.Refresh(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.hand("", bytes.NewReader(w.compose(good)), postA); answerOf(err) != "554 5.7.7" {
		t.Errorf("revoked: %v", err)
	}
}

// Each tenant gets what its policy says, also beside others in one message.
func TestIntegrityPolicies(t *testing.T) {
	policies := map[string]string{postA: config.IntegrityRefuse, postB: config.IntegrityQuarantine, postC: config.IntegrityMark}
	w := newInWorld(t, func(d *config.Document) {
		for i, to := range []string{postA, postB, postC} {
			d.Tenants[i].Integrity = policies[to]
		}
		d.Tenants[1].Language = "en"
	})
	spoiled := w.compose(dmdatest.DeMail{Subject: "geheim", Spoil: func(_ *demail.Header, b []byte) []byte { return append(b, "x\r\n"...) }})
	for _, test := range []struct {
		to   []string
		want string // of each parcel, in order: held, marked, or the refusal
	}{
		{[]string{postA}, "554 5.7.7"},
		{[]string{postB}, "held"},
		{[]string{postC}, "marked"},
		{[]string{postA, postB}, "held held"},
		{[]string{postC, postA}, "marked held"},
		{[]string{postB, postC}, "held marked"},
		{[]string{postC, postB, postA}, "marked held held"},
	} {
		before := w.waiting()
		text, err := w.hand("erika@buerger.de-mail.example", bytes.NewReader(spoiled), test.to...)
		if err != nil {
			if got := answerOf(err); got != test.want || w.waiting() != before {
				t.Errorf("%v: %s, want %s", test.to, got, test.want)
			}
			continue
		}
		var got []string
		notices := 0
		for i, id := range strings.Fields(strings.TrimPrefix(text, "accepted as")) {
			e, err := w.queue.Show(queue.ID(id))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(w.results(e.ID), `x-de-mail-integrity=fail reason="body hash does not match"`) {
				t.Errorf("%v: %s", test.to, w.results(e.ID))
			}
			if _, below := w.stored(e.ID); below != string(spoiled) {
				t.Errorf("%v: changed", test.to)
			}
			if e.Hold {
				notices++
				got = append(got, "held")
				if !strings.Contains(e.HoldReason, "body hash does not match") || strings.Contains(e.HoldReason, "refuses") != (policies[test.to[i]] == config.IntegrityRefuse) {
					t.Errorf("%v: reason %q", test.to, e.HoldReason)
				}
			} else {
				got = append(got, "marked")
			}
		}
		if s := strings.Join(got, " "); s != test.want {
			t.Errorf("%v: %s, want %s", test.to, s, test.want)
		}
		marked := int64(len(got) - notices)
		if n := w.waiting() - before; n != marked+int64(notices) {
			t.Errorf("%v: %d messages wait, want the marked ones and %d notices", test.to, n, notices)
		}
	}
}

// The notice of a hold is in the tenant's language, goes to the postmaster and
// shows no content. A hold is released byte for byte.
func TestNoticeOfHold(t *testing.T) {
	w := newInWorld(t, func(d *config.Document) {
		d.Tenants[0].Integrity, d.Tenants[1].Integrity, d.Tenants[1].Language = config.IntegrityQuarantine, config.IntegrityQuarantine, "en"
	})
	spoiled := w.compose(dmdatest.DeMail{Subject: "geheim", Spoil: func(_ *demail.Header, b []byte) []byte { return append(b, "vertraulich\r\n"...) }})
	ids := w.mustHand("erika@buerger.de-mail.example", spoiled, postA, postB)
	all, _, err := w.queue.List(context.Background(), queue.Filter{})
	if err != nil || len(all) != 4 {
		t.Fatalf("%d messages, %v", len(all), err)
	}
	seen := 0
	for _, e := range all {
		if e.ReportOf == "" {
			continue
		}
		seen++
		_, text := w.stored(e.ID)
		first := "De-Mail angehalten"
		if e.Tenant == "amt-b" {
			first = "De-Mail on hold"
		}
		for _, want := range []string{"Subject: " + first, "pforte queue release " + string(e.ReportOf), "erika@buerger.de-mail.example", "post@" + e.Tenant + ".de-mail.example", "body hash does not match"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", e.Tenant, want, text)
			}
		}
		if strings.Contains(text, "geheim") || strings.Contains(text, "vertraulich") {
			t.Errorf("content in the notice:\n%s", text)
		}
		if e.Recipients[0].Address != "postmaster@"+e.Tenant+".example" || e.From != "" {
			t.Errorf("from %q to %s", e.From, e.Recipients[0].Address)
		}
	}
	if seen != 2 {
		t.Errorf("%d notices", seen)
	}
	if n, err := w.queue.Unhold(ids); n != 2 || err != nil {
		t.Fatalf("%d released, %v", n, err)
	}
	due, err := w.queue.Due(time.Now().Add(time.Second), 10)
	if err != nil || len(due) != 4 {
		t.Fatalf("%d due, %v", len(due), err)
	}
	if _, below := w.stored(ids[0]); below != string(spoiled) {
		t.Error("changed by the hold")
	}
}

func TestRecipientsIn(t *testing.T) {
	w := newInWorld(t, func(d *config.Document) {
		a := &d.Tenants[0]
		a.MaxSize = 1 << 20
		a.Domains = append(a.Domains, config.Domain{Name: "all.de-mail.example", CatchAll: "zentrale@amt-a.example"}, config.Domain{Name: "out.de-mail.example", Direction: config.DirectionSend})
		a.Mappings = append(a.Mappings,
			config.Mapping{Mail: "zweite@amt-a.example", DeMail: postA, Direction: config.DirectionReceive},
			config.Mapping{Mail: "nur@amt-a.example", DeMail: "nur@amt-a.de-mail.example"},
			config.Mapping{Mail: "*@regel.amt-a.example", DeMail: "*@all.de-mail.example"},
			config.Mapping{DeMail: "aus@all.de-mail.example", Direction: config.DirectionNone})
	})
	for _, test := range []struct {
		to, want string
		size     int64
	}{
		{postA, "post@amt-a.example zweite@amt-a.example", 0},
		{"POST@amt-a.de-mail.example", "post@amt-a.example zweite@amt-a.example", 0},
		{"nur@amt-a.de-mail.example", "nur@amt-a.example", 0},
		{"wer@amt-a.de-mail.example", "550 5.1.1", 0},
		{"wer@all.de-mail.example", "wer@regel.amt-a.example", 0},
		{"aus@all.de-mail.example", "zentrale@amt-a.example", 0},
		{"wer@out.de-mail.example", "550 5.7.1", 0},
		{"wer@fremd.de-mail.example", "550 5.1.2", 0},
		{"wer", "553 5.1.3", 0},
		{postA, "552 5.3.4", 1<<20 + 1},
	} {
		s := w.session()
		if err := s.Mail("Versandbestaetigung@provider.de-mail.example", &smtp.MailOptions{Size: test.size}); err != nil {
			t.Fatal(err)
		}
		if err := s.Rcpt(test.to, &smtp.RcptOptions{}); err != nil {
			if answerOf(err) != test.want {
				t.Errorf("%s: %v, want %s", test.to, err, test.want)
			}
			continue
		}
		var got []string
		for _, rc := range s.parcels[0].rcpts {
			got = append(got, rc.Address)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: %v, want %s", test.to, got, test.want)
		}
	}
}

// One answer must be right for all: without SIZE tenants of different limits do not
// share a message, and with it nobody gets what is too large.
func TestSizesOfSeveralTenants(t *testing.T) {
	w := newInWorld(t, func(d *config.Document) { d.Tenants[1].MaxSize = 1 << 20 })
	s := w.session()
	mail := func(size int64) {
		t.Helper()
		if err := s.Mail("", &smtp.MailOptions{Size: size}); err != nil {
			t.Fatal(err)
		}
		if err := s.Rcpt(postA, &smtp.RcptOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mail(0)
	if err := s.Rcpt(postB, &smtp.RcptOptions{}); answerOf(err) != "452 4.5.3" {
		t.Errorf("without SIZE: %v", err)
	}
	if err := s.Rcpt(postC, &smtp.RcptOptions{}); err != nil {
		t.Errorf("the same limit: %v", err)
	}
	mail(1000)
	if err := s.Rcpt(postB, &smtp.RcptOptions{}); err != nil || s.MaxSize() != 1<<20 {
		t.Errorf("with SIZE: %v, limit %d", err, s.MaxSize())
	}
	s.Reset()
	if s.MaxSize() != 64<<20 || len(s.release) != 0 {
		t.Errorf("after the transaction: limit %d, %d reservations", s.MaxSize(), len(s.release))
	}
}

// Many De-Mail addresses behind one mailbox stay within what the queue takes.
func TestManyRecipientsBehindOneMailbox(t *testing.T) {
	w := newInWorld(t, func(d *config.Document) { d.Tenants[0].Domains[0].CatchAll = "zentrale@amt-a.example" })
	s := w.session()
	if err := s.Mail("", &smtp.MailOptions{}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; ; n++ {
		if err := s.Rcpt(fmt.Sprintf("a%d@amt-a.de-mail.example", n), &smtp.RcptOptions{}); err != nil {
			if answerOf(err) != "452 4.5.3" {
				t.Fatal(err)
			}
			break
		}
	}
	if n != queue.MaxRecipients {
		t.Errorf("%d recipients", n)
	}
	if _, err := s.Data(bytes.NewReader(w.compose(dmdatest.DeMail{}))); err != nil {
		t.Error(err)
	}
}

func TestDuplicatesAreNoted(t *testing.T) {
	w := newInWorld(t, nil)
	message := w.compose(dmdatest.DeMail{To: []string{postA, postB}})
	first := w.mustHand("", message, postA)[0]
	other := w.mustHand("", message, postB)[0]
	again := w.mustHand("", message, postA)[0]
	if e, err := w.queue.Show(other); err != nil || e.Attributes[attrDuplicate] != "" {
		t.Errorf("another tenant's: %+v, %v", e, err)
	}
	if e, err := w.queue.Show(again); err != nil || e.Attributes[attrDuplicate] != string(first) {
		t.Errorf("%+v, %v", e, err)
	}
	_, events, err := w.queue.Trace(first)
	if last := events[len(events)-1]; err != nil || last.Kind != queue.Noted || last.Other != again {
		t.Errorf("%+v, %v", events, err)
	}
	if w.waiting() != 3 {
		t.Errorf("%d messages", w.waiting())
	}
}

func TestLoopsIn(t *testing.T) {
	w := newInWorld(t, nil)
	for n, want := range map[int]string{4: "<nil>", 5: "554 5.4.6"} {
		message := strings.Repeat("Received: from x by "+inHost+" with ESMTPS; now\r\n", n) + string(w.compose(dmdatest.DeMail{}))
		if _, err := w.hand("", strings.NewReader(message), postA); answerOf(err) != want {
			t.Errorf("%d times: %v", n, err)
		}
	}
}

// What a session holds does not grow with the message nor with the number of its
// tenants.
func TestMemoryOfASession(t *testing.T) {
	const (
		sessions = 12
		most     = 256 << 10
		size     = 8 << 20
	)
	w := newInWorld(t, func(d *config.Document) {
		d.Tenants[0].MaxSize, d.Tenants[1].MaxSize, d.Tenants[2].MaxSize = 2*size, 2*size, 2*size // room is reserved on a true disk
		for i := len(d.Tenants); i < 6; i++ {
			more := d.Tenants[0]
			more.ID = fmt.Sprintf("amt-%d", i)
			more.Account = "post@" + more.ID + ".de-mail.example"
			more.Domains = []config.Domain{{Name: more.ID + ".de-mail.example", CatchAll: "post@" + more.ID + ".example"}}
			more.Mappings = nil
			d.Tenants = append(d.Tenants, more)
		}
	})
	w.openOnDisk(t)
	var to []string
	for _, tenant := range w.doc.Tenants {
		to = append(to, tenant.Account)
	}
	head := w.compose(dmdatest.DeMail{Body: []byte{}})
	reached, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, sessions)
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for range sessions {
		go func() {
			_, err := w.hand("", &endless{head: head, left: size, pause: func() { reached <- struct{}{}; <-goOn }}, to...)
			done <- err
		}()
	}
	for range sessions {
		select {
		case <-reached:
		case err := <-done:
			close(goOn)
			t.Fatalf("a session ended early: %v", err)
		}
	}
	each := (int64(heap()) - int64(before)) / sessions
	close(goOn)
	for range sessions {
		if err := <-done; answerOf(err) != "554 5.7.7" {
			t.Error(err)
		}
	}
	t.Logf("%d KiB for each session", each>>10)
	if each > most {
		t.Errorf("a session holds %d KiB", each>>10)
	}
}

// endless is a message with a long body; it pauses when most of it is read.
type endless struct {
	head  []byte
	left  int
	pause func()
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.head) > 0 {
		n := copy(p, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	if e.left < 1<<20 && e.pause != nil {
		e.pause()
		e.pause = nil
	}
	if e.left == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), e.left)], line[e.left%len(line):])
	e.left -= n
	return n, nil
}

const line = "Lorem ipsum dolor sit amet, consectetur adipisici elit\r\n"
