package smtpguard

import (
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

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

// A peer that sends content without waiting for 354 is cut off also where DATA is
// refused: otherwise its content would be commands.
func TestContentBehindARefusedDATA(t *testing.T) {
	for name, ahead := range map[string]string{
		"no transaction":   "",
		"no recipient":     "MAIL FROM:<a@x.example>\r\n",
		"between chunks":   "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nBDAT 6\r\nA: b\r\n",
		"with an argument": "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA now\r\n",
	} {
		r := &record{}
		_, addr := serve(t, r, Limits{}, Implicit)
		c := greetedPeer(t, addr)
		c.put(ahead + "DATA\r\nRSET\r\nMAIL FROM:<smuggled@x.example>\r\nRCPT TO:<b@x.example>\r\n")
		for !strings.HasPrefix(c.expect(""), "554 5.5.0") {
		}
		c.closed()
		if _, from, _, _ := r.got(); slices.Contains(from, "smuggled@x.example") {
			t.Errorf("%s: content became commands", name)
		}
	}
}

// RSET in a group ends one transaction and lets another begin, in order.
func TestPipeliningRSET(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.put("MAIL FROM:<one@x.example>\r\nRCPT TO:<b@x.example>\r\nRSET\r\n" +
		"RCPT TO:<lost@x.example>\r\nMAIL FROM:<two@x.example>\r\nRCPT TO:<c@x.example>\r\nRSET\r\nRSET\r\nMAIL FROM:<three@x.example>\r\nRCPT TO:<d@x.example>\r\nDATA\r\n")
	for _, want := range []string{"250 2.1.0", "250 2.1.5", "250 2.0.0 transaction reset", "503 5.5.1", "250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0", "250 2.1.0", "250 2.1.5", "354"} {
		c.expect(want)
	}
	c.put("A: b\r\n\r\n.\r\nRSET\r\nMAIL FROM:<four@x.example>\r\nRSET\r\nQUIT\r\n")
	for _, want := range []string{"250 2.0.0 taken", "250 2.0.0 transaction reset", "250 2.1.0", "250 2.0.0 transaction reset", "221"} {
		c.expect(want)
	}
	_, from, to, _ := r.got()
	if strings.Join(from, " ") != "one@x.example two@x.example three@x.example four@x.example" || strings.Join(to, " ") != "b@x.example c@x.example d@x.example" {
		t.Errorf("senders %q, recipients %q", from, to)
	}
}

// A group's bad recipients leave the good ones; with none, DATA is refused and
// nothing behind it is taken for a message.
func TestPipeliningRefusedRecipients(t *testing.T) {
	r := &record{rcpt: func(to string) error {
		if strings.HasPrefix(to, "no") {
			return Errorf(550, "5.1.1", "no such user")
		}
		return nil
	}}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<no1@x.example>\r\nRCPT TO:<no2@x.example>\r\nDATA\r\n")
	for _, want := range []string{"250", "550", "550", "503 5.5.1"} {
		c.expect(want)
	}
	c.put("RCPT TO:<no3@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
	for _, want := range []string{"550", "250", "354"} {
		c.expect(want)
	}
	c.put("A: b\r\n\r\n.\r\n")
	c.expect("250 2.0.0 taken")
}

// However a conversation is cut into writes, its answers are the same.
func TestPipeliningAtEverySplit(t *testing.T) {
	const group = "MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nRSET\r\nNOOP\r\nMAIL FROM:<c@x.example>\r\nRCPT TO:<d@x.example>\r\nBDAT 6\r\nA: b\r\nBDAT 2 LAST\r\n\r\nVRFY x\r\n"
	_, addr := serve(t, &record{}, Limits{Junk: 10000}, Implicit)
	c := greetedPeer(t, addr)
	for at := 0; at <= len(group); at++ {
		c.put(group[:at])
		c.put(group[at:])
		for _, want := range []string{"250 2.1.0", "250 2.1.5", "250 2.0.0 tr", "250 2.0.0 OK", "250 2.1.0", "250 2.1.5", "250 2.0.0 ch", "250 2.0.0 taken", "252"} {
			c.expect(want)
		}
	}
}

// A pipelined group of any size is answered in few writes (RFC 2920 §3.2), and
// an answer is there before the guard waits for more.
func TestPipeliningCoalescesAnswers(t *testing.T) {
	r := &record{}
	s := New(options(r, Limits{}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := counted{ln, new(atomic.Int64), new(atomic.Int64)}
	go func() { _ = s.Serve(l, Implicit) }()
	defer stop(s)
	c := greetedPeer(t, ln.Addr().String())
	before := l.writes.Load()
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nRCPT TO:<c@x.example>\r\nRSET\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
	for range 7 {
		c.expect("")
	}
	if n := l.writes.Load() - before; n != 1 {
		t.Errorf("seven answers went out in %d writes", n)
	}
	c.put("A: b\r\n\r\n.\r\n")
	c.expect("250")
	before = l.writes.Load()
	c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<b") // the answer does not wait for the rest
	c.expect("250 2.1.0")
	c.put("@x.example>\r\n")
	c.expect("250 2.1.5")
	if n := l.writes.Load() - before; n != 2 {
		t.Errorf("two answers that had to go out at once went out in %d writes", n)
	}
	before = l.writes.Load()
	const many = 500
	for range many / 10 {
		c.put(strings.Repeat("RCPT TO:<b@x.example>\r\n", 10))
	}
	for range many {
		c.expect("250 2.1.5")
	}
	if n := l.writes.Load() - before; n > many/2 {
		t.Errorf("%d answers went out in %d writes", many, n)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	c.say("QUIT", "221")
}

// RCPTMAX is announced (RFC 9422) and kept; what is over it can come again.
func TestPipeliningRecipientsMax(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{Recipients: 2}, Implicit)
	c := dial(t, addr)
	c.expect("220")
	if caps := c.say("EHLO client.example", "250"); !strings.Contains(caps, "250-LIMITS RCPTMAX=2\r\n") {
		t.Errorf("capabilities %q", caps)
	}
	c.put("MAIL FROM:<a@x.example>\r\n" + strings.Repeat("RCPT TO:<b@x.example>\r\n", 3) + "DATA\r\n")
	for _, want := range []string{"250", "250", "250", "452 4.5.3", "354"} {
		c.expect(want)
	}
	c.put("A: b\r\n\r\n.\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
	for _, want := range []string{"250", "250", "250", "354"} {
		c.expect(want)
	}
}
