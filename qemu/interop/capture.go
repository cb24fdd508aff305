package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

// message is what came to the end of a way, as it was on the wire.
type message struct {
	mail string   // parameters of MAIL
	rcpt []string // of each RCPT
	raw  []byte   // content without transparency dots
}

// body is what stands behind the header.
func (m *message) body() []byte {
	_, body, _ := bytes.Cut(m.raw, []byte("\r\n\r\n"))
	return body
}

// capture is the end of a way: a strict SMTP server that keeps every byte. Only
// CRLF.CRLF ends a message; nothing is repaired.
type capture struct {
	port int
	cfg  *tls.Config // nil: no TLS
	ln   net.Listener

	mu      sync.Mutex
	got     []*message
	changed chan struct{}
}

func newCapture(cfg *tls.Config) (*capture, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &capture{port: l.Addr().(*net.TCPAddr).Port, cfg: cfg, ln: l, changed: make(chan struct{})}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Minute))
				if cfg != nil {
					conn = tls.Server(conn, cfg)
				}
				_ = c.session(conn)
			}()
		}
	}()
	return c, nil
}

func (c *capture) close() { c.ln.Close() }

// where counts messages in which wanted is, and gives the first.
func (c *capture) where(wanted func(*message) bool) (first *message, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.got {
		if wanted(m) {
			if n++; n == 1 {
				first = m
			}
		}
	}
	return first, n
}

// count is how many messages came.
func (c *capture) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.got)
}

// await waits for a message.
func (c *capture) await(ctx context.Context, limit time.Duration, wanted func(*message) bool) (*message, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if m, n := c.where(wanted); n > 0 {
			return m, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing came within %v", limit)
		}
	}
}

func (c *capture) keep(m *message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, m)
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *capture) session(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 64<<10)
	say := func(text string) error { _, err := io.WriteString(conn, text+"\r\n"); return err }
	if err := say("220 end.example ESMTP"); err != nil {
		return err
	}
	m := &message{}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		verb, rest, _ := strings.Cut(line, " ")
		answer := "250 2.0.0 ok"
		switch strings.ToUpper(verb) {
		case "EHLO":
			answer = "250-end.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-CHUNKING\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 100000000"
		case "MAIL":
			m = &message{mail: rest}
		case "RCPT":
			m.rcpt = append(m.rcpt, rest)
		case "RSET":
			m = &message{}
		case "DATA":
			if err := say("354 go"); err != nil {
				return err
			}
			if m.raw, err = content(r); err != nil {
				return err
			}
			c.keep(m)
			m = &message{}
		case "BDAT":
			if err := m.chunk(r, rest); err != nil {
				return err
			}
			if strings.HasSuffix(strings.ToUpper(rest), "LAST") {
				c.keep(m)
				m = &message{}
			}
		case "QUIT":
			return say("221 2.0.0 bye")
		case "HELO", "NOOP":
		default:
			answer = "500 5.5.1 what?"
		}
		if err := say(answer); err != nil {
			return err
		}
	}
}

// chunk reads one chunk (RFC 3030 §2).
func (m *message) chunk(r *bufio.Reader, rest string) error {
	size, _, _ := strings.Cut(rest, " ")
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 || n > maxContent {
		return fmt.Errorf("chunk of %q bytes", size)
	}
	piece := make([]byte, n)
	_, err = io.ReadFull(r, piece)
	m.raw = append(m.raw, piece...)
	return err
}

// maxContent bounds what is read of one message.
const maxContent = 100 << 20

// content reads up to CRLF.CRLF and removes the dots of transparency.
func content(r *bufio.Reader) ([]byte, error) {
	var out []byte
	fresh := true // at the beginning of a line, that is: after CRLF
	for len(out) < maxContent {
		piece, err := r.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if fresh && string(piece) == ".\r\n" {
			return out, nil
		}
		if fresh && piece[0] == '.' {
			piece = piece[1:]
		}
		fresh = bytes.HasSuffix(piece, []byte("\r\n")) || len(piece) == 1 && bytes.HasSuffix(out, []byte("\r"))
		out = append(out, piece...)
	}
	return nil, fmt.Errorf("message of more than %d bytes", maxContent)
}
