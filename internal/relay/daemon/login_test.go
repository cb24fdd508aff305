package daemon

import (
	"crypto/tls"
	"encoding/base64"
	"net/netip"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/secret"
)

const passphrase = "korrektes pferd batterie"

// loginWorld has an application of tenant A, which logs in and may use one sender.
func loginWorld(t *testing.T) *world {
	w := newWorld(t)
	hash, err := secret.New(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	w.doc.Tenants[0].Clients = append(w.doc.Tenants[0].Clients, config.Client{Name: "Fachverfahren Wohngeld", User: "wohngeld", Secret: hash.String(),
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Application: true, Senders: []string{"bauamt@gemeinde-a.example"}, Class: config.ClassBulk})
	return w
}

func plain(user, secret string) string {
	return "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+secret))
}

func word(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestLogin(t *testing.T) {
	w := loginWorld(t)
	r := w.start()
	c := w.dial(r.implicit, tls.Certificate{})
	c.expect("220")
	if hello := c.say("EHLO app.example", "250"); !strings.Contains(hello, "AUTH PLAIN LOGIN\r\n") {
		t.Errorf("AUTH is not offered: %q", hello)
	}
	c.say("MAIL FROM:<bauamt@gemeinde-a.example>", "530 5.7.0")
	c.say(plain("wohngeld", "falsches geheimnis"), "535 5.7.8")
	c.say(plain("wer", passphrase), "535 5.7.8")
	c.say("MAIL FROM:<bauamt@gemeinde-a.example>", "530 5.7.0")
	c.say(plain("wohngeld", passphrase), "235")
	c.send("<bauamt@gemeinde-a.example>", compose("x\r\n", "From: bauamt@gemeinde-a.example", "To: "+citizen, "Subject: Wohngeld"), "250", "<"+citizen+">")
	if answer := c.say("MAIL FROM:<"+mailA+">", "550 5.7.1"); !strings.Contains(answer, "von diesem System nicht verwendet") {
		t.Errorf("answer %q", answer)
	}
	answer := c.send("<bauamt@gemeinde-a.example>", compose("x\r\n", "From: "+mailA, "To: "+citizen), "550 5.7.1", "<"+citizen+">")
	if !strings.Contains(answer, "von diesem System nicht verwendet") {
		t.Errorf("From of another application: %q", answer)
	}
	if _, err := w.provider.Await(ctxFor(t), anyTo(citizen)); err != nil {
		t.Fatal(err)
	}
	list, _, err := r.d.queue.Trace(idOf(t, r))
	if err != nil || list.Attributes["system"] != "Fachverfahren Wohngeld" || list.Class != 2 {
		t.Errorf("trace %+v, %v", list, err)
	}
}

func TestLoginMechanism(t *testing.T) {
	w := loginWorld(t)
	r := w.start()
	c := w.dial(r.implicit, newAuthority(t, "stranger").host(t, "app.example")) // a certificate that nobody knows does no harm
	c.expect("220")
	c.say("EHLO app.example", "250")
	if prompt := c.say("AUTH LOGIN", "334 "); strings.TrimSpace(prompt[4:]) != word("Username:") {
		t.Errorf("prompt %q", prompt)
	}
	if prompt := c.say(word("wohngeld"), "334 "); strings.TrimSpace(prompt[4:]) != word("Password:") {
		t.Errorf("prompt %q", prompt)
	}
	c.say(word("nicht dieses"), "535 5.7.8")
	c.say("AUTH LOGIN "+word("wohngeld"), "334 ")
	c.say(word(passphrase), "235")
	c.say("MAIL FROM:<bauamt@gemeinde-a.example>", "250")
}

// A certificate that is known needs no login; a login from elsewhere is none.
func TestLoginWhereItIsNot(t *testing.T) {
	w := loginWorld(t)
	w.doc.Tenants[0].Clients[1].Networks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	r := w.start()
	c := w.greeted(w.clientA)
	if hello := c.say("EHLO mail.example", "250"); strings.Contains(hello, "AUTH") {
		t.Errorf("AUTH is offered to who is known: %q", hello)
	}
	c.say("MAIL FROM:<"+mailA+">", "250")
	d := w.dial(r.implicit, tls.Certificate{})
	d.expect("220")
	d.say("EHLO app.example", "250")
	d.say(plain("wohngeld", passphrase), "535 5.7.8")
}

// Who logged in under an old configuration does so again, and whose login is gone
// is not let in.
func TestLoginAfterReload(t *testing.T) {
	w := loginWorld(t)
	r := w.start()
	login := func() *talk {
		c := w.dial(r.implicit, tls.Certificate{})
		c.expect("220")
		c.say("EHLO app.example", "250")
		return c
	}
	old, idle := login(), login()
	old.say(plain("wohngeld", passphrase), "235")
	changed := r.d.live.Changed()
	doc := *w.doc
	doc.Serial++
	doc.Tenants = append([]config.Tenant(nil), doc.Tenants...)
	doc.Tenants[0].Clients = doc.Tenants[0].Clients[:1]
	w.doc = &doc
	r.reload <- nil
	<-changed
	old.say("MAIL FROM:<bauamt@gemeinde-a.example>", "421 4.7.0")
	idle.say(plain("wohngeld", passphrase), "5")
	c := w.dial(r.implicit, tls.Certificate{})
	if _, err := c.r.ReadString('\n'); err == nil {
		t.Error("a client without a certificate was greeted, and nobody logs in any more")
	}
}

func TestRates(t *testing.T) {
	w := newWorld(t)
	w.doc.Tenants[0].Rates = config.Rates{Connections: 2, MessagesPerMinute: 3, RecipientsPerMinute: 4}
	w.start()
	a, b := w.greeted(w.clientA), w.greeted(w.clientA)
	w.dial(w.running.implicit, w.clientA).expect("421 4.7.0")
	a.say("QUIT", "221")
	a.Close()
	w.greeted(w.clientB).say("MAIL FROM:<poststelle@gemeinde-b.example>", "250") // another tenant's business
	for range 3 {
		b.say("MAIL FROM:<"+mailA+">", "250")
		b.say("RCPT TO:<"+citizen+">", "250")
		b.say("RSET", "250")
	}
	if answer := b.say("MAIL FROM:<"+mailA+">", "451 4.7.1"); !strings.Contains(answer, "mehr als 3 Nachrichten") {
		t.Errorf("answer %q", answer)
	}
}

func TestRecipientRate(t *testing.T) {
	w := newWorld(t)
	w.doc.Tenants[0].Rates = config.Rates{RecipientsPerMinute: 2}
	w.start()
	c := w.greeted(w.clientA)
	c.say("MAIL FROM:<"+mailA+">", "250")
	c.say("RCPT TO:<"+citizen+">", "250")
	c.say("RCPT TO:<hans@buerger.de-mail.example>", "250")
	if answer := c.say("RCPT TO:<karl@buerger.de-mail.example>", "451 4.7.1"); !strings.Contains(answer, "mehr als 2 Empfaenger") {
		t.Errorf("answer %q", answer)
	}
}

// idOf is the id of the message that was accepted first.
func idOf(t *testing.T, r *running) queue.ID {
	return queue.ID(r.marks.await(t, "relayd.accepted", 1).Fields["id"])
}
