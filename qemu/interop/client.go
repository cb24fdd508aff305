package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// client speaks SMTP exactly as it is told to, also wrongly.
type client struct {
	net.Conn
	r    *bufio.Reader
	ext  map[string]bool // what the server offers
	last string          // its last answer
}

// answerLimit bounds one answer.
const answerLimit = 45 * time.Second

// dial connects and greets; cfg is for implicit TLS.
func dial(port int, cfg *tls.Config) (*client, error) {
	conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), answerLimit)
	if err != nil {
		return nil, err
	}
	if cfg != nil {
		conn = tls.Client(conn, cfg)
	}
	c := &client{Conn: conn, r: bufio.NewReader(conn), ext: map[string]bool{}}
	if code, text := c.answer(); code != 220 {
		conn.Close()
		return nil, fmt.Errorf("greeting %s", text)
	}
	code, text := c.say("EHLO mail.intern.example")
	if code != 250 {
		conn.Close()
		return nil, fmt.Errorf("EHLO: %s", text)
	}
	for line := range strings.Lines(text) {
		if len(line) > 4 {
			word, _, _ := strings.Cut(strings.TrimSpace(line[4:]), " ")
			c.ext[strings.ToUpper(word)] = true
		}
	}
	return c, nil
}

// say sends a line and returns the answer; code 0 means that the connection ended.
func (c *client) say(line string) (int, string) {
	if _, err := io.WriteString(c, line+"\r\n"); err != nil {
		return 0, err.Error()
	}
	return c.answer()
}

func (c *client) answer() (int, string) {
	_ = c.SetReadDeadline(time.Now().Add(answerLimit))
	var all strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			return 0, all.String() + err.Error()
		}
		if len(line) > 3 && line[3] == ' ' {
			code, _ := strconv.Atoi(line[:3])
			c.last = line
			return code, all.String()
		}
	}
}

// letter is a message to send.
type letter struct {
	from, to           string
	mailParam, rcptArg string // with a leading space
	raw                []byte // content, not stuffed
}

func (l *letter) envelope() string {
	return fmt.Sprintf("MAIL FROM:<%s>%s\r\nRCPT TO:<%s>%s\r\n", l.from, l.mailParam, l.to, l.rcptArg)
}

// commands sends lines one by one and wants these codes.
func (c *client) commands(lines string, codes ...int) error {
	for i, line := range strings.Split(strings.TrimSuffix(lines, "\r\n"), "\r\n") {
		if code, text := c.say(line); code != codes[i] {
			return fmt.Errorf("%.40s: %s", line, strings.TrimSpace(text))
		}
	}
	return nil
}

// data sends a letter with DATA, in pieces as write makes them.
func (c *client) data(l *letter, write func(w io.Writer, b []byte) error) error {
	if err := c.commands(l.envelope()+"DATA\r\n", 250, 250, 354); err != nil {
		return err
	}
	if err := write(c, stuffed(l.raw)); err != nil {
		return err
	}
	return c.want(250)
}

func whole(w io.Writer, b []byte) error { _, err := w.Write(b); return err }

func (c *client) want(code int) error {
	if got, text := c.answer(); got != code {
		return fmt.Errorf("final dot: %s", strings.TrimSpace(text))
	}
	return nil
}

// pipelined sends two letters in two groups; the second begins in the write that
// ends the first (RFC 2920 §3.1).
func (c *client) pipelined(a, b *letter) error {
	if !c.ext["PIPELINING"] {
		return errors.New("PIPELINING is not offered")
	}
	if err := whole(c, []byte(a.envelope()+"DATA\r\n")); err != nil {
		return err
	}
	codes := []int{250, 250, 354}
	read := func() error {
		for _, want := range codes {
			if code, text := c.answer(); code != want {
				return fmt.Errorf("in a group: %s", strings.TrimSpace(text))
			}
		}
		return nil
	}
	if err := read(); err != nil {
		return err
	}
	if err := whole(c, append(stuffed(a.raw), b.envelope()+"DATA\r\n"...)); err != nil {
		return err
	}
	if err := c.want(250); err != nil {
		return err
	}
	if err := read(); err != nil {
		return err
	}
	if err := whole(c, stuffed(b.raw)); err != nil {
		return err
	}
	return c.want(250)
}

// stuffed is content as it goes over the wire, with the end mark.
func stuffed(m []byte) []byte {
	m = bytes.ReplaceAll(m, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(m, []byte(".")) {
		m = append([]byte("."), m...)
	}
	return append(m, ".\r\n"...)
}

// inFragments writes slowly: the last bytes one by one, so that the end mark
// comes in five pieces, and with a pause in the middle.
func inFragments(w io.Writer, b []byte) error {
	const tail = 60
	cut := max(0, len(b)-tail)
	for _, piece := range [][]byte{b[:cut/2], b[cut/2 : cut]} {
		if err := whole(w, piece); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	for i := cut; i < len(b); i++ {
		if err := whole(w, b[i:i+1]); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}
