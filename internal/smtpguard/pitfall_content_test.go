package smtpguard

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// smuggling holds end marks that other servers were fooled by, and that must not
// end a message here.
var smuggling = []string{
	"\n.\n", "\n.\r", "\r.\n", "\r.\r", "\n.\r\n", "\r.\r\n", "\r\n.\r\r\n", "\r\r\n\x00.\r\n", "\r\n\x00.\r\n", "\r\n.\n", "\r\n.\r", "\r\n.\rx", "\n..\r\n", "\x00",
}

func TestPitfall04Smuggling(t *testing.T) {
	for _, end := range smuggling {
		t.Run(fmt.Sprintf("%q", end), func(t *testing.T) {
			r := &record{}
			_, addr := serve(t, r, Limits{}, Implicit)
			c := greetedPeer(t, addr)
			c.open("b@x.example")
			c.put("Subject: one\r\n\r\nfirst" + end +
				"MAIL FROM:<smuggled@x.example>\r\nRCPT TO:<victim@x.example>\r\nDATA\r\nSubject: two\r\n\r\nsecond\r\n.\r\n")
			c.expect("554 5.6.0")
			c.say("NOOP", "250")
			messages, from, to, _ := r.got()
			if len(messages) != 0 || len(from) != 1 || len(to) != 1 {
				t.Fatalf("messages %q, senders %q, recipients %q", messages, from, to)
			}
		})
	}
}

// "\r\r\n.\r\n" does end a message, for CRLF.CRLF is in it; but not a clean one.
func TestPitfall04StrayCRBeforeTheEnd(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	c.put("Subject: one\r\n\r\nfirst\r\r\n.\r\n")
	c.expect("554 5.6.0")
	c.say("NOOP", "250")
}

func TestPitfall04CommandLines(t *testing.T) {
	for _, line := range []string{"NOOP\n", "NOOP\rx\r\n", "NO\x00OP\r\n", "\r\r\n"} {
		_, addr := serve(t, &record{}, Limits{}, Implicit)
		c := greetedPeer(t, addr)
		c.put(line)
		c.expect("500 5.5.2")
		c.closed()
	}
}

func TestPitfall04LongLines(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	c.put(strings.Repeat("x", DefaultTextLine) + "\r\n." + "." + strings.Repeat("x", DefaultTextLine-1) + "\r\n.\r\n")
	c.expect("250")
	c.open("b@x.example")
	c.put(strings.Repeat("x", DefaultTextLine+1) + "\r\n.\r\n")
	c.expect("554 5.6.0")
	c.put(strings.Repeat("x", 5000) + "\r\n")
	c.expect("500 5.5.2")
	c.closed()
}

// Pitfall 5 is the client's: internal/relay has its own, with its own tests.

func TestPitfall06And07Addresses(t *testing.T) {
	tests := []struct{ command, want string }{
		{`MAIL FROM:<"a> SIZE=1"@x.example>`, "553 5.1.3"},
		{`MAIL FROM:<"a b"@x.example>`, "553 5.1.3"},
		{`MAIL FROM:<@relay.example:a@x.example>`, "553 5.1.3"},
		{`MAIL FROM:a@x.example`, "501 5.5.4"},
		{`MAIL FROM:<a@x.example`, "501 5.5.4"},
		{`MAIL FROM:<a@x.example>SIZE=1`, "501 5.5.4"},
		{`MAIL FROM:<a@[127.0.0.1]>`, "553 5.1.3"},
		{`MAIL FROM:<a@b@x.example>`, "553 5.1.3"},
		{`MAIL FROM:<a..b@x.example>`, "553 5.1.3"},
		{`MAIL FROM:<a@x_y.example>`, "553 5.1.3"},
		{`MAIL FROM:<a@-x.example>`, "553 5.1.3"},
		{`MAIL FROM:<a@x..example>`, "553 5.1.3"},
		{`MAIL FROM:<a>`, "553 5.1.3"},
		{"MAIL FROM:<\u00e4@x.example>", "553 5.6.7"},
		{"MAIL FROM:<\u00e4@x.example> SMTPUTF8", "553 5.6.7"},
		{`MAIL FROM:<` + strings.Repeat("a", 65) + `@x.example>`, "553 5.1.3"},
		{`MAIL FROM:<a@` + strings.Repeat("a.", 127) + `example>`, "553 5.1.3"},
		{`MAIL FROM:<a@x.example> SIZE=1 SIZE=999999`, "501 5.5.4"},
		{`MAIL FROM:<a@x.example> SIZE=1=2`, "501 5.5.4"},
		{`MAIL FROM:<a@x.example> SIZE=99999999999`, "5"},
		{`MAIL FROM:<a@x.example> SIZE=67108865`, "552 5.3.4"},
		{`MAIL FROM:<a@x.example> BODY=BINARYMIME`, "504"},
		{`MAIL FROM: <a@x.example> SIZE=67108864 BODY=8BITMIME RET=HDRS ENVID=q+3D1`, "250"},
		{`RCPT TO:<"a> NOTIFY=NEVER"@x.example>`, "553 5.1.3"},
		{`RCPT TO:<>`, "553 5.1.3"},
		{`RCPT TO:<b@x.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;b@x.example`, "250"},
	}
	r := &record{}
	_, addr := serve(t, r, Limits{SoftErrors: 100, HardErrors: 100}, Implicit)
	c := greetedPeer(t, addr)
	for _, test := range tests {
		c.put(test.command + "\r\n")
		if got := c.expect(""); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %q, want %s", test.command, got, test.want)
		}
	}
	_, from, to, _ := r.got()
	if len(from) != 1 || from[0] != "a@x.example" || len(to) != 1 || to[0] != "b@x.example" {
		t.Fatalf("senders %q, recipients %q", from, to)
	}
}

func TestPitfall08OrderOfCommands(t *testing.T) {
	r := &record{rcpt: func(to string) error {
		if strings.HasPrefix(to, "no") {
			return Errorf(550, "5.1.1", "no such user")
		}
		return nil
	}}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := dial(t, addr)
	c.expect("220 box.example")
	c.say("MAIL FROM:<a@x.example>", "503 5.5.1")
	c.say("EHLO client.example", "250")
	c.say("RCPT TO:<b@x.example>", "503 5.5.1")
	c.say("DATA", "503 5.5.1")
	c.say("MAIL FROM:<a@x.example>", "250")
	c.say("MAIL FROM:<other@x.example>", "503 5.5.1")
	c.say("DATA", "503 5.5.1")
	c.say("RCPT TO:<no@x.example>", "550 5.1.1")
	c.say("DATA", "503 5.5.1")
	c.say("RCPT TO:<b@x.example>", "250")
	c.say("EHLO client.example", "250")
	c.say("DATA", "503 5.5.1")
	if _, from, _, _ := r.got(); len(from) != 1 {
		t.Fatalf("senders %q: a second MAIL reached the session", from)
	}
}

func TestPitfall09UntypedErrors(t *testing.T) {
	secret := errors.New("pq: password of box rejected at 10.1.2.3")
	r := &record{
		mail: func(from string) error {
			if from == "typed@x.example" {
				return fmt.Errorf("mail: %w", Errorf(550, "5.7.1", "not you"))
			}
			if from == "yes@x.example" {
				return Errorf(250, "2.0.0", "an error that says yes")
			}
			if from == "plain@x.example" {
				return secret
			}
			return nil
		},
		data: func(b io.Reader) (string, error) {
			_, _ = io.Copy(io.Discard, b)
			return "", fmt.Errorf("commit: %w", secret)
		},
	}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.say("MAIL FROM:<typed@x.example>", "550 5.7.1 not you")
	if got := c.say("MAIL FROM:<plain@x.example>", "451 4.3.0"); strings.Contains(got, "10.1.2.3") {
		t.Errorf("answer %q shows an internal error", got)
	}
	c.say("MAIL FROM:<yes@x.example>", "451 4.3.0") // a refusal cannot be an acceptance
	c.say("RCPT TO:<b@x.example>", "503 5.5.1")
	c.open("b@x.example")
	c.put("Subject: x\r\n\r\nx\r\n.\r\n")
	if got := c.expect("451 4.3.0"); strings.Contains(got, "10.1.2.3") {
		t.Errorf("answer %q shows an internal error", got)
	}
}
