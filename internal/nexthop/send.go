package nexthop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
)

// Send hands over one message. The results are in the order of m.Recipients; an
// error (*Failure) concerns all of them. After an error, or when Usable says no,
// the client can only be closed.
func (c *Client) Send(ctx context.Context, m *Message) ([]Result, error) {
	if err := c.fits(m); err != nil {
		return nil, err
	}
	stop := c.watch(ctx)
	defer func() {
		stop()
		if ctx.Err() != nil {
			c.broken = true
		}
	}()
	c.carried++
	results, accepted, err := c.envelope(m)
	if err != nil {
		return nil, err
	}
	if accepted == 0 {
		return results, c.rset()
	}
	end, err := c.data(m)
	if err != nil {
		return nil, err
	}
	for i := range results {
		if results[i].Outcome == Delivered {
			results[i] = c.result(end)
			results[i].Relayed = results[i].Outcome == Delivered && !c.has("DSN")
		}
	}
	return results, nil
}

// Usable reports whether the connection can carry another message.
func (c *Client) Usable() bool { return !c.broken }

// fits refuses what this server, or any, cannot take as it is.
func (c *Client) fits(m *Message) error {
	limit, _ := strconv.ParseInt(c.ext["SIZE"], 10, 64)
	var f *Failure
	switch {
	case len(m.Recipients) == 0:
		f = own(Permanent, "5.5.1", "message has no recipients")
	case limit > 0 && m.Size > limit:
		f = own(Permanent, "5.3.4", "message of %d bytes is larger than the next server takes (%d)", m.Size, limit)
	case m.EightBit && !c.has("8BITMIME"):
		f = own(Permanent, "5.6.3", "next server does not take 8-bit messages, and converting would break signatures")
	case m.UTF8 && !c.has("SMTPUTF8"):
		f = own(Permanent, "5.6.7", "next server does not take UTF-8 header fields")
	}
	for _, r := range m.Recipients {
		if err := smtpguard.CheckAddress(r.Address); err != nil && f == nil {
			f = own(Permanent, "5.1.3", "recipient's address cannot be written: %v", err)
		}
	}
	if m.From != "" && f == nil {
		if err := smtpguard.CheckAddress(m.From); err != nil {
			f = own(Permanent, "5.1.7", "sender's address cannot be written: %v", err)
		}
	}
	if f == nil {
		return nil
	}
	f.Server = c.name
	return f
}

// envelope sends MAIL and RCPT. A recipient that was accepted stands as Delivered
// until the message's end says so or not.
func (c *Client) envelope(m *Message) (results []Result, accepted int, err error) {
	results = make([]Result, len(m.Recipients))
	group := c.group(firstGroup)
	if err := c.put(c.limits.Command, "%s", c.mail(m)); err != nil {
		return nil, 0, err
	}
	mailPending := true
	for at := 0; at < len(results); {
		n := min(group, len(results)-at)
		if mailPending && group == 1 {
			n = 0
		}
		for _, r := range m.Recipients[at : at+n] {
			if err := c.put(c.limits.Command, "%s", c.rcpt(r)); err != nil {
				return nil, 0, err
			}
		}
		if err := c.flush(); err != nil {
			return nil, 0, err
		}
		if mailPending {
			if err := c.mailAnswer(n); err != nil {
				return nil, 0, err
			}
			mailPending, group = false, c.group(pipelineGroup)
		}
		for i := at; i < at+n; i++ {
			r, err := c.reply(c.limits.Command, "RCPT")
			if err != nil {
				return nil, 0, err
			}
			results[i] = c.result(r)
			if results[i].Outcome == Delivered {
				accepted++
			}
		}
		at += n
	}
	return results, accepted, nil
}

// group is how many RCPT may be sent at once.
func (c *Client) group(most int) int {
	if c.has("PIPELINING") {
		return most
	}
	return 1
}

// mailAnswer reads the answer to MAIL; if it is negative, the answers to the n
// RCPT behind it are read and dropped, and the transaction is over.
func (c *Client) mailAnswer(n int) error {
	r, err := c.reply(c.limits.Command, "MAIL")
	if err != nil {
		return err
	}
	if r.code/100 == 2 {
		return nil
	}
	for range n {
		if _, err := c.reply(c.limits.Command, "RCPT"); err != nil {
			break // the connection is broken then; MAIL's verdict stands
		}
	}
	got := c.result(r)
	return &Failure{Outcome: got.Outcome, Reply: got.Reply, Server: c.name}
}

// result reads an answer as a verdict. What is neither 2xx nor 5xx is temporary.
func (c *Client) result(r answer) Result {
	out := Result{Reply: r.reply(), Server: c.name}
	switch r.code / 100 {
	case 2:
		out.Outcome = Delivered
	case 5:
		out.Outcome = Permanent
	}
	return out
}

func (c *Client) mail(m *Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "MAIL FROM:<%s>", m.From)
	if c.has("SIZE") {
		fmt.Fprintf(&b, " SIZE=%d", m.Size)
	}
	if m.EightBit {
		b.WriteString(" BODY=8BITMIME")
	}
	if m.UTF8 {
		b.WriteString(" SMTPUTF8")
	}
	if c.has("DSN") {
		if m.RET == "FULL" || m.RET == "HDRS" {
			b.WriteString(" RET=" + m.RET)
		}
		if m.ENVID != "" {
			b.WriteString(" ENVID=" + xtext(m.ENVID))
		}
	}
	return b.String()
}

func (c *Client) rcpt(r Recipient) string {
	line := "RCPT TO:<" + r.Address + ">"
	if !c.has("DSN") {
		return line
	}
	if r.Notify != "" && notifyOnly(r.Notify) {
		line += " NOTIFY=" + r.Notify
	}
	if kind, address, ok := strings.Cut(r.Original, ";"); ok && kind != "" && xtext(kind) == kind {
		line += " ORCPT=" + kind + ";" + xtext(address)
	}
	return line
}

func notifyOnly(s string) bool {
	for word := range strings.SplitSeq(s, ",") {
		switch word {
		case "NEVER", "SUCCESS", "FAILURE", "DELAY":
		default:
			return false
		}
	}
	return true
}

// xtext encodes a parameter value (RFC 3461 §4).
func xtext(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if ch := s[i]; ch < '!' || ch > '~' || ch == '+' || ch == '=' {
			fmt.Fprintf(&b, "+%02X", ch)
		} else {
			b.WriteByte(ch)
		}
	}
	return b.String()
}

func (c *Client) rset() error {
	if c.broken {
		return nil
	}
	if r, err := c.command(c.limits.Command, "RSET"); err != nil || r.code != 250 {
		c.broken = true // the results stand all the same
	}
	return nil
}

// data sends the content and reads the final answer.
func (c *Client) data(m *Message) (answer, error) {
	r, err := c.command(c.limits.DataStart, "DATA")
	if err != nil {
		return answer{}, err
	}
	if r.code != 354 {
		c.broken = true // the transaction is still open over there
		got := c.result(r)
		if got.Outcome == Delivered {
			got.Outcome = Temporary
		}
		return answer{}, &Failure{Outcome: got.Outcome, Reply: got.Reply, Server: c.name}
	}
	c.block = c.limits.DataBlock
	if err := c.content(m); err != nil {
		c.broken = true
		return answer{}, err
	}
	if err := c.flush(); err != nil {
		return answer{}, err
	}
	end, err := c.reply(c.limits.DataEnd, "the end of the message")
	var f *Failure
	if errors.As(err, &f) {
		f.Unsure = true
	}
	return end, err
}

// content writes the body and the end mark.
func (c *Client) content(m *Message) error {
	body, err := m.Open()
	if err != nil {
		return &Failure{Reply: Reply{Enhanced: "4.3.0", Text: "message cannot be read here"}, Cause: err}
	}
	defer body.Close()
	w := &dotWriter{w: c.bw, start: true}
	if _, err := io.Copy(w, onlyReader{body}); err != nil {
		return c.contentFault(err, w)
	}
	if !w.start {
		return own(Permanent, "5.6.0", "message does not end in CRLF and cannot be sent unchanged")
	}
	if _, err := c.bw.WriteString(".\r\n"); err != nil {
		return c.failed("4.4.2", "connection lost in the middle of the message", err)
	}
	return nil
}

// onlyReader keeps io.Copy on one path.
type onlyReader struct{ io.Reader }

func (c *Client) contentFault(err error, w *dotWriter) error {
	switch {
	case errors.Is(err, errBareEnd):
		return own(Permanent, "5.6.0", "message has a bare CR, bare LF or NUL and cannot be sent unchanged")
	case w.failed != nil:
		return c.failed("4.4.2", "connection lost in the middle of the message", err)
	}
	return &Failure{Reply: Reply{Enhanced: "4.3.0", Text: "message cannot be read here"}, Cause: err}
}

// Bounds of a connection's reuse.
const (
	// MaxReuseMessages and MaxReuseAge bound a connection's life: a peer's
	// certificate is checked anew long before the 24 hours of TR-01201 are over.
	MaxReuseMessages = 100
	MaxReuseAge      = 5 * time.Minute
	// MaxIdle is how long an open connection waits for another message.
	MaxIdle = 30 * time.Second
)
