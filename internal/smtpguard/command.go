package smtpguard

import (
	"errors"
	"strings"
	"time"
)

// What stands for the verb where the peer did not send one: go-smtp's greeting is
// awaited, or an answer that nobody asked for.
const (
	greeting = ""
	quiet    = "-"
)

// transaction is what the guard knows of the conversation.
type transaction struct {
	await    string // the verb whose answer comes next
	greeted  bool   // EHLO or HELO was accepted
	extended bool   // EHLO was
	mail     bool   // MAIL was accepted
	rcpts    int
	auth     bool // a SASL exchange goes on
	authed   bool // and one succeeded
	errors   int
	junk     int
	authErrs int
}

func (t *transaction) reset() { t.mail, t.rcpts = false, 0 }

// nextCommand reads until there is a command for go-smtp; nil ends the
// conversation.
func (c *conn) nextCommand() []byte {
	for !c.over {
		now := time.Now()
		c.setWindow(window{until: now.Add(c.s.limits.Command), wakes: !c.tx.mail})
		if now.Sub(c.opened) > c.s.limits.Session {
			c.bye(Errorf(421, "4.4.2", "session took too long, please connect again"))
			return nil
		}
		line, err := c.held, error(nil)
		if c.held = nil; line == nil {
			line, err = c.in.line()
		}
		if err != nil {
			c.lineFault(err)
			return nil
		}
		command, fault := c.screen(line)
		switch {
		case c.over:
			return nil
		case fault == nil:
			return command
		}
		c.reply(refused(line), fault)
	}
	return nil
}

// refused is the verb of a line that go-smtp will not see, as far as it matters
// for the answer.
func refused(line []byte) string {
	verb, _, _ := split(line)
	return verb
}

func (c *conn) lineFault(err error) {
	switch {
	case errors.Is(err, errLongLine) && c.tx.auth:
		c.bye(Errorf(500, "5.5.6", "authentication response too long, closing connection"))
	case errors.Is(err, errLongLine), errors.Is(err, errBareLine):
		c.bye(lineError(err))
	case timedOut(err) && c.isDraining():
		c.bye(c.closing())
	case timedOut(err):
		c.bye(Errorf(421, "4.4.2", "timeout, closing connection"))
	default:
		c.over = true
	}
}

func lineError(err error) *Error {
	if errors.Is(err, errLongLine) {
		return Errorf(500, "5.5.2", "line too long, closing connection")
	}
	return Errorf(500, "5.5.2", "lines must end in CRLF and hold no other CR, LF or NUL; closing connection")
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// split takes a command line apart.
func split(line []byte) (verb, arg string, fault *Error) {
	for _, b := range line {
		if b < ' ' || b == 0x7f {
			return "", "", Errorf(500, "5.5.2", "control characters are not allowed in commands")
		}
	}
	verb, arg, _ = strings.Cut(string(line), " ")
	return strings.ToUpper(verb), strings.Trim(arg, " "), nil
}

// screen decides about one line: a command for go-smtp, or a refusal. Messages
// are taken here, and leave a RSET for go-smtp.
func (c *conn) screen(line []byte) ([]byte, *Error) {
	if c.tx.auth {
		c.tx.auth = false
		return c.forEngine(string(line), ""), nil
	}
	verb, arg, fault := split(line)
	if fault != nil {
		return nil, fault
	}
	if c.isDraining() && !c.tx.mail && verb != "QUIT" {
		return nil, closing(c.closing())
	}
	if !c.tx.extended { // PIPELINING was not announced to this peer
		if fault := c.lastInGroup(verb); fault != nil {
			return nil, fault
		}
	}
	arg, fault = c.allow(verb, arg)
	switch {
	case fault != nil:
		return nil, fault
	case verb == "DATA" || verb == "BDAT":
		c.tx.await = quiet
		return c.forEngine("RSET", ""), nil
	}
	c.tx.await = verb
	return c.forEngine(verb, arg), nil
}

// forEngine makes a command line; it is valid until the next.
func (c *conn) forEngine(verb, arg string) []byte {
	c.command = append(c.command[:0], verb...)
	if arg != "" {
		c.command = append(append(c.command, ' '), arg...)
	}
	c.command = append(c.command, '\r', '\n')
	return c.command
}

// allow is the command table: which verb is carried out when, and with which
// argument.
func (c *conn) allow(verb, arg string) (string, *Error) {
	switch verb {
	case "EHLO", "HELO":
		return c.allowHello(verb, arg)
	case "MAIL":
		return c.allowMail(arg)
	case "RCPT":
		if !c.tx.mail {
			return "", Errorf(503, "5.5.1", "MAIL comes first")
		}
		return c.path(verb, arg, "TO:")
	case "DATA":
		return "", c.allowData(arg)
	case "BDAT":
		return "", c.allowChunk(arg)
	case "NOOP", "RSET", "VRFY":
		return "", c.trivial(verb)
	case "AUTH":
		return c.allowAuth(arg)
	case "QUIT":
		return "", closing(Errorf(221, "2.0.0", "closing connection"))
	case "STARTTLS":
		return "", Errorf(503, "5.5.1", "TLS is already active")
	}
	return "", Errorf(500, "5.5.2", "command not recognised")
}

func closing(e *Error) *Error { e.Close = true; return e }

// trivial answers what needs no engine; RSET does.
func (c *conn) trivial(verb string) *Error {
	if c.tx.junk++; c.tx.junk > c.s.limits.Junk {
		return closing(Errorf(421, "4.7.0", "too many commands without mail, closing connection"))
	}
	switch verb {
	case "NOOP":
		return Errorf(250, "2.0.0", "OK")
	case "VRFY":
		return Errorf(252, "2.5.2", "cannot verify; send mail and see")
	}
	return nil
}

func (c *conn) allowHello(verb, arg string) (string, *Error) {
	name, _, _ := strings.Cut(arg, " ")
	if name == "" || len(name) > maxDomain {
		return "", Errorf(501, "5.5.4", "%s needs your host name", verb)
	}
	for i := range len(name) {
		if !alnum(name[i]) && !strings.ContainsRune(".-_:[]", rune(name[i])) {
			return "", Errorf(501, "5.5.4", "%s needs a host name or an address literal", verb)
		}
	}
	if fault := c.lastInGroup(verb); fault != nil {
		return "", fault
	}
	if fault := c.trivial(verb); fault != nil {
		return "", fault
	}
	c.peer.Helo, c.peer.Extended = name, verb == "EHLO"
	return name, nil
}

// lastInGroup refuses what was sent behind a command whose answer must be awaited
// (RFC 2920 §3.1).
func (c *conn) lastInGroup(verb string) *Error {
	if c.in.buffered() > 0 {
		return closing(Errorf(554, "5.5.0", "nothing may be sent behind %s before its answer, closing connection", verb))
	}
	return nil
}

func (c *conn) allowMail(arg string) (string, *Error) {
	switch {
	case !c.tx.greeted:
		return "", Errorf(503, "5.5.1", "EHLO comes first")
	case c.tx.mail:
		return "", Errorf(503, "5.5.1", "a transaction is open; RSET ends it")
	}
	return c.path("MAIL", arg, "FROM:")
}

// noMail is for a message that no accepted MAIL and RCPT announced.
func (c *conn) noMail() *Error {
	if c.tx.mail {
		return Errorf(503, "5.5.1", "no recipient was accepted")
	}
	return Errorf(503, "5.5.1", "MAIL and RCPT come first")
}

func (c *conn) allowData(arg string) *Error {
	// Also ahead of a refusal: what stands behind it may be content.
	if fault := c.lastInGroup("DATA"); fault != nil {
		return fault
	}
	switch {
	case arg != "":
		return Errorf(501, "5.5.4", "DATA takes no argument")
	case !c.tx.mail || c.tx.rcpts == 0:
		return c.noMail()
	}
	c.emit("DATA", 354, []byte("354 send the message, ended by CRLF.CRLF\r\n"))
	c.messageWindow()
	c.take("DATA", c.newBody())
	return nil
}
