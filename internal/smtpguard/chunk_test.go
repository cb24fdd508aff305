package smtpguard

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// chunked opens a transaction for BDAT.
func (c *talk) chunked() {
	c.t.Helper()
	c.say("MAIL FROM:<a@x.example>", "250 2.1.0")
	c.say("RCPT TO:<b@x.example>", "250 2.1.5")
}

// bdat sends one chunk with its command.
func (c *talk) bdat(content string, last bool) {
	c.t.Helper()
	end := ""
	if last {
		end = " LAST"
	}
	c.put(fmt.Sprintf("BDAT %d%s\r\n%s", len(content), end, content))
}

// dotted is a message that only a reader of chunks leaves as it is: a final dot
// in the middle, dots at starts of lines, and what looks like commands.
const dotted = "Subject: x\r\n\r\n.\r\n..\r\nRSET\r\nMAIL FROM:<m@x.example>\r\n\r\nend\r\n"

func TestChunksAtEverySplit(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	for at := 0; at <= len(dotted); at++ {
		c.chunked()
		c.bdat(dotted[:at], false)
		c.expect("250 2.0.0 chunk received")
		c.bdat(dotted[at:], true)
		c.expect("250 2.0.0 taken")
	}
	messages, from, _, _ := r.got()
	if len(messages) != len(dotted)+1 || len(from) != len(messages) {
		t.Fatalf("%d messages of %d senders, want %d", len(messages), len(from), len(dotted)+1)
	}
	for at, m := range messages {
		if m != dotted {
			t.Fatalf("split at %d: %q", at, m)
		}
	}
}

func TestChunksByteByByteAndLastZero(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.chunked()
	for i := range dotted {
		c.bdat(dotted[i:i+1], false)
		c.expect("250 2.0.0 chunk received")
	}
	c.put("BDAT 0 last\r\n")
	c.expect("250 2.0.0 taken")
	if messages, _, _, _ := r.got(); len(messages) != 1 || messages[0] != dotted {
		t.Fatalf("messages %q", messages)
	}
}

// A pipelined transaction, all in one write (RFC 3030 §4.2).
func TestChunksPipelined(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	one := "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\n" +
		"BDAT 9\r\nSubject: BDAT 7\r\nx\r\n\r\nx\r" + "BDAT 1 LAST\r\n\n"
	c.put(one + one + "QUIT\r\n")
	for range 2 {
		for _, want := range []string{"250 2.1.0", "250 2.1.5", "250 2.0.0 chunk", "250 2.0.0 chunk", "250 2.0.0 taken"} {
			c.expect(want)
		}
	}
	c.expect("221 2.0.0")
	c.closed()
	if messages, _, _, _ := r.got(); len(messages) != 2 || messages[0] != "Subject: x\r\n\r\nx\r\n" || messages[1] != messages[0] {
		t.Fatalf("messages %q", messages)
	}
}

// Every fault of content, split between two chunks at every position: none comes
// through, and the connection stays in step.
func TestChunksWithFaultsAtEverySplit(t *testing.T) {
	for _, fault := range []string{"a\nb", "a\rb", "a\x00b", "a\r\r\nb", "\n.\r\nb", "a\n\r\nb", "\r\n.\r\r\n", strings.Repeat("x", 30)} {
		t.Run(fmt.Sprintf("%q", fault), func(t *testing.T) {
			r := &record{}
			_, addr := serve(t, r, Limits{TextLine: 20, SoftErrors: 1000, HardErrors: 1000}, Implicit)
			c := greetedPeer(t, addr)
			whole := "A: b\r\n\r\n" + fault + "\r\n"
			for at := 0; at <= len(whole); at++ {
				c.chunked()
				c.bdat(whole[:at], false)
				if strings.HasPrefix(c.expect(""), "250") {
					c.bdat(whole[at:], true)
					c.expect("554 5.6.0")
				}
				c.say("NOOP", "250 2.0.0 OK")
			}
			if messages, _, _, _ := r.got(); len(messages) > 0 {
				t.Fatalf("messages %q", messages)
			}
		})
	}
}

func TestChunksMustEndInCRLF(t *testing.T) {
	for _, end := range []string{"x", "\r", "\r\nx", "x\r"} {
		r := &record{}
		_, addr := serve(t, r, Limits{}, Implicit)
		c := greetedPeer(t, addr)
		c.chunked()
		c.bdat("Subject: x\r\n\r\n"+end, true)
		c.expect("554 5.6.0")
		c.say("NOOP", "250")
		if messages, _, _, _ := r.got(); len(messages) > 0 {
			t.Fatalf("%q was taken", messages)
		}
	}
}

// TestPitfall12: a chunk whose size cannot be read ends the connection.
func TestPitfall12MalformedBDAT(t *testing.T) {
	for _, line := range []string{"BDAT", "BDAT LAST", "BDAT x", "BDAT -1", "BDAT +5", "BDAT 5 FIRST", "BDAT 5 LAST X", "BDAT 5  LAST",
		"BDAT 0x5", "BDAT 5.0", "BDAT 99999999999999999999", "BDAT 5,LAST", "BDAT 5\tLAST", "BDAT \u0665"} {
		for _, between := range []bool{false, true} {
			r := &record{}
			_, addr := serve(t, r, Limits{}, Implicit)
			c := greetedPeer(t, addr)
			c.chunked()
			if between {
				c.bdat("A: b\r\n", false)
				c.expect("250")
			}
			c.put(line + "\r\nMAIL FROM:<smuggled@x.example>\r\nNOOP\r\n")
			if strings.Contains(line, "\t") && !between {
				c.expect("500 5.5.2")
				continue
			}
			c.expect("50")
			if !strings.Contains(line, "\t") {
				c.closed()
			}
			if messages, from, _, _ := r.got(); len(from) != 1 || len(messages) != 0 {
				t.Fatalf("%s: senders %q, messages %q", line, from, messages)
			}
		}
	}
}

// A chunk that nobody waits for is thrown away by its length.
func TestPitfall12ChunkInTheWrongState(t *testing.T) {
	const evil = "\r\nMAIL FROM:<smuggled@x.example>\r\nRSET\r\n"
	r := &record{rcpt: func(to string) error {
		if strings.HasPrefix(to, "no") {
			return Errorf(550, "5.1.1", "no such user")
		}
		return nil
	}}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := dial(t, addr)
	c.expect("220")
	c.say("EHLO client.example", "250")
	c.bdat(evil, true) // no transaction
	c.expect("503 5.5.1 MAIL")
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<no@x.example>\r\n") // as Exim does
	c.bdat(evil, false)
	c.bdat(evil, true)
	for _, want := range []string{"250", "550 5.1.1", "503 5.5.1 no recipient", "503 5.5.1 no recipient"} {
		c.expect(want)
	}
	c.say("RCPT TO:<b@x.example>", "250")
	c.bdat("\n", false) // refused in the middle
	c.expect("554 5.6.0")
	c.bdat(evil, false) // was in the pipeline
	c.bdat(evil, true)
	c.expect("503 5.5.1")
	c.expect("503 5.5.1")
	c.say("NOOP", "250")
	if messages, from, _, _ := r.got(); len(from) != 1 || len(messages) != 0 {
		t.Fatalf("senders %q, messages %q", from, messages)
	}
	c = dial(t, addr)
	c.expect("220")
	c.put("BDAT 5 LAST\r\n")
	c.expect("503 5.5.1 EHLO")
	c.closed()
}

func TestChunksDoNotMixWithOtherCommands(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.chunked()
	c.bdat("A: b\r\n", false)
	c.expect("250")
	for _, line := range []string{"DATA", "MAIL FROM:<c@x.example>", "RCPT TO:<c@x.example>", "AUTH PLAIN AGEAYg==", "VRFY c", "STARTTLS", "FOO"} {
		c.say(line, "503 5.5.1")
	}
	c.say("NOOP", "250 2.0.0 OK")
	c.bdat("\r\nx\r\n", true)
	c.expect("250 2.0.0 taken")
	c.say("DATA", "503 5.5.1") // the transaction is over
	messages, from, to, _ := r.got()
	if len(messages) != 1 || messages[0] != "A: b\r\n\r\nx\r\n" || len(from) != 1 || len(to) != 1 {
		t.Fatalf("messages %q from %q to %q", messages, from, to)
	}
}

func TestChunksGivenUp(t *testing.T) {
	for _, verb := range []string{"RSET", "EHLO client.example", "HELO client.example", "QUIT"} {
		r := &record{}
		_, addr := serve(t, r, Limits{}, Implicit)
		c := greetedPeer(t, addr)
		c.chunked()
		c.bdat("A: b\r\n\r\n", false)
		c.expect("250")
		c.put(verb + "\r\n")
		c.expect("2")
		if verb[0] == 'R' || verb[0] == 'E' { // after HELO there is no BDAT
			c.say("DATA", "503 5.5.1")
			c.bdat("x\r\n", true)
			c.expect("503 5.5.1")
		}
		if messages, _, _, _ := r.got(); len(messages) != 0 || len(r.failed) != 1 || !errors.Is(r.failed[0], errGivenUp) {
			t.Fatalf("%s: messages %q, errors %v", verb, messages, r.failed)
		}
	}
}

func TestChunksSizeLimit(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{MessageBytes: 1000}, Implicit)
	c := greetedPeer(t, addr)
	half := strings.Repeat("x", 498) + "\r\n"
	c.chunked()
	c.bdat(half, false)
	c.expect("250")
	c.bdat(half, true) // exactly the limit
	c.expect("250 2.0.0 taken")
	c.chunked()
	c.bdat(half, false)
	c.expect("250")
	c.bdat("y"+half, true)
	c.expect("552 5.3.4")
	c.say("NOOP", "250")
	c.chunked()
	c.bdat("x\r\n", false)
	c.expect("250")
	c.put("BDAT 9000000000000000000 LAST\r\n")
	c.expect("552 5.3.4")
	c.closed()
	if messages, _, _, _ := r.got(); len(messages) != 1 || messages[0] != half+half {
		t.Fatalf("%d messages", len(messages))
	}
}

// The session may end a message early: the rest of the chunk is eaten.
func TestChunksRefusedBySession(t *testing.T) {
	r := &record{data: func(b io.Reader) (string, error) {
		_, _ = b.Read(make([]byte, 3))
		return "", Errorf(550, "5.7.1", "no")
	}}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.chunked()
	c.bdat("RSET\r\nRSET\r\n", false)
	c.expect("550 5.7.1 no")
	c.bdat("RSET\r\n", true)
	c.expect("503 5.5.1")
	c.say("NOOP", "250 2.0.0 OK")

	r.data = func(io.Reader) (string, error) { return "fine", nil }
	c.chunked()
	c.bdat("x\r\n", true)
	c.expect("451 4.3.0") // a session that did not read is not believed
	r.data = func(io.Reader) (string, error) { panic("data") }
	c.chunked()
	c.bdat("x\r\n", true)
	c.expect("421 4.3.0")
	c.closed()
}

func TestChunksInTime(t *testing.T) {
	for name, act := range map[string]func(c *talk){
		"silent in a chunk":      func(c *talk) { c.put("BDAT 100 LAST\r\nhalf") },
		"silent between chunks":  func(c *talk) { c.bdat("A: b\r\n", false); c.expect("250") },
		"silent in the next one": func(c *talk) { c.bdat("A: b\r\n", false); c.expect("250"); c.put("BDAT 5 LA") },
		"chunks too slow": func(c *talk) {
			go func() {
				for {
					if _, err := c.Write([]byte("BDAT 1\r\nx")); err != nil {
						return
					}
					time.Sleep(5 * time.Second)
				}
			}()
			for range 12 {
				c.expect("250")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &record{}
			inBubble(t, r, Limits{DataIdle: 50 * time.Second, DataStart: time.Minute, Data: time.Hour}, func(t *testing.T, s *Server, l *pipes) {
				c := pipePeer(t, l)
				c.expect("220")
				c.say("EHLO client.example", "250")
				c.chunked()
				start := time.Now()
				act(c)
				for strings.HasPrefix(c.expect(""), "250") {
				}
				c.closed()
				if took := time.Since(start); took > 62*time.Second {
					t.Errorf("it took %v to be cut off", took)
				}
			})
			if len(r.messages) > 0 || len(r.failed) != 1 {
				t.Errorf("messages %q, errors %v", r.messages, r.failed)
			}
		})
	}
}
