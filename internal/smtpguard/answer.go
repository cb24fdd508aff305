package smtpguard

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// answered follows the conversation by an answer of go-smtp. Only its code
// counts; the words are ours.
func (c *conn) answered(whole []byte) error {
	last := whole[bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1:]
	code, err := strconv.Atoi(string(last[:3]))
	if err != nil {
		return fmt.Errorf("smtpguard: the engine answered without a code")
	}
	verb, verdict := c.tx.await, c.verdict
	c.tx.await, c.verdict = quiet, nil
	switch {
	case verb == greeting && c.mode == Implicit:
		c.emit(verb, 220, fmt.Appendf(nil, "220 %s ESMTP\r\n", c.s.o.Hostname))
	case verb == greeting || verb == quiet:
		// After STARTTLS there is no second greeting (RFC 3207 §4.2); and the guard
		// resets the engine behind each message.
	case verdict != nil:
		c.reply(verb, verdict)
	case code == 334:
		c.tx.auth, c.tx.await = true, verb
		c.emit(verb, code, whole)
	case code >= 400:
		c.reply(verb, objection(verb, code))
	default:
		c.follow(verb)
		c.accept(verb, code)
	}
	return nil
}

// follow moves the transaction on after a command that was carried out.
func (c *conn) follow(verb string) {
	switch verb {
	case "EHLO", "HELO":
		c.tx.greeted, c.tx.extended = true, verb == "EHLO"
		c.tx.reset()
	case "RSET":
		c.tx.reset()
	case "MAIL":
		c.tx.mail = true
	case "RCPT":
		c.tx.rcpts++
	case "AUTH":
		c.tx.authed = true
	}
}

// accept says that go-smtp carried verb out.
func (c *conn) accept(verb string, code int) {
	switch verb {
	case "EHLO":
		c.emit(verb, code, c.capabilities())
	case "HELO":
		c.emit(verb, code, fmt.Appendf(nil, "250 %s\r\n", c.s.o.Hostname))
	case "MAIL":
		c.emit(verb, code, []byte("250 2.1.0 sender accepted\r\n"))
	case "RCPT":
		c.emit(verb, code, []byte("250 2.1.5 recipient accepted\r\n"))
	case "AUTH":
		c.emit(verb, code, []byte("235 2.7.0 authentication succeeded\r\n"))
	default:
		c.emit(verb, code, []byte("250 2.0.0 transaction reset\r\n"))
	}
}

// objection is go-smtp's own refusal of a command that passed the guard's table.
func objection(verb string, code int) *Error {
	switch {
	case verb == "AUTH" && code == 501:
		return Errorf(501, "5.7.0", "authentication cancelled")
	case verb == "AUTH":
		return Errorf(501, "5.5.2", "the response is not base64")
	case code == 452:
		return Errorf(452, "4.5.3", "too many recipients, please send the others in another transaction")
	case code < 500:
		return Errorf(451, "4.3.0", "temporary failure, please try again later")
	}
	return Errorf(501, "5.5.4", "a parameter of %s is malformed", verb)
}

// capabilities announces what is true for this peer, whatever go-smtp would.
func (c *conn) capabilities() []byte {
	out := fmt.Appendf(nil, "250-%s\r\n", c.s.o.Hostname)
	for _, keyword := range []string{"PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8", "CHUNKING"} {
		out = fmt.Appendf(out, "250-%s\r\n", keyword)
	}
	if !c.s.o.NoDSN {
		out = append(out, "250-DSN\r\n"...)
	}
	if names := c.mechanisms(); len(names) > 0 {
		out = fmt.Appendf(out, "250-AUTH %s\r\n", printable(strings.Join(names, " ")))
	}
	return fmt.Appendf(out, "250-LIMITS RCPTMAX=%d\r\n250 SIZE %d\r\n", c.s.limits.Recipients, c.maxSize())
}

// reply sends a typed answer.
func (c *conn) reply(verb string, e *Error) {
	c.emit(verb, e.Code, e.appendTo(nil))
	if e.Close {
		c.flush()
		c.over = true
	}
}

// grouped names the commands whose answers wait for those behind them, so that a
// pipelined group costs one write; all others go out at once (RFC 2920 §3.2).
func grouped(verb string) bool {
	return verb == "MAIL" || verb == "RCPT" || verb == "RSET" || verb == "BDAT"
}

// emit counts an answer and has it sent: now, or before the guard next waits for
// the peer. Too many refusals end the conversation.
func (c *conn) emit(verb string, code int, whole []byte) {
	if code >= 400 {
		if c.tx.errors++; c.tx.errors > c.s.limits.SoftErrors {
			c.flush()
			c.pause(c.s.limits.ErrorDelay)
		}
		if verb == "AUTH" {
			c.tx.authErrs++
		}
	}
	c.out = append(c.out, whole...)
	if !grouped(verb) || len(c.out) > maxReplies {
		c.flush()
	}
	switch {
	case c.over:
	case code == 421:
		c.flush()
		c.over = true
	case c.tx.errors >= c.s.limits.HardErrors:
		c.bye(Errorf(421, "4.7.0", "too many errors, closing connection"))
	case c.tx.authErrs >= c.s.limits.AuthErrors:
		c.bye(Errorf(421, "4.7.0", "too many refused authentications, closing connection"))
	}
}

// bye answers and ends the conversation.
func (c *conn) bye(e *Error) {
	c.out = e.appendTo(c.out)
	c.flush()
	c.over = true
}

// flush writes what waits to the peer, and ends the reading side if that fails.
func (c *conn) flush() {
	if len(c.out) == 0 {
		return
	}
	c.mu.Lock()
	wire := c.wire
	c.mu.Unlock()
	_ = wire.SetWriteDeadline(time.Now().Add(c.s.limits.Write))
	if _, err := wire.Write(c.out); err != nil {
		c.over = true
	}
	c.out = c.out[:0]
}

func (c *conn) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.ctx.Done():
	}
}
