package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// letters are the messages of one run: the same text, each with a first line and
// a Message-ID of its own.
type letters struct {
	from, to string
	names    []string
	text     []byte // the body behind its first line, with the end mark
}

// newLetters makes count messages of about size bytes, and what must arrive.
func newLetters(prefix string, tenant, count, size int) (*letters, map[string]uint64) {
	raw := make([]byte, size*3/4)
	_, _ = rand.Read(raw)
	text := base64.StdEncoding.EncodeToString(raw)
	var body bytes.Buffer
	for line := range slices.Chunk([]byte(text), 76) {
		body.Write(line)
		body.WriteString("\r\n")
	}
	l := &letters{from: peers.TenantMail(tenant), to: peers.Citizen}
	expected := map[string]uint64{}
	for i := range count {
		name := fmt.Sprintf("%s-%d", prefix, i)
		h := xxhash.New()
		_, _ = fmt.Fprintf(h, "%s\r\n", name)
		_, _ = h.Write(body.Bytes())
		l.names = append(l.names, name)
		expected[name] = h.Sum64()
	}
	l.text = append(body.Bytes(), ".\r\n"...)
	return l, expected
}

// head is a message's header with the first line of its body: about what a mail
// server of an office sends.
func (l *letters) head(name string) []byte {
	return fmt.Appendf(nil, "Received: from pc17.intern.example (pc17.intern.example [10.1.2.3])\r\n\tby mail.intern.example with ESMTPS id %[1]s; Fri, 20 Nov 2026 08:00:00 +0000\r\n"+
		"From: Poststelle <%[2]s>\r\nTo: Erika Mustermann <%[3]s>\r\nReply-To: <%[2]s>\r\nSubject: Bescheid %[1]s\r\nDate: Fri, 20 Nov 2026 08:00:00 +0000\r\n"+
		"Message-ID: <%[1]s@mail.intern.example>\r\nMIME-Version: 1.0\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"+
		"X-De-Mail-Confirmation-Of-Dispatch: yes\r\nX-De-Mail-Confirmation-Of-Receipt: yes\r\nX-De-Mail-Private-Id: %[1]s\r\n\r\n%[1]s\r\n", name, l.from, l.to)
}

// sent is what a generator saw.
type sent struct {
	start, end time.Time // first connection, last 250
	wait       []time.Duration
}

// percentile of the time from MAIL to the 250 behind the final dot.
func (s *sent) percentile(p float64) time.Duration {
	if len(s.wait) == 0 {
		return 0
	}
	return s.wait[min(len(s.wait)-1, int(p*float64(len(s.wait))))]
}

// generator hands letters in over TLS with a client certificate.
type generator struct {
	cfg      *tls.Config
	port     int
	sessions int
}

// newGenerator is for a relay that shows serverName.
func newGenerator(port, sessions int, serverName string, roots *peers.Authority, own tls.Certificate) *generator {
	return &generator{port: port, sessions: sessions, cfg: &tls.Config{ServerName: serverName, RootCAs: roots.Pool(), Certificates: []tls.Certificate{own},
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP256}}}
}

// patience bounds one answer.
const patience = 5 * time.Minute

// send hands in every letter, each once, from all sessions, on connections that
// stay open.
func (g *generator) send(ctx context.Context, l *letters) (*sent, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan string, len(l.names))
	for _, n := range l.names {
		todo <- n
	}
	close(todo)
	s := &sent{start: time.Now()}
	var group sync.WaitGroup
	var mu sync.Mutex
	for range min(g.sessions, len(l.names)) {
		group.Go(func() {
			wait, err := g.session(ctx, l, todo)
			mu.Lock()
			defer mu.Unlock()
			s.wait = append(s.wait, wait...)
			if err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	s.end = time.Now()
	slices.Sort(s.wait)
	if err := context.Cause(ctx); err != nil {
		return s, fmt.Errorf("hand in: %w", err)
	}
	return s, nil
}

func (g *generator) session(ctx context.Context, l *letters, todo <-chan string) ([]time.Duration, error) {
	raw, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", g.port), patience)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	c := tls.Client(raw, g.cfg)
	r := bufio.NewReader(c)
	if err := answers(c, r, "220"); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprint(c, "EHLO mail.intern.example\r\n"); err != nil {
		return nil, err
	}
	if err := answers(c, r, "250"); err != nil {
		return nil, err
	}
	envelope := fmt.Appendf(nil, "MAIL FROM:<%s> SIZE=%d\r\nRCPT TO:<%s>\r\nDATA\r\n", l.from, len(l.text)+1000, l.to)
	var wait []time.Duration
	for name := range todo {
		begin := time.Now()
		if err := g.one(c, r, envelope, l, name); err != nil {
			return wait, err
		}
		wait = append(wait, time.Since(begin))
	}
	_, _ = fmt.Fprint(c, "QUIT\r\n")
	return wait, nil
}

// one is a whole transaction; commands are pipelined, as mail servers do.
func (g *generator) one(c *tls.Conn, r *bufio.Reader, envelope []byte, l *letters, name string) error {
	if _, err := c.Write(envelope); err != nil {
		return err
	}
	if err := answers(c, r, "250", "250", "354"); err != nil {
		return err
	}
	head := l.head(name)
	if len(l.text) < 1<<17 {
		head = append(head, l.text...)
		if _, err := c.Write(head); err != nil {
			return err
		}
	} else {
		if _, err := c.Write(head); err != nil {
			return err
		}
		if _, err := c.Write(l.text); err != nil {
			return err
		}
	}
	return answers(c, r, "250")
}

// answers reads one answer for each code.
func answers(c net.Conn, r *bufio.Reader, codes ...string) error {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for _, code := range codes {
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if len(line) > 3 && line[3] == '-' {
				continue
			}
			if !strings.HasPrefix(line, code) {
				return fmt.Errorf("answer %q, want %s", strings.TrimSpace(line), code)
			}
			break
		}
	}
	return nil
}
