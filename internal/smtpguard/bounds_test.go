package smtpguard

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// inUse is the memory of this process that is not free, after a collection.
func inUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the first moves what pools hold to where the second finds it
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// tlsPairs is what n TLS connections over pipes take, both ends, with no SMTP:
// the test's own share of what it measures.
func tlsPairs(t *testing.T, n int) int64 {
	t.Helper()
	cert := testCert()
	var keep []net.Conn
	before := inUse()
	for range n {
		near, far := net.Pipe()
		server, client := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}}), tls.Client(near, insecure())
		go func() { _, _ = client.Write(make([]byte, 16<<10)) }()
		if _, err := io.ReadFull(server, make([]byte, 16<<10)); err != nil {
			t.Fatal(err)
		}
		keep = append(keep, server, client)
	}
	each := (inUse() - before) / int64(n)
	runtime.KeepAlive(keep)
	for _, c := range keep {
		_ = c.(*tls.Conn).NetConn().Close()
	}
	return each
}

const (
	sessionBytes = 256 << 10 // most that an open session may take, with its client in the same process
	idleBytes    = 128 << 10 // and one that is idle
)

func TestBoundsMemoryOfMessages(t *testing.T) {
	const sessions = 200
	bare := tlsPairs(t, sessions)
	_, addr := serve(t, &record{data: discard}, Limits{PerAddress: sessions + 1}, Implicit)
	before := inUse()
	some := strings.Repeat(strings.Repeat("x", 98)+"\r\n", 2500)
	var peers []*talk
	for i := range sessions {
		c := greetedPeer(t, addr)
		if i%2 == 0 {
			c.open("b@x.example")
		} else {
			c.chunked()
			c.put("BDAT 60000000\r\n")
		}
		c.put(some)
		peers = append(peers, c)
	}
	early := (inUse() - before) / sessions
	for _, c := range peers { // each has sent 1 MiB then
		c.put(some + some + some)
	}
	late := (inUse() - before) / sessions
	t.Logf("per session and its client: %d bytes after 250 kB of a message, %d after 1 MB; two ends of TLS alone: %d", early, late, bare)
	if late > sessionBytes {
		t.Errorf("%d bytes per session with a message, want at most %d", late, sessionBytes)
	}
	if late > early+early/4 {
		t.Errorf("a session grows with its message: %d bytes, then %d", early, late)
	}
}

// One message of 64 MiB through a session, by DATA and in chunks.
func TestBoundsMemoryOfTheGreatestMessage(t *testing.T) {
	var peak int64
	_, addr := serve(t, &record{data: func(r io.Reader) (string, error) {
		var all, next int64
		for buf := make([]byte, 32<<10); ; {
			n, err := r.Read(buf)
			if all += int64(n); all >= next {
				peak, next = max(peak, inUse()), next+8<<20
			}
			if err != nil {
				if err == io.EOF && all != 64<<20 {
					err = fmt.Errorf("%d bytes", all)
				}
				if err == io.EOF {
					return "taken", nil
				}
				return "", err
			}
		}
	}}, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	mebi := bytes.Repeat([]byte(strings.Repeat("x", 126)+"\r\n"), 1<<13)
	before := inUse()
	c.open("b@x.example")
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	for range 64 {
		_, _ = c.Write(mebi)
	}
	c.put(".\r\n")
	c.expect("250 2.0.0 taken")
	c.chunked()
	for i := range 64 {
		c.put(fmt.Sprintf("BDAT %d%s\r\n", len(mebi), strings.Repeat(" LAST", i/63)))
		_, _ = c.Write(mebi)
		c.expect("250 2.0.0")
	}
	grown := peak - before
	t.Logf("64 MiB grew the process by at most %d bytes", grown)
	if grown > sessionBytes {
		t.Errorf("64 MiB grew the process by %d bytes, want at most %d", grown, sessionBytes)
	}
}

// Two thousand peers that say EHLO and no more: each takes little, others are
// served, and all are gone when their time is over.
func TestBoundsIdlePeers(t *testing.T) {
	const idle = 2000
	testCert()
	limits := Limits{Connections: idle + 1, PerAddress: idle + 1, Command: 5 * time.Minute}
	inBubble(t, &record{}, limits, func(t *testing.T, s *Server, l *pipes) {
		before, routines := inUse(), runtime.NumGoroutine()
		peers := make([]*talk, idle)
		var all sync.WaitGroup
		for part := range 4 {
			all.Go(func() {
				for i := part; i < idle; i += 4 {
					c := tls.Client(l.dial(), insecure())
					peers[i] = &talk{t, c, bufio.NewReaderSize(c, 256)}
					peers[i].expect("220")
					peers[i].say("EHLO client.example", "250")
				}
			})
		}
		all.Wait()
		synctest.Wait()
		each := (inUse() - before) / idle
		perPeer := float64(runtime.NumGoroutine()-routines) / idle
		t.Logf("per idle session and its client: %d bytes, %.1f goroutines", each, perPeer)
		if each > idleBytes || perPeer > 1.1 {
			t.Errorf("an idle session and its client take %d bytes and %.1f goroutines, want at most %d and 1", each, perPeer, idleBytes)
		}
		if n := s.Connections(); n != idle {
			t.Errorf("%d connections", n)
		}
		busy := pipePeer(t, l)
		busy.expect("220")
		busy.say("EHLO client.example", "250")
		busy.open("b@x.example")
		busy.put("A: b\r\n\r\n.\r\n")
		busy.expect("250 2.0.0 taken")
		busy.say("QUIT", "221")
		busy.closed()
		synctest.Wait()
		one := l.dial() // one more than may be
		kept := l.dial()
		_, err := io.ReadAll(kept)
		if err != nil {
			t.Errorf("one connection too many: %v", err)
		}
		_ = one.Close()
		for _, p := range peers {
			go func() { _, _ = io.Copy(io.Discard, p.Conn) }()
		}
		time.Sleep(limits.Command + 10*time.Second)
		if n := s.Connections(); n != 0 {
			t.Errorf("%d connections outlived their time", n)
		}
	})
}

func TestBoundsEndlessLines(t *testing.T) {
	for name, begin := range map[string]func(t *testing.T) *talk{
		"before TLS": func(t *testing.T) *talk {
			_, addr := serve(t, &record{}, Limits{}, StartTLS)
			c := dialPlain(t, addr)
			c.expect("220")
			return c
		},
		"command": func(t *testing.T) *talk {
			_, addr := serve(t, &record{}, Limits{}, Implicit)
			return greetedPeer(t, addr)
		},
		"message": func(t *testing.T) *talk {
			_, addr := serve(t, &record{}, Limits{MessageBytes: 50000}, Implicit)
			c := greetedPeer(t, addr)
			c.open("b@x.example")
			return c
		},
		"between chunks": func(t *testing.T) *talk {
			_, addr := serve(t, &record{}, Limits{}, Implicit)
			c := greetedPeer(t, addr)
			c.chunked()
			c.bdat("A: b\r\n", false)
			c.expect("250")
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := begin(t)
			sent := 0
			for piece := strings.Repeat("x", 10000); sent < 256<<20; sent += len(piece) {
				if _, err := io.WriteString(c.Conn, piece); err != nil {
					return
				}
			}
			t.Fatalf("%d bytes of one line were swallowed", sent)
		})
	}
}

// A peer that writes byte by byte, each in a TLS record of its own, is served
// like any other.
func TestBoundsByteWisePeer(t *testing.T) {
	r := &record{}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := dial(t, addr)
	bytewise := func(s string) {
		for i := range s {
			c.put(s[i : i+1])
		}
	}
	c.expect("220")
	for _, step := range [][2]string{
		{"EHLO client.example\r\n", "250"},
		{"MAIL FROM:<a@x.example>\r\n", "250"}, {"RCPT TO:<b@x.example>\r\n", "250"}, {"DATA\r\n", "354"},
		{strings.ReplaceAll(dotted, "\r\n.", "\r\n..") + ".\r\n", "250 2.0.0 taken"},
		{"MAIL FROM:<a@x.example>\r\n", "250"}, {"RCPT TO:<b@x.example>\r\n", "250"},
		{fmt.Sprintf("BDAT %d LAST\r\n%s", len(dotted), dotted), "250 2.0.0 taken"},
	} {
		bytewise(step[0])
		c.expect(step[1])
	}
	if messages, _, _, _ := r.got(); len(messages) != 2 || messages[0] != dotted || messages[1] != dotted {
		t.Errorf("messages %q", messages)
	}
}

// Half-open peers: one that does not read, and one that is gone without a word.
func TestBoundsHalfOpenPeers(t *testing.T) {
	for name, act := range map[string]func(c *talk){
		"reads no answers": func(c *talk) { _, _ = io.WriteString(c.Conn, strings.Repeat("NOOP\r\n", 200)) },
		"gone in a group":  func(c *talk) { c.put("MAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.ex") },
		"gone in a message": func(c *talk) {
			c.open("b@x.example")
			c.put("A: b\r\n\r\n.\r")
		},
		"gone in a chunk": func(c *talk) {
			c.chunked()
			c.put("BDAT 10 LAST\r\nA: b\r\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &record{}
			inBubble(t, r, Limits{Write: time.Minute, Command: 2 * time.Minute, DataIdle: time.Minute}, func(t *testing.T, s *Server, l *pipes) {
				c := pipePeer(t, l)
				c.expect("220")
				c.say("EHLO client.example", "250")
				go act(c)
				time.Sleep(2*time.Minute + 2*DefaultWrite + 10*time.Second)
				if n := s.Connections(); n != 0 {
					t.Errorf("%d connections are still there", n)
				}
			})
			if messages, _, _, closed := r.got(); len(messages) != 0 || closed != 1 {
				t.Errorf("messages %q, %d sessions closed", messages, closed)
			}
		})
	}
}

// tenant counts its connections, as a Backend does.
type tenant struct {
	*record
	open  atomic.Int32
	limit int32
}

func (b *tenant) Admit(context.Context, *Peer) (Session, error) {
	if b.open.Add(1) > b.limit {
		b.open.Add(-1)
		return nil, Errorf(421, "4.7.0", "too many connections of your tenant")
	}
	return b.record, nil
}

func TestBoundsConnectionsOfATenant(t *testing.T) {
	b := &tenant{record: &record{}, limit: 2}
	b.close = func() { b.open.Add(-1) }
	_, addr := serve(t, b, Limits{}, Implicit)
	first, second := greetedPeer(t, addr), greetedPeer(t, addr)
	third := dial(t, addr)
	third.expect("421 4.7.0 too many connections of your tenant")
	third.closed()
	second.say("NOOP", "250")
	first.say("QUIT", "221")
	first.closed()
	for { // the place is free once the server has noticed
		if strings.HasPrefix(dial(t, addr).expect(""), "220") {
			break
		}
	}
	if n := b.open.Load(); n != 2 {
		t.Errorf("%d connections are counted", n)
	}
}
