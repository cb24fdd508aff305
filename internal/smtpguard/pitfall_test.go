package smtpguard

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
)

// The pitfalls of go-smtp v0.25.1 are numbered as in the package's design notes
// (18 of them); each test here fails without its guard.

// pipePeer connects over a pipe, for tests under synthetic time.
func pipePeer(t *testing.T, l *pipes) *talk {
	t.Helper()
	c := tls.Client(l.dial(), insecure())
	return &talk{t, c, bufio.NewReader(c)}
}

// inBubble runs story under synthetic time against a guard on pipes.
func inBubble(t *testing.T, b Backend, limits Limits, story func(t *testing.T, s *Server, l *pipes)) {
	t.Helper()
	testCert()
	synctest.Test(t, func(t *testing.T) {
		s, l := New(options(b, limits)), newPipes()
		go func() { _ = s.Serve(l, Implicit) }()
		defer func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.Shutdown(ctx)
			time.Sleep(time.Minute) // synthetic: lets the story's own goroutines see the end
		}()
		story(t, s, l)
	})
}

func TestPitfall01IdleAndSlowPeers(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		act    func(c *talk)
		within time.Duration
		want   string
	}{
		{"silent after the greeting", Limits{Command: time.Minute}, func(*talk) {}, 61 * time.Second, "421 4.4.2"},
		{"a command byte by byte", Limits{Command: time.Minute}, func(c *talk) {
			go func() {
				for {
					if _, err := c.Write([]byte("N")); err != nil {
						return
					}
					time.Sleep(10 * time.Second)
				}
			}()
		}, 61 * time.Second, "421 4.4.2"},
		{"silent in a message", Limits{DataIdle: time.Minute, Data: time.Hour}, func(c *talk) {
			c.open("b@x.example")
			c.put("half a li")
		}, 61 * time.Second, "421 4.4.2"},
		{"a message slower than the least rate", Limits{DataIdle: time.Hour, DataStart: time.Minute, DataRate: 500, Data: 10 * time.Hour}, func(c *talk) {
			c.open("b@x.example")
			go func() {
				for {
					if _, err := c.Write([]byte("x")); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
		}, 70 * time.Second, "421 4.4.2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, &record{}, test.limits, func(t *testing.T, s *Server, l *pipes) {
				c := pipePeer(t, l)
				c.expect("220")
				c.say("EHLO client.example", "250")
				start := time.Now()
				test.act(c)
				c.expect(test.want)
				c.closed()
				if took := time.Since(start); took > test.within {
					t.Errorf("it took %v to be cut off", took)
				}
			})
		})
	}
}

func TestPitfall01FastEnoughMessagePasses(t *testing.T) {
	r := &record{}
	inBubble(t, r, Limits{DataIdle: time.Minute, DataStart: time.Minute, DataRate: 500, Data: time.Hour}, func(t *testing.T, s *Server, l *pipes) {
		c := pipePeer(t, l)
		c.expect("220")
		c.say("EHLO client.example", "250")
		c.open("b@x.example")
		for range 300 { // five minutes at 600 bytes per second
			c.put(strings.Repeat("x", 598) + "\r\n")
			time.Sleep(time.Second)
		}
		c.put(".\r\n")
		c.expect("250")
	})
}

func TestPitfall01SessionCap(t *testing.T) {
	inBubble(t, &record{}, Limits{Session: time.Minute, Junk: 1000}, func(t *testing.T, s *Server, l *pipes) {
		c := pipePeer(t, l)
		c.expect("220")
		c.say("EHLO client.example", "250")
		time.Sleep(50 * time.Second)
		c.say("NOOP", "250")
		time.Sleep(11 * time.Second)
		c.put("NOOP\r\n")
		c.expect("250") // the wait for it began before the cap
		start := time.Now()
		c.expect("421 4.4.2")
		c.closed()
		if took := time.Since(start); took > time.Second {
			t.Errorf("the session was ended %v after its cap", took)
		}
	})
}

func TestPitfall01Handshake(t *testing.T) {
	inBubble(t, &record{}, Limits{Handshake: 30 * time.Second}, func(t *testing.T, s *Server, l *pipes) {
		raw := l.dial()
		start := time.Now()
		_, _ = io.ReadAll(raw)
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("a peer that never starts its handshake is cut off after %v", took)
		}
	})
}

func TestPitfall02BodyNeverBecomesCommands(t *testing.T) {
	r := &record{}
	inBubble(t, r, Limits{DataIdle: time.Minute}, func(t *testing.T, s *Server, l *pipes) {
		c := pipePeer(t, l)
		c.expect("220")
		c.say("EHLO client.example", "250")
		c.open("b@x.example")
		c.put("Subject: x\r\n\r\n")
		time.Sleep(61 * time.Second)
		c.expect("421 4.4.2")
		_, _ = c.Write([]byte("RSET\r\nMAIL FROM:<smuggled@x.example>\r\n"))
		c.closed()
	})
	if _, from, _, _ := r.got(); len(from) != 1 {
		t.Fatalf("senders %q: body bytes were read as commands", from)
	}
}

func TestPitfall02ErrorOfTheSessionKeepsStep(t *testing.T) {
	r := &record{data: func(io.Reader) (string, error) { return "", Errorf(550, "5.7.1", "no") }}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	c.put("Subject: x\r\n\r\nRSET\r\n.\r\n")
	c.expect("550 5.7.1 no")
	c.say("NOOP", "250")
}

func TestPitfall03EndlessBody(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{MessageBytes: 10000}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	var sent int
	line := strings.Repeat("x", 98) + "\r\n"
	for {
		n, err := c.Write([]byte(line))
		if sent += n; err != nil || sent > 64<<20 {
			break
		}
	}
	if sent > 32<<20 {
		t.Fatalf("the guard swallowed %d bytes of a message of at most 10000", sent)
	}
	if messages, _, _, _ := r.got(); len(messages) > 0 {
		t.Fatal("the message was taken")
	}
}

func TestPitfall03Slightly(t *testing.T) {
	_, addr := serve(t, &record{}, Limits{MessageBytes: 1000}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	c.put(strings.Repeat("x", 500) + "\r\n" + strings.Repeat("y", 499) + "\r\n.\r\n")
	c.expect("552 5.3.4")
	c.say("NOOP", "250")
}

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
	c.open("b@x.example")
	c.put("Subject: x\r\n\r\nx\r\n.\r\n")
	if got := c.expect("451 4.3.0"); strings.Contains(got, "10.1.2.3") {
		t.Errorf("answer %q shows an internal error", got)
	}
}

func TestPitfall10NothingInPlainText(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, StartTLS)
	for _, command := range []string{"MAIL FROM:<a@x.example>", "RCPT TO:<b@x.example>", "DATA", "AUTH PLAIN AGEAYg==", "BDAT 5 LAST", "RSET", "VRFY a"} {
		c := dialPlain(t, addr)
		c.expect("220")
		c.say("EHLO client.example", "250 STARTTLS")
		c.say(command, "530 5.7.0")
	}
	c := dialPlain(t, addr)
	c.expect("220")
	c.say("STARTTLSxyz", "500 5.5.2")
	c.say("STARTTLS now", "501 5.5.4")
	c.put("STARTTLS\r\nEHLO early.example\r\nMAIL FROM:<a@x.example>\r\n")
	c.expect("554 5.5.0")
	c.closed()

	c = dialPlain(t, addr)
	c.expect("220")
	c.say("STARTTLS", "220")
	c.put("EHLO no.handshake\r\n")
	if rest, _ := io.ReadAll(c.r); bytes.Contains(rest, []byte("550")) || bytes.Contains(rest, []byte("250")) {
		t.Fatalf("after a failed handshake the guard still answered %q", rest)
	}
	if _, from, _, _ := r.got(); len(from) != 0 {
		t.Fatalf("senders %q in plain text", from)
	}
}

func TestPitfall10StartTLSThenMail(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, StartTLS)
	c := dialPlain(t, addr)
	c.expect("220 box.example")
	c.say("EHLO client.example", "250 STARTTLS")
	c.say("STARTTLS", "220")
	secured := tls.Client(c.Conn, insecure())
	c = &talk{t, secured, bufio.NewReader(secured)}
	c.say("MAIL FROM:<a@x.example>", "503") // EHLO before TLS does not count
	if caps := c.say("EHLO client.example", "250"); strings.Contains(caps, "STARTTLS") {
		t.Errorf("STARTTLS is offered under TLS: %q", caps)
	}
	c.say("STARTTLS", "503 5.5.1")
	c.open("b@x.example")
	c.put("Subject: x\r\n\r\nx\r\n.\r\n")
	c.expect("250 2.0.0 taken")
	c.say("QUIT", "221")
	c.closed()
}

func TestPitfall11Counters(t *testing.T) {
	t.Run("errors", func(t *testing.T) {
		r := &record{rcpt: func(string) error { return Errorf(550, "5.1.1", "no such user") }}
		inBubble(t, r, Limits{SoftErrors: 3, HardErrors: 5, ErrorDelay: time.Second}, func(t *testing.T, s *Server, l *pipes) {
			c := pipePeer(t, l)
			c.expect("220")
			c.say("EHLO client.example", "250")
			c.say("MAIL FROM:<a@x.example>", "250")
			start := time.Now()
			for range 5 {
				c.say("RCPT TO:<b@x.example>", "550")
			}
			if took := time.Since(start); took != 2*time.Second {
				t.Errorf("five refusals took %v, want two of them delayed by a second", took)
			}
			c.expect("421 4.7.0")
			c.closed()
		})
	})
	t.Run("junk", func(t *testing.T) {
		_, addr := serve(t, &record{}, Limits{Junk: 5}, Implicit)
		c := greetedPeer(t, addr)
		for range 4 {
			c.say("NOOP", "250")
		}
		c.say("RSET", "421 4.7.0")
		c.closed()
	})
	t.Run("auth", func(t *testing.T) {
		_, addr := serve(t, &record{auth: true}, Limits{}, Implicit)
		c := greetedPeer(t, addr)
		c.say("AUTH PLAIN AGJveAB3cm9uZw==", "535 5.7.8")
		c.say("AUTH PLAIN", "334")
		c.say("AGJveAB3cm9uZw==", "535 5.7.8")
		c.say("AUTH PLAIN AGJveAB3cm9uZw==", "535 5.7.8")
		c.expect("421 4.7.0")
		c.closed()
	})
}

func TestAuthPasses(t *testing.T) {
	_, addr := serve(t, &record{auth: true}, Limits{}, Implicit)
	c := dial(t, addr)
	c.expect("220")
	if caps := c.say("EHLO client.example", "250"); !strings.Contains(caps, "AUTH PLAIN") {
		t.Fatalf("AUTH is not offered: %q", caps)
	}
	c.say("AUTH PLAIN AGJveAByaWdodA==", "235")
	c.say("MAIL FROM:<a@x.example>", "250")

	_, addr = serve(t, &record{}, Limits{}, Implicit)
	greetedPeer(t, addr).say("AUTH PLAIN AGJveAByaWdodA==", "502 5.5.1")
}

func TestPitfall12And13NoChunking(t *testing.T) {
	_, addr := serve(t, &record{}, Limits{}, Implicit)
	c := dial(t, addr)
	c.expect("220")
	caps := c.say("EHLO client.example", "250")
	for _, never := range []string{"CHUNKING", "BINARYMIME"} {
		if strings.Contains(caps, never) {
			t.Errorf("%s is offered: %q", never, caps)
		}
	}
	for _, always := range []string{"250-box.example\r\n", "PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "SIZE 67108864"} {
		if !strings.Contains(caps, always) {
			t.Errorf("%s is not offered: %q", always, caps)
		}
	}
	c.say("MAIL FROM:<a@x.example>", "250")
	c.say("RCPT TO:<b@x.example>", "250")
	c.put("BDAT 40 LAST X\r\nMAIL FROM:<smuggled@x.example>\r\nNOOP\r\n")
	c.expect("502 5.5.1")
	c.closed()
}

func TestPitfall14ExactSize(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{MessageBytes: 1000}, Implicit)
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	exact := strings.Repeat("x", 498) + "\r\n" + "." + strings.Repeat("y", 497) + "\r\n"
	wire := strings.ReplaceAll(exact, "\r\n.", "\r\n..") + ".\r\n"
	c.put(wire)
	c.expect("250")
	c.open("b@x.example")
	c.put("x" + wire)
	c.expect("552 5.3.4")
	if messages, _, _, _ := r.got(); len(messages) != 1 || messages[0] != exact {
		t.Fatalf("messages of exactly the limit: %d, identical %v", len(messages), len(messages) == 1 && messages[0] == exact)
	}
}

// small is a session with a limit of its own.
type small struct{ *record }

func (small) MaxSize() int64 { return 1000 }

type smallBackend struct{ r *record }

func (b smallBackend) Admit(context.Context, *Peer) (Session, error) { return small{b.r}, nil }

func TestPitfall14SizeOfTheSession(t *testing.T) {
	_, addr := serve(t, smallBackend{&record{}}, Limits{MessageBytes: 5000}, Implicit)
	c := dial(t, addr)
	c.expect("220")
	c.say("EHLO client.example", "250 SIZE 1000")
	c.say("MAIL FROM:<a@x.example> SIZE=1001", "552 5.3.4")
	c.open("b@x.example")
	c.put(strings.Repeat("x", 500) + "\r\n" + strings.Repeat("y", 500) + "\r\n.\r\n")
	c.expect("552 5.3.4")
}

func TestPitfall15Panics(t *testing.T) {
	r := &record{
		mail:  func(string) error { panic("mail") },
		close: func() { panic("close") },
	}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.say("MAIL FROM:<a@x.example>", "421 4.3.0")
	c.closed()

	r = &record{data: func(io.Reader) (string, error) { panic("data") }, close: func() { panic("close") }}
	_, addr = serve(t, r, Limits{}, Implicit)
	c = greetedPeer(t, addr)
	c.open("b@x.example")
	c.put("Subject: x\r\n\r\nx\r\n.\r\n")
	c.expect("421 4.3.0")
	c.closed()

	r = &record{admit: func(*Peer) error { panic("admit") }}
	_, addr = serve(t, r, Limits{}, Implicit)
	dial(t, addr).expect("421 4.3.0")
}

func TestPitfall16Shutdown(t *testing.T) {
	r := &record{}
	s, addr := serve(t, r, Limits{}, Implicit)
	idle, busy := greetedPeer(t, addr), greetedPeer(t, addr)
	busy.open("b@x.example")
	done := make(chan struct{})
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		s.Shutdown(ctx)
		close(done)
	}()
	idle.expect("421 4.3.2")
	idle.closed()
	busy.put("Subject: x\r\n\r\nx\r\n.\r\n")
	busy.expect("250")
	busy.put("MAIL FROM:<a@x.example>\r\n")
	busy.expect("421 4.3.2")
	busy.closed()
	<-done
	if messages, _, _, closed := r.got(); len(messages) != 1 || closed != 2 {
		t.Fatalf("%d messages, %d sessions closed", len(messages), closed)
	}
	if _, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		t.Fatal("the listener is still open")
	}
}

func TestPitfall17NoDebugWriter(t *testing.T) {
	if s := New(options(&record{}, Limits{})); s.engine.Debug != nil {
		t.Fatal("go-smtp's debug writer is set: it records passwords and messages")
	}
}

func TestPitfall18ConnectionLimits(t *testing.T) {
	_, addr := serve(t, &record{}, Limits{PerAddress: 2}, StartTLS)
	first, second := dialPlain(t, addr), dialPlain(t, addr)
	first.expect("220")
	second.expect("220")
	third := dialPlain(t, addr)
	third.expect("421 4.7.0")
	third.closed()
	first.say("QUIT", "221")
	first.closed()
	for { // the place is free once the server has noticed
		c := dialPlain(t, addr)
		if strings.HasPrefix(c.expect(""), "220") {
			break
		}
	}
	_, addr = serve(t, &record{}, Limits{Connections: 1}, StartTLS)
	dialPlain(t, addr).expect("220")
	dialPlain(t, addr).expect("421 4.7.0")
}

func TestPitfall18MemoryPerConnection(t *testing.T) {
	const conns, most = 100, 160 << 10 // bytes each, with a client of about the same size in this process
	_, addr := serve(t, &record{data: func(b io.Reader) (string, error) {
		_, err := io.Copy(io.Discard, b)
		return "ok", err
	}}, Limits{PerAddress: conns}, Implicit)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range conns {
		c := greetedPeer(t, addr)
		c.open("b@x.example")
		c.put(strings.Repeat(strings.Repeat("x", 98)+"\r\n", 1000))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / conns
	if each > 2*most {
		t.Fatalf("%d bytes per connection and its client, want at most %d", each, 2*most)
	}
}

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

func TestPipelining(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@x.example>\r\nDATA\r\n")
	for _, want := range []string{"250", "250", "250", "354"} {
		c.expect(want)
	}
	c.put("Subject: x\r\n\r\nx\r\n.\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nQUIT\r\n")
	for _, want := range []string{"250", "250", "250", "221"} {
		c.expect(want)
	}
	c.closed()

	for _, group := range []string{
		"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\nSubject: early\r\n\r\nx\r\n.\r\n",
		"EHLO again.example\r\nMAIL FROM:<a@x.example>\r\n",
	} {
		c = greetedPeer(t, addr)
		c.put(group)
		for {
			if got := c.expect(""); strings.HasPrefix(got, "554 5.5.0") {
				break
			}
		}
		c.closed()
	}
	c = dial(t, addr)
	c.expect("220")
	c.say("HELO client.example", "250")
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\n")
	c.expect("554 5.5.0")
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
