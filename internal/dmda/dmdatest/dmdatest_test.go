package dmdatest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

const (
	domain = "provider.de-mail.example"
	postA  = "poststelle@gemeinde-a.de-mail.example"
	postB  = "poststelle@gemeinde-b.de-mail.example"
	other  = "max.mustermann@de-mail.example"
)

// world is a running provider and the gateway's token.
type world struct {
	*Provider
	pki     *PKI
	gateway tls.Certificate
	address string
}

func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	pki, err := NewPKI(PKIOptions{Hosts: []string{"mail." + domain, "127.0.0.1"}, CRLURL: "http://crl." + domain + "/ca.crl"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Domain: domain, Host: "mail." + domain, Domains: []string{"de-mail.example"}, Mailboxes: []string{other, "*@firma.de-mail.example"},
		PKI: pki, Slow: 200 * time.Millisecond,
		Tokens: []Token{
			{"gateway-1", []Account{
				{Address: postA, Domain: "gemeinde-a.de-mail.example", Holder: "Gemeinde A", Public: true},
				{Address: postB, Holder: "Gemeinde B"},
			}},
			{"gateway-2", []Account{{Address: other, Holder: "Max Mustermann"}}},
		},
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	gateway, err := pki.IssueClient("gateway-1")
	if err != nil {
		t.Fatal(err)
	}
	return &world{p, pki, gateway, l.Addr().String()}
}

// dial connects with a certificate and says EHLO.
func (w *world) dial(t testing.TB, cert tls.Certificate) (*smtp.Client, error) {
	t.Helper()
	config := tlsprofile.Client()
	config.RootCAs, config.ServerName, config.Certificates = w.pki.Pool(), "mail."+domain, []tls.Certificate{cert}
	conn, err := tls.Dial("tcp", w.address, config)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := smtp.NewClient(conn)
	return c, c.Hello("gateway.example")
}

// send is one transaction of gateway-1; the answer's code and where it came.
func (w *world) send(t testing.TB, from string, to []string, message string) error {
	t.Helper()
	c, err := w.dial(t, w.gateway)
	if err != nil {
		return err
	}
	if err := c.Mail(from, nil); err != nil {
		return refusal("MAIL", err)
	}
	for _, a := range to {
		if err := c.Rcpt(a, nil); err != nil {
			return refusal("RCPT", err)
		}
	}
	d, err := c.Data()
	if err != nil {
		return refusal("DATA", err)
	}
	if _, err := io.WriteString(d, message); err != nil {
		return err
	}
	if err := d.Close(); err != nil {
		return refusal("dot", err)
	}
	return nil
}

func code(err error) (string, int) {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Step, r.Code
	}
	return "", 0
}

const simple = "From: Poststelle <" + postA + ">\r\nTo: x\r\nSubject: Test\r\nMessage-ID: <1@gemeinde-a.example>\r\n\r\nHallo\r\n\r\n"

func TestAccepts(t *testing.T) {
	w := newWorld(t, nil)
	message := "X-Odd :  a\r\n\tb\r\nx-de-mail-auth-level: normal\r\nx-de-mail-integrity: forged\r\nX-DE-MAIL-Future: 1\r\n" +
		"x-de-mail-confirmation-of-receipt: yes\r\nx-de-mail-private-id: Az. 4711\r\nenvelope-to: x@y\r\n" + simple
	if err := w.send(t, postA, []string{other, "x@firma.de-mail.example"}, message); err != nil {
		t.Fatal(err)
	}
	got := w.Deliveries()
	if len(got) != 2 || got[0].Recipient.String() != other || got[1].Recipient.String() != "x@firma.de-mail.example" {
		t.Fatalf("%d deliveries", len(got))
	}
	h := got[0].Header
	if _, faults := demail.Validate(h); faults != nil {
		t.Error(faults)
	}
	for name, want := range map[string]string{
		demail.FieldAuthLevel: "high", demail.FieldConfirmReceipt: "yes", demail.FieldConfirmDispatch: "no",
		demail.FieldPrivateID: "Az. 4711", demail.FieldEnvelopeTo: other, demail.FieldAccountHolder: "Gemeinde A",
		demail.FieldSender: postA, demail.FieldChosenRecipient: "to=" + other + "; x@firma.de-mail.example", // folded behind the semicolon
		demail.FieldOriginatorProvider: "mail." + domain, demail.FieldMessageType: "normal", demail.FieldVersion: "1.8",
		"subject": "Test", "x-odd": "a\tb", "x-de-mail-future": "",
	} {
		if got := h.Get(name); got != want || len(h.Values(name)) > 1 {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if h.Get(demail.FieldActualRecipient) != h.Get(demail.FieldChosenRecipient) {
		t.Error("actual recipients are not the chosen ones")
	}
	res, err := demail.VerifyIntegrity(h, bytes.NewReader(got[0].Body), demail.VerifyOptions{})
	if err != nil || res.Signed || string(got[0].Body) != "Hallo\r\n\r\n" {
		t.Errorf("integrity: %v, body %q", err, got[0].Body)
	}
	if !strings.HasPrefix(message, string(got[0].Received)) || !strings.HasSuffix(string(got[0].Received), "\r\n\r\n") {
		t.Error("the header as received is not kept")
	}
	ledger := w.Ledger()
	if len(ledger) != 1 || !ledger[0].Acknowledged || ledger[0].MessageID != "<1@gemeinde-a.example>" ||
		ledger[0].Size != int64(len(message)) || len(ledger[0].Recipients) != 2 || ledger[0].BodySHA256 != got[0].BodySHA256 {
		t.Errorf("ledger: %+v", ledger)
	}
}

func TestAuthoritativeIsSigned(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.send(t, postA, []string{other}, "x-de-mail-authoritative: yes\r\n"+simple); err != nil {
		t.Fatal(err)
	}
	d := w.Deliveries()[0]
	res, err := demail.VerifyIntegrity(d.Header, bytes.NewReader(d.Body), demail.VerifyOptions{
		Roots: w.pki.Pool(), Revocation: func(_, _ *x509.Certificate) error { return nil },
	})
	if err != nil || !res.Signed || res.Algorithm.String() != "sha256/ec-dsa" {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestBlindCopies(t *testing.T) {
	w := newWorld(t, nil)
	const b1, b2 = "b1@firma.de-mail.example", "b2@firma.de-mail.example"
	message := "x-de-mail-chosen-recipient: to=" + other + " ;bcc=" + b1 + ";" + b2 + "\r\n" + simple
	if err := w.send(t, postA, []string{other, b1, b2}, message); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{other: "to=" + other, b1: "to=" + other + " ; bcc=" + b1, b2: "to=" + other + " ; bcc=" + b2}
	ids := map[string]bool{}
	for _, d := range w.Deliveries() {
		for _, name := range []string{demail.FieldChosenRecipient, demail.FieldActualRecipient} {
			if got := d.Header.Get(name); got != want[d.Recipient.String()] {
				t.Errorf("%s: %s %q", d.Recipient, name, got)
			}
		}
		if _, err := demail.VerifyIntegrity(d.Header, bytes.NewReader(d.Body), demail.VerifyOptions{}); err != nil {
			t.Error(err)
		}
		ids[d.ID] = true
	}
	if len(ids) != 3 || len(w.Ledger()) != 1 {
		t.Errorf("%d numbers, %d transactions", len(ids), len(w.Ledger()))
	}
}

func TestRefuses(t *testing.T) {
	w := newWorld(t, nil)
	header := func(lines string) string { return lines + simple }
	for name, c := range map[string]struct {
		from, to, message string
		step              string
		code              int
	}{
		"foreign sender":          {other, postB, simple, "MAIL", 550},
		"sender below no account": {"x@gemeinde-b.de-mail.example", other, simple, "MAIL", 550},
		"Internet sender":         {"x@gemeinde-a.example", other, simple, "MAIL", 550},
		"no sender":               {"", other, simple, "MAIL", 550},
		"Internet recipient":      {postA, "x@firma.example", simple, "RCPT", 550},
		"unknown recipient":       {postA, "x@de-mail.example", simple, "RCPT", 550},
		"From of other account":   {postB, other, simple, "dot", 550},
		"From of nobody":          {postA, other, "Subject: x\r\n\r\n", "dot", 554},
		"two From":                {postA, other, header("From: " + postA + "\r\n"), "dot", 554},
		"foreign De-Mail sender":  {postA, other, header("x-de-mail-sender: " + postB + "\r\n"), "dot", 550},
		"bad option":              {postA, other, header("x-de-mail-private: YES\r\n"), "dot", 554},
		"retrieve alone":          {postA, other, header("x-de-mail-confirmation-of-retrieve: yes\r\n"), "dot", 554},
		"retrieve, no authority": {postB, other, "From: " + postB + "\r\nx-de-mail-private: yes\r\n" +
			"x-de-mail-confirmation-of-retrieve: yes\r\n\r\n", "dot", 554},
		"bad recipients":      {postA, other, header("x-de-mail-chosen-recipient: " + other + "\r\n"), "dot", 554},
		"long private-id":     {postA, other, header("x-de-mail-private-id: " + strings.Repeat("x ", 513) + "\r\n"), "dot", 554},
		"bad date":            {postA, other, header("Date: heute\r\n"), "dot", 554},
		"bare CR in the body": {postA, other, simple + "a\rb\r\n", "dot", 554},
		"NUL in the body":     {postA, other, simple + "a\x00b\r\n", "dot", 554},
		"NUL in the header":   {postA, other, header("X: \x00\r\n"), "dot", 554},
		"no header":           {postA, other, "Hallo\r\n", "dot", 554},
	} {
		err := w.send(t, c.from, []string{c.to}, c.message)
		if step, code := code(err); step != c.step || code != c.code {
			t.Errorf("%s: %v, want %d at %s", name, err, c.code, c.step)
		}
	}
	retrieve := header("x-de-mail-private: yes\r\nx-de-mail-confirmation-of-retrieve: yes\r\n")
	if err := w.send(t, postA, []string{other}, retrieve); err != nil {
		t.Errorf("a public authority's confirmation of retrieve: %v", err)
	}
	if n := len(w.Ledger()); n != 1 {
		t.Errorf("%d transactions in the ledger", n)
	}
}

func TestClientCertificates(t *testing.T) {
	w := newWorld(t, nil)
	stranger, err := NewPKI(PKIOptions{Hosts: []string{"mail." + domain}})
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.IssueClient("gateway-1")
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := w.pki.IssueClient("gateway-9")
	if err != nil {
		t.Fatal(err)
	}
	revoked, err := w.pki.IssueClient("gateway-1")
	if err != nil {
		t.Fatal(err)
	}
	w.pki.Revoke(revoked.Leaf)
	for name, cert := range map[string]tls.Certificate{
		"none": {}, "stranger's": forged, "unknown token": unknown, "revoked": revoked,
		"server's": w.pki.Server(), "signer's": w.pki.Signer(),
	} {
		if c, err := w.dial(t, cert); err == nil {
			t.Errorf("%s: welcome %v", name, c != nil)
		}
	}
	if _, err := w.dial(t, w.gateway); err != nil {
		t.Error(err)
	}
	conn, err := net.Dial("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "EHLO plain.example\r\n"); err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(conn); bytes.Contains(b, []byte("220")) {
		t.Error("speaks plain text")
	}
}

func TestLockAndDown(t *testing.T) {
	w := newWorld(t, nil)
	w.LockToken("gateway-1", true)
	w.LockToken("nobody", true)
	if step, code := code(w.send(t, postA, []string{other}, simple)); step != "MAIL" || code != 550 {
		t.Errorf("locked: %d at %s", code, step)
	}
	w.LockToken("gateway-1", false)
	c, err := w.dial(t, w.gateway)
	if err != nil {
		t.Fatal(err)
	}
	w.SetDown(true)
	var answer *smtp.SMTPError
	if err := c.Mail(postA, nil); !errors.As(err, &answer) || answer.Code != 421 {
		t.Errorf("down, old session: %v", err)
	}
	if _, err := w.dial(t, w.gateway); !errors.As(err, &answer) || answer.Code != 421 {
		t.Errorf("down, new session: %v", err)
	}
	w.SetDown(false)
	if err := w.send(t, postA, []string{other}, simple); err != nil {
		t.Error(err)
	}
}

func TestFaultCodes(t *testing.T) {
	w := newWorld(t, nil)
	for local, want := range map[string]struct {
		step string
		code int
	}{
		"temperror": {"RCPT", 451}, "permerror": {"RCPT", 550}, "452": {"RCPT", 452}, "554": {"RCPT", 554},
		"data-451": {"dot", 451}, "data-554": {"dot", 554}, "420": {"RCPT", 550}, "600": {"RCPT", 550}, "temperror-0": {"RCPT", 550},
	} {
		if step, code := code(w.send(t, postA, []string{local + "@de-mail.example"}, simple)); step != want.step || code != want.code {
			t.Errorf("%s: %d at %s", local, code, step)
		}
	}
	for i, want := range []int{451, 451, 0, 0} {
		if _, code := code(w.send(t, postA, []string{"temperror-2@firma.de-mail.example"}, simple)); code != want {
			t.Errorf("temperror-2, try %d: %d", i, code)
		}
	}
}

func TestFaultDrop(t *testing.T) {
	w := newWorld(t, nil)
	const to = "drop-after-data-1@firma.de-mail.example"
	if err := w.send(t, postA, []string{to}, simple); err == nil || func() bool { _, c := code(err); return c != 0 }() {
		t.Errorf("dropped: %v", err)
	}
	if err := w.send(t, postA, []string{to}, simple); err != nil {
		t.Error(err)
	}
	ledger := w.Ledger()
	if len(ledger) != 2 || ledger[0].Acknowledged || !ledger[1].Acknowledged {
		t.Errorf("ledger: %+v", ledger)
	}
	dup := w.Duplicates()
	if len(dup) != 1 || dup[Duplicate{"<1@gemeinde-a.example>", ledger[0].Recipients[0]}] != 1 {
		t.Errorf("duplicates: %v", dup)
	}
}

func TestFaultTimeout(t *testing.T) {
	w := newWorld(t, nil)
	c, err := w.dial(t, w.gateway)
	if err != nil {
		t.Fatal(err)
	}
	c.SubmissionTimeout = 300 * time.Millisecond
	err = c.SendMail(postA, []string{"timeout@de-mail.example"}, strings.NewReader(simple))
	var ne net.Error
	if !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	if len(w.Ledger()) != 0 {
		t.Error("a message without an answer was taken")
	}
	// Another one hangs while the provider stops: Cleanup must not hang with it.
	go func() { _ = w.send(t, postA, []string{"timeout@de-mail.example"}, simple) }()
}

func TestFaultSlow(t *testing.T) {
	w := newWorld(t, nil)
	start := time.Now()
	if err := w.send(t, postA, []string{"slow@de-mail.example"}, simple); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("slow took %v", took)
	}
}

func TestAwait(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- w.send(t, postA, []string{other, "x@firma.de-mail.example"}, simple) }()
	d, err := w.Await(ctx, func(d Delivery) bool { return d.Recipient.Domain() == "firma.de-mail.example" })
	if err != nil || d.Recipient.Local() != "x" {
		t.Errorf("%v, %v", d.Recipient, err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	cancel()
	if _, err := w.Await(ctx, func(Delivery) bool { return false }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestHashOnly(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.HashOnly = true })
	if err := w.send(t, postA, []string{other}, simple); err != nil {
		t.Fatal(err)
	}
	if d := w.Deliveries()[0]; d.Body != nil || d.BodySHA256 != w.Ledger()[0].BodySHA256 {
		t.Error("the body is kept")
	}
}

func TestNewRefuses(t *testing.T) {
	pki, err := NewPKI(PKIOptions{Hosts: []string{"a.example"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []Config{
		{Domain: "a.example"}, {Domain: "a", PKI: pki}, {Domain: "a.example", Domains: []string{"-"}, PKI: pki},
		{Domain: "a.example", PKI: pki, Tokens: []Token{{"x", []Account{{Address: "x"}}}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if _, err := NewPKI(PKIOptions{}); err == nil {
		t.Error("a PKI without a host")
	}
}

func TestServeReportsItsListener(t *testing.T) {
	w := newWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := w.Serve(context.Background(), l); err == nil || !slices.Contains([]string{"dmda"}, strings.SplitN(err.Error(), ":", 2)[0]) {
		t.Errorf("closed listener: %v", err)
	}
}
