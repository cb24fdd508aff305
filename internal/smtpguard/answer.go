package smtpguard

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// answered follows the transaction by an answer of go-smtp and passes it on.
func (c *conn) answered(whole []byte) error {
	last := whole[bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1:]
	code, err := strconv.Atoi(string(last[:3]))
	if err != nil {
		return fmt.Errorf("smtpguard: the engine answered without a code")
	}
	verb := c.tx.await
	switch {
	case verb == greeting && c.mode == StartTLS:
		// The peer was greeted before TLS; it must not be greeted again (RFC 3207 §4.2).
		c.tx.await = greeted
		return nil
	case verb == greeting:
		whole = fmt.Appendf(nil, "220 %s ESMTP\r\n", c.s.o.Hostname)
	case verb == "EHLO" && code == 250:
		whole = c.capabilities(whole)
	}
	c.follow(verb, code)
	c.deliver(code, whole)
	return nil
}

// follow moves the transaction on.
func (c *conn) follow(verb string, code int) {
	switch {
	case verb == "AUTH" && code == 334:
		c.tx.auth = true
	case verb == "AUTH" && code >= 400:
		c.tx.authErrs++
	case verb == "DATA" && code == 354:
		c.startBody()
	case verb == "DATA" && code != 354:
		c.tx.reset()
		if code == 250 {
			c.tx.junk = 0
		}
	case code != 250:
	case verb == "EHLO" || verb == "HELO":
		c.tx.greeted, c.tx.extended = true, verb == "EHLO"
		c.tx.reset()
	case verb == "RSET":
		c.tx.reset()
	case verb == "MAIL":
		c.tx.mail = true
	case verb == "RCPT":
		c.tx.rcpts++
	}
}

// deliver counts an answer and sends it; too many refusals end the conversation.
func (c *conn) deliver(code int, whole []byte) {
	if code >= 400 {
		c.tx.errors++
		if c.tx.errors > c.s.limits.SoftErrors {
			c.pause(c.s.limits.ErrorDelay)
		}
	}
	c.send(whole)
	switch {
	case c.over:
	case code == 421:
		c.over = true
	case c.tx.errors >= c.s.limits.HardErrors:
		c.bye(Errorf(421, "4.7.0", "too many errors, closing connection"))
	case c.tx.authErrs >= c.s.limits.AuthErrors:
		c.bye(Errorf(421, "4.7.0", "too many refused authentications, closing connection"))
	}
}

func (c *conn) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
	}
}

// capabilities replaces go-smtp's announcement: without CHUNKING (pitfalls 12 and
// 13) and STARTTLS, with our name and the true size.
func (c *conn) capabilities(whole []byte) []byte {
	out := fmt.Appendf(nil, "250-%s\r\n", c.s.o.Hostname)
	lines := bytes.Split(bytes.TrimSuffix(whole, []byte("\r\n")), []byte("\r\n"))
	for _, line := range lines[1:] {
		keyword, _, _ := bytes.Cut(line[4:], []byte(" "))
		switch string(keyword) {
		case "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "DSN", "AUTH", "LIMITS":
			out = fmt.Appendf(out, "250-%s\r\n", line[4:])
		}
	}
	return fmt.Appendf(out, "250 SIZE %d\r\n", c.maxSize())
}
