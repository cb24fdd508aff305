package smtpguard

import (
	"io"
	"strings"
	"testing"
	"time"
)

// The pitfalls of go-smtp v0.25.1, numbered as in the package's design notes, and
// where each guard and the tests that fail without it are. Fuzzing (FuzzSession,
// FuzzBody, FuzzAddress) goes over all that parses.
//
//	 1  no time limits, none in DATA      deadline.go   TestPitfall01*, TestChunksInTime, TestBoundsHalfOpenPeers
//	 2  body bytes become commands        message.go    TestPitfall02*, TestChunksRefusedBySession
//	 3  endless discarding                body.go       TestPitfall03*, TestChunksSizeLimit
//	 4  bare CR, bare LF, NUL             body.go       TestPitfall04*, TestChunksWithFaultsAtEverySplit
//	 5  its client repairs and forgets    (nexthop)     nexthop.TestDeliversByteForByte, TestUnfitServers, TestWithoutDSNItIsRelayed, TestServerThatStopsReading
//	 6  quoted local parts lose quotes    address.go    TestPitfall06And07Addresses
//	 7  any byte in a domain              address.go    TestPitfall06And07Addresses, TestSMTPUTF8
//	 8  commands out of order             command.go    TestPitfall08OrderOfCommands, TestChunksDoNotMixWithOtherCommands
//	 9  plain errors become 554           reply.go      TestPitfall09UntypedErrors, TestAnswersAreSober
//	10  STARTTLS that fails, and goes on  plain.go      TestPitfall10*
//	11  nothing is counted                answer.go     TestPitfall11Counters, TestAuthEndsTheConnection
//	12  BDAT's faults leave the chunk     chunk.go      TestPitfall12*
//	13  chunks limited like lines         chunk.go      TestPitfall13LongLinesInChunks
//	14  sizes off by one, or unlimited    body.go       TestPitfall14*, TestChunksSizeLimit
//	15  panics                            conn.go       TestPitfall15Panics
//	16  Shutdown without 421              server.go     TestPitfall16Shutdown
//	17  Debug writes secrets              server.go     TestPitfall17*, TestAuthSecretsStayOutOfLogs
//	18  memory and connections            input.go      TestPitfall18ConnectionLimits, TestBounds*

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
		{"silent in a message", Limits{DataIdle: time.Minute, DataStart: time.Hour, Data: time.Hour}, func(c *talk) {
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
