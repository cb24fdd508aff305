package smtpguard

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
)

func TestNotReady(t *testing.T) {
	sick := func(o *Options) { o.Ready = func() error { return errors.New("disk") } }
	_, addr := serve(t, &record{}, Limits{}, Implicit, sick)
	c := dial(t, addr)
	if got := c.expect("421 4.3.0"); strings.Contains(got, "disk") {
		t.Errorf("answer %q shows an internal error", got)
	}
	c.closed()
	_, addr = serve(t, &record{}, Limits{}, StartTLS, sick)
	dialPlain(t, addr).expect("421 4.3.0")
}

func TestNotAdmitted(t *testing.T) {
	r := &record{admit: func(*Peer) error { return Errorf(554, "5.7.1", "who are you") }}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := dial(t, addr)
	c.expect("554 5.7.1 who are you")
	c.closed()
	_, addr = serve(t, r, Limits{}, StartTLS)
	c = dialPlain(t, addr)
	c.expect("220")
	c.say("STARTTLS", "220")
	secured := tls.Client(c.Conn, insecure())
	c = &talk{t, secured, bufio.NewReader(secured)}
	c.say("EHLO client.example", "554 5.7.1 who are you")
	c.closed()
}

// The engine's own client is a peer that we did not write.
func TestWithGoSMTPClient(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, StartTLS)
	c, err := smtp.DialStartTLS(addr, insecure())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := "Subject: x\r\n\r\n.dot\r\n..two\r\n\r\n.\r\nend\r\n"
	if err := c.SendMail("a@x.example", []string{"b@x.example", "c@x.example"}, strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
	if messages, _, to, _ := r.got(); len(messages) != 1 || messages[0] != body || len(to) != 2 {
		t.Fatalf("messages %q to %q", messages, to)
	}
}

func TestSessionThatDoesNotReadIsNotBelieved(t *testing.T) {
	r := &record{data: func(io.Reader) (string, error) { return "fine", nil }}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	c.put("Subject: x\r\n\r\nx\r\n.\r\n")
	c.expect("451 4.3.0")
}

// A session that keeps the reader does not read what belongs to others.
func TestBodyIsUselessAfterData(t *testing.T) {
	var kept io.Reader
	r := &record{data: func(b io.Reader) (string, error) {
		kept = b
		return discard(b)
	}}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	for _, way := range []string{"DATA", "BDAT"} {
		if way == "DATA" {
			c.open("b@x.example")
			c.put("A: b\r\n\r\n.\r\n")
		} else {
			c.chunked()
			c.bdat("A: b\r\n\r\n", true)
		}
		c.expect("250 2.0.0 taken")
		if n, err := kept.Read(make([]byte, 10)); n != 0 || !errors.Is(err, errEnded) {
			t.Errorf("%s: a message that is over gave %d bytes, %v", way, n, err)
		}
	}
}
