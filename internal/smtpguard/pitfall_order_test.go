package smtpguard

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPitfall10NothingInPlainText(t *testing.T) {
	var admitted atomic.Int32
	r := &record{admit: func(*Peer) error { admitted.Add(1); return nil }}
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
	time.Sleep(50 * time.Millisecond) // what comes now is no part of the handshake
	_, _ = io.WriteString(c.Conn, "EHLO again\r\n")
	if rest, err := io.ReadAll(c.r); bytes.Contains(rest, []byte("550")) || bytes.Contains(rest, []byte("250")) || timedOut(err) {
		t.Fatalf("after a failed handshake the guard still answered %q (%v)", rest, err)
	}
	if admitted.Load() != 0 {
		t.Fatal("a peer without TLS was admitted")
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
		_, addr := serve(t, &record{mechanisms: []string{"PLAIN"}}, Limits{}, Implicit)
		c := greetedPeer(t, addr)
		c.say("AUTH PLAIN AGJveAB3cm9uZw==", "535 5.7.8")
		c.say("AUTH PLAIN", "334")
		c.say("AGJveAB3cm9uZw==", "535 5.7.8")
		c.say("AUTH PLAIN AGJveAB3cm9uZw==", "535 5.7.8")
		c.expect("421 4.7.0")
		c.closed()
	})
}

func TestPitfall12And13Capabilities(t *testing.T) {
	_, addr := serve(t, &record{}, Limits{}, Implicit)
	c := dial(t, addr)
	c.expect("220")
	caps := c.say("EHLO client.example", "250")
	if strings.Contains(caps, "BINARYMIME") {
		t.Errorf("BINARYMIME is offered: %q", caps)
	}
	for _, always := range []string{"250-box.example\r\n", "PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "RCPTMAX=1000", "SIZE 67108864"} {
		if !strings.Contains(caps, always) {
			t.Errorf("%s is not offered: %q", always, caps)
		}
	}
}

// Without DSN its parameters are unknown ones, and all else is as before.
func TestNoDSN(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit, func(o *Options) { o.NoDSN = true })
	c := dial(t, addr)
	c.expect("220")
	if caps := c.say("EHLO client.example", "250"); strings.Contains(caps, "DSN") || !strings.Contains(caps, "CHUNKING") {
		t.Errorf("offered: %q", caps)
	}
	for _, param := range []string{"RET=HDRS", "ENVID=x", "ret=full"} {
		c.say("MAIL FROM:<a@x.example> "+param, "555 5.5.4")
	}
	c.say("MAIL FROM:<a@x.example> SIZE=10 BODY=8BITMIME SMTPUTF8", "250")
	for _, param := range []string{"NOTIFY=NEVER", "ORCPT=rfc822;c@x.example", "notify=SUCCESS"} {
		c.say("RCPT TO:<b@x.example> "+param, "555 5.5.4")
	}
	c.say("RCPT TO:<b@x.example>", "250")
	if _, from, to, _ := r.got(); len(from) != 1 || len(to) != 1 {
		t.Errorf("the session saw %d senders and %d recipients, want one of each", len(from), len(to))
	}
}

// A pipelined chunk is as long as it says, whatever lines it has.
func TestPitfall13LongLinesInChunks(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{TextLine: 1 << 20}, Implicit)
	c := greetedPeer(t, addr)
	message := "A: b\r\n\r\n" + strings.Repeat("x", 100_000) + "\r\n"
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\n" + fmt.Sprintf("BDAT %d LAST\r\n%sNOOP\r\n", len(message), message))
	for _, want := range []string{"250 2.1.0", "250 2.1.5", "250 2.0.0 taken", "250 2.0.0 OK"} {
		c.expect(want)
	}
	if messages, _, _, _ := r.got(); len(messages) != 1 || messages[0] != message {
		t.Fatalf("%d messages", len(messages))
	}
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
	busy.put("Subject: x\r\n\r\nx\r\n.\r\nMAIL FROM:<late@x.example>\r\n")
	busy.expect("250")
	busy.expect("421 4.3.2")
	busy.closed()
	<-done
	if messages, from, _, closed := r.got(); len(messages) != 1 || len(from) != 1 || closed != 2 {
		t.Fatalf("%d messages of %q, %d sessions closed", len(messages), from, closed)
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

func TestPitfall17NoMailInLogs(t *testing.T) {
	var logged lockedBuffer
	r := &record{data: func(b io.Reader) (string, error) {
		_, _ = io.Copy(io.Discard, b)
		return "", errors.New("disk is full")
	}}
	_, addr := serve(t, r, Limits{}, Implicit, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&logged, nil)) })
	c := greetedPeer(t, addr)
	c.open("b@x.example")
	c.put("Subject: confidential\r\n\r\nconfidential\r\n.\r\n")
	c.expect("451 4.3.0")
	c.chunked()
	c.bdat("Subject: confidential\r\n\r\nconfidential\n", true)
	c.expect("451 4.3.0")
	c.say("QUIT", "221")
	c.closed()
	if text := logged.String(); strings.Contains(text, "confidential") || strings.Count(text, "disk is full") != 2 {
		t.Errorf("log: %s", text)
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
