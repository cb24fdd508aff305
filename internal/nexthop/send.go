package nexthop

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/dsn"
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
	results, accepted, data, err := c.envelope(m)
	if err != nil {
		return nil, err
	}
	if accepted == 0 {
		return results, c.nobody(data)
	}
	end, err := c.data(m, data)
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

// envelope sends MAIL, RCPT and DATA, in few writes if the server lets it
// (RFC 2920), and reads the answers. A recipient that was accepted stands as
// Delivered until the message's end says so or not. data is the answer to DATA.
func (c *Client) envelope(m *Message) (results []Result, accepted int, data answer, err error) {
	results = make([]Result, len(m.Recipients))
	pipelining := c.has("PIPELINING")
	begun := false
	for at := 0; at < len(results); {
		n := min(c.group(begun), len(results)-at)
		last := pipelining && at+n == len(results)
		if err := c.putGroup(m, !begun, m.Recipients[at:at+n], last); err != nil {
			return nil, 0, data, err
		}
		if !begun {
			if err := c.mailAnswer(n, last); err != nil {
				return nil, 0, data, err
			}
			begun = true
		}
		for i := at; i < at+n; i++ {
			r, err := c.reply(c.limits.Command, "RCPT")
			if err != nil {
				return nil, 0, data, err
			}
			results[i] = c.result(r)
			if results[i].Outcome == Delivered {
				accepted++
			}
		}
		at += n
	}
	if !pipelining && accepted > 0 {
		err = c.putGroup(m, false, nil, true)
	}
	if err == nil && (pipelining || accepted > 0) {
		data, err = c.reply(c.limits.DataStart, "DATA")
	}
	return results, accepted, data, err
}

// group is how many RCPT may be sent at once; the first go with MAIL, if any do.
func (c *Client) group(begun bool) int {
	switch pipelining := c.has("PIPELINING"); {
	case pipelining && begun:
		return pipelineGroup
	case pipelining:
		return firstGroup
	case begun:
		return 1
	}
	return 0
}

// putGroup sends a group of commands in one write.
func (c *Client) putGroup(m *Message, mail bool, to []Recipient, data bool) error {
	c.phase(c.limits.Command)
	line := c.bw.AvailableBuffer()
	if mail {
		line = append(c.mail(line, m), "\r\n"...)
	}
	for _, r := range to {
		line = append(c.rcpt(line, r), "\r\n"...)
	}
	if data {
		line = append(line, "DATA\r\n"...)
	}
	if _, err := c.bw.Write(line); err != nil {
		return c.failed("4.4.2", "connection lost", err)
	}
	return c.flush()
}

// mailAnswer reads the answer to MAIL; if it is negative, the answers to the n
// RCPT and the DATA behind it are read and dropped, and the transaction is over.
func (c *Client) mailAnswer(n int, data bool) error {
	r, err := c.reply(c.limits.Command, "MAIL")
	if err != nil {
		return err
	}
	if r.code/100 == 2 {
		return nil
	}
	for range n {
		if _, err := c.reply(c.limits.Command, "RCPT"); err != nil {
			data = false // the connection is broken then; MAIL's verdict stands
			break
		}
	}
	if data {
		if r, err := c.reply(c.limits.DataStart, "DATA"); err == nil && r.code/100 < 4 {
			c.broken = true // it would read what comes next as a message
		}
	}
	got := c.result(r)
	return &Failure{Outcome: got.Outcome, Reply: got.Reply, Server: c.name, Lost: r.code == 421}
}

// nobody ends a transaction in which every recipient was refused. A server that
// wants a message all the same gets an empty one for nobody (RFC 2920 §3.1).
func (c *Client) nobody(data answer) error {
	if data.code == 354 && !c.broken {
		if _, err := c.command(c.limits.DataEnd, "."); err != nil {
			return nil // the connection is broken; the results stand
		}
	}
	return c.rset()
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

func (c *Client) mail(b []byte, m *Message) []byte {
	b = append(append(append(b, "MAIL FROM:<"...), m.From...), '>')
	if c.has("SIZE") {
		b = strconv.AppendInt(append(b, " SIZE="...), m.Size, 10)
	}
	if m.EightBit {
		b = append(b, " BODY=8BITMIME"...)
	}
	if m.UTF8 {
		b = append(b, " SMTPUTF8"...)
	}
	if c.has("DSN") {
		if m.RET == "FULL" || m.RET == "HDRS" {
			b = append(append(b, " RET="...), m.RET...)
		}
		if m.ENVID != "" {
			b = append(append(b, " ENVID="...), dsn.Xtext(m.ENVID)...)
		}
	}
	return b
}

func (c *Client) rcpt(b []byte, r Recipient) []byte {
	b = append(append(append(b, "RCPT TO:<"...), r.Address...), '>')
	if !c.has("DSN") {
		return b
	}
	if r.Notify != "" && notifyOnly(r.Notify) {
		b = append(append(b, " NOTIFY="...), r.Notify...)
	}
	if original, ok := dsn.Original(r.Original); ok {
		b = append(append(b, " ORCPT="...), original...)
	}
	return b
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

func (c *Client) rset() error {
	if c.broken {
		return nil
	}
	if r, err := c.command(c.limits.Command, "RSET"); err != nil || r.code != 250 {
		c.broken = true // the results stand all the same
	}
	return nil
}

// data sends the content, if the answer to DATA invites it, and reads the final
// answer.
func (c *Client) data(m *Message, r answer) (answer, error) {
	if r.code != 354 {
		c.broken = true // the transaction is still open over there
		got := c.result(r)
		if got.Outcome == Delivered {
			got.Outcome = Temporary
		}
		return answer{}, &Failure{Outcome: got.Outcome, Reply: got.Reply, Server: c.name, Lost: r.code == 421}
	}
	c.phase(c.limits.DataBlock)
	c.wire.gathering = true
	if err := c.content(m); err != nil {
		c.broken = true
		_ = c.wire.release() // never the end mark: content has not written it
		return answer{}, err
	}
	err := c.bw.Flush()
	if err := errors.Join(err, c.wire.release()); err != nil {
		return answer{}, c.failed("4.4.2", "connection lost in the middle of the message", err)
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
	buf, _ := copyBuffers.Get().(*[]byte)
	if buf == nil {
		buf = new(make([]byte, copyBuffer))
	}
	defer copyBuffers.Put(buf)
	w := &dotWriter{w: c.bw, start: true}
	if _, err := io.CopyBuffer(w, onlyReader{body}, *buf); err != nil {
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
	// certificate is checked anew long before the 24 hours of TR-01201 are over. A
	// handshake with the provider asks a TPM for a signature, which may take a good
	// part of a second: there must be few of them.
	MaxReuseMessages = 1000
	MaxReuseAge      = 5 * time.Minute
	// MaxIdle is how long an open connection waits for another message.
	MaxIdle = 30 * time.Second
)
