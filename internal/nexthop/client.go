package nexthop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Client is one connection, under TLS and past EHLO. It is for one goroutine.
type Client struct {
	server  Server
	limits  Limits
	wire    *wire // under TLS
	conn    net.Conn
	br      *bufio.Reader
	bw      *bufio.Writer
	name    string            // for people: the name that the certificate is checked for
	ext     map[string]string // EHLO keywords in upper case, with their parameters
	broken  bool              // not usable any more
	began   time.Time
	carried int // messages

	block    time.Duration // deadline of the next write
	armed    time.Time     // when that was set last
	deadline time.Time     // of ctx
}

// Dial connects, makes TLS and greets. Errors are *Failure, temporary.
func Dial(ctx context.Context, s Server, l Limits) (*Client, error) {
	c := &Client{server: s, limits: l.withDefaults(), began: time.Now(), name: s.Address}
	if s.TLS.ServerName != "" {
		c.name = s.TLS.ServerName
	}
	dialCtx, cancel := context.WithTimeout(ctx, c.limits.Connect)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(dialCtx, "tcp", s.Address)
	if err != nil {
		return nil, c.failed("4.4.1", "cannot connect", err)
	}
	c.wire = &wire{Conn: conn}
	c.use(c.wire)
	stop := c.watch(ctx)
	defer stop()
	if err := c.start(dialCtx); err != nil {
		c.conn.Close()
		return nil, err
	}
	return c, nil
}

// start brings the connection from its first byte to the end of EHLO.
func (c *Client) start(ctx context.Context) error {
	if c.server.Mode == StartTLS {
		if err := c.greet(); err != nil {
			return err
		}
		if err := c.startTLS(); err != nil {
			return err
		}
	}
	cfg := c.server.TLS.Clone()
	cfg.DynamicRecordSizingDisabled = true // mail is read when it is whole
	secured := tls.Client(c.conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		return c.failed("4.7.5", "TLS failed", err)
	}
	c.use(secured)
	if c.server.Mode == StartTLS {
		return c.ehlo()
	}
	return c.greet()
}

// use puts buffers over a connection; what an older one held is gone.
func (c *Client) use(conn net.Conn) {
	c.conn = conn
	c.br = bufio.NewReaderSize(conn, maxReplyLine)
	c.bw = bufio.NewWriterSize(writer{c}, writeBuffer)
}

// watch cuts the connection when ctx ends.
func (c *Client) watch(ctx context.Context) (stop func() bool) {
	c.deadline, _ = ctx.Deadline()
	c.armed = time.Time{}
	return context.AfterFunc(ctx, func() { _ = c.wire.Close() })
}

func (c *Client) greet() error {
	r, err := c.reply(c.limits.Greeting, "the greeting")
	if err != nil {
		return err
	}
	if r.code != 220 {
		return c.refused(r, "the greeting")
	}
	return c.ehlo()
}

func (c *Client) ehlo() error {
	r, err := c.command(c.limits.Command, "EHLO %s", c.server.Helo)
	if err != nil {
		return err
	}
	if r.code != 250 {
		return c.refused(r, "EHLO")
	}
	c.ext = map[string]string{}
	for _, line := range r.lines[1:] {
		keyword, params, _ := strings.Cut(line, " ")
		c.ext[strings.ToUpper(keyword)] = params
	}
	return nil
}

func (c *Client) startTLS() error {
	if _, ok := c.ext["STARTTLS"]; !ok {
		return c.failed("4.7.4", "server does not offer STARTTLS, and mail is never sent without", nil)
	}
	r, err := c.command(c.limits.Command, "STARTTLS")
	if err != nil {
		return err
	}
	if r.code != 220 {
		return c.refused(r, "STARTTLS")
	}
	if c.br.Buffered() > 0 { // it would be read as if it had come under TLS
		return c.failed("4.7.5", "server sent something behind its answer to STARTTLS", nil)
	}
	return nil
}

// Close says QUIT, if the connection still works, and closes.
func (c *Client) Close() {
	if !c.broken {
		c.deadline = time.Now().Add(quitTime)
		_, _ = c.command(quitTime, "QUIT")
	}
	_ = c.conn.Close()
}

// quitTime bounds the farewell; nothing depends on it.
const quitTime = time.Second

// has reports whether the server announced an extension.
func (c *Client) has(keyword string) bool { _, ok := c.ext[keyword]; return ok }

// failed makes a temporary failure of the connection, which is then broken.
func (c *Client) failed(enhanced, what string, cause error) *Failure {
	c.broken = true
	f := own(Temporary, enhanced, "%s", what)
	if cause != nil {
		f = own(Temporary, enhanced, "%s: %v", what, cause)
	}
	f.Cause, f.Server, f.Lost = cause, c.name, true
	return f
}

// refused makes a failure of a negative answer. Before a transaction even a 5xx
// is no verdict on a message.
func (c *Client) refused(r answer, to string) *Failure {
	c.broken = true
	f := own(Temporary, "4.3.0", "server answered %s with %s", to, r.reply())
	f.Server, f.Lost = c.name, true
	return f
}

// answer is a server's reply as it came.
type answer struct {
	code  int
	lines []string
}

func (a answer) reply() Reply {
	text := strings.Join(a.lines, " ")
	enhanced := fmt.Sprintf("%d.0.0", a.code/100)
	if first, rest, _ := strings.Cut(text, " "); enhancedFor(first, a.code) {
		enhanced, text = first, rest
	}
	return Reply{Code: a.code, Enhanced: enhanced, Text: printable(text)}
}

// enhancedFor reports whether s is an enhanced code (RFC 3463 §2) of the class of
// code.
func enhancedFor(s string, code int) bool {
	class, rest, _ := strings.Cut(s, ".")
	subject, detail, _ := strings.Cut(rest, ".")
	if len(class) != 1 || int(class[0]-'0') != code/100 {
		return false
	}
	for _, p := range []string{subject, detail} {
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 999 {
			return false
		}
	}
	return true
}

// command sends one line and reads its answer.
func (c *Client) command(limit time.Duration, format string, args ...any) (answer, error) {
	if err := c.put(limit, format, args...); err != nil {
		return answer{}, err
	}
	if err := c.flush(); err != nil {
		return answer{}, err
	}
	what, _, _ := strings.Cut(format, " ")
	return c.reply(limit, what)
}

// put writes one line into the buffer.
func (c *Client) put(limit time.Duration, format string, args ...any) error {
	c.phase(limit)
	if _, err := fmt.Fprintf(c.bw, format+"\r\n", args...); err != nil {
		return c.failed("4.4.2", "connection lost", err)
	}
	return nil
}

// phase begins a part of the conversation in which each write has this limit.
func (c *Client) phase(limit time.Duration) {
	if c.block != limit {
		c.block, c.armed = limit, time.Time{}
	}
}

func (c *Client) flush() error {
	if err := c.bw.Flush(); err != nil {
		return c.failed("4.4.2", "connection lost", err)
	}
	return nil
}

// reply reads one answer (RFC 5321 §4.2).
func (c *Client) reply(limit time.Duration, what string) (answer, error) {
	if !c.replyIsHere() {
		_ = c.conn.SetReadDeadline(c.until(limit))
	}
	var a answer
	for range maxReplyLines {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return a, c.failed("4.4.2", "no answer to "+what, err)
		}
		text := strings.TrimRight(string(line), "\r\n")
		code, more, ok := parseReply(text)
		if !ok || a.code != 0 && code != a.code {
			return a, c.failed("4.5.0", "server's answer to "+what+" is not SMTP", nil)
		}
		a.code = code
		a.lines = append(a.lines, text[min(len(text), 4):])
		if !more {
			if code == 421 {
				c.broken = true
			}
			return a, nil
		}
	}
	return a, c.failed("4.5.0", "server's answer to "+what+" does not end", nil)
}

// replyIsHere reports whether a line can be read without waiting.
func (c *Client) replyIsHere() bool {
	here, _ := c.br.Peek(c.br.Buffered())
	return bytes.IndexByte(here, '\n') >= 0
}

func parseReply(line string) (code int, more, ok bool) {
	if len(line) < 3 || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		return 0, false, false
	}
	for i := range 3 {
		if line[i] < '0' || line[i] > '9' {
			return 0, false, false
		}
		code = code*10 + int(line[i]-'0')
	}
	return code, len(line) > 3 && line[3] == '-', code >= 200 && code < 600
}

// until is the earlier of a limit from now and the context's end.
func (c *Client) until(limit time.Duration) time.Time {
	d := time.Now().Add(limit)
	if !c.deadline.IsZero() && c.deadline.Before(d) {
		return c.deadline
	}
	return d
}

// writer sets the deadline of writes, anew when a good part of it has passed.
type writer struct{ c *Client }

func (w writer) Write(p []byte) (int, error) {
	c := w.c
	if c.broken {
		return 0, errors.New("connection is broken")
	}
	if now := time.Now(); now.Sub(c.armed) > c.block/rearm {
		_ = c.conn.SetWriteDeadline(c.until(c.block))
		c.armed = now
	}
	return c.conn.Write(p)
}

// rearm is the part of a write's limit (one in so many) by which it may come out
// shorter: setting a deadline costs more than a small write.
const rearm = 16

// wire is the connection under TLS. While it gathers, several TLS records go to
// the kernel at once.
type wire struct {
	net.Conn
	gathering bool
	buf       *[]byte
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if !w.gathering {
		return w.Conn.Write(p)
	}
	if w.buf == nil {
		w.buf, _ = gatherBuffers.Get().(*[]byte)
		if w.buf == nil {
			w.buf = new(make([]byte, 0, gatherBuffer))
		}
	}
	if len(*w.buf)+len(p) > cap(*w.buf) {
		if err := w.pour(); err != nil {
			return 0, err
		}
	}
	if len(p) > cap(*w.buf) {
		return w.Conn.Write(p)
	}
	*w.buf = append(*w.buf, p...)
	return len(p), nil
}

func (w *wire) pour() error {
	if w.buf == nil || len(*w.buf) == 0 {
		return nil
	}
	_, err := w.Conn.Write(*w.buf)
	*w.buf = (*w.buf)[:0]
	return err
}

// release ends the gathering: what is left goes out.
func (w *wire) release() error {
	w.gathering = false
	err := w.pour()
	if w.buf != nil {
		gatherBuffers.Put(w.buf)
		w.buf = nil
	}
	return err
}
