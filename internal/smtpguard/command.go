package smtpguard

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Faults of a line that end the connection: what follows cannot be trusted to be
// a command.
var (
	errLongLine = errors.New("line too long")
	errBareLine = errors.New("bare CR, bare LF or NUL in a command")
)

// readLine returns the next line without its CRLF.
func readLine(br *bufio.Reader) ([]byte, error) {
	line, err := br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull) || len(line) > maxCommandLine:
		return nil, errLongLine
	case err != nil:
		return nil, err
	}
	line, clean := bytes.CutSuffix(line, []byte("\r\n"))
	if !clean || bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, 0) >= 0 {
		return nil, errBareLine
	}
	return line, nil
}

// What stands for the verb before the first command: go-smtp's greeting is
// awaited, or has been.
const (
	greeting = ""
	greeted  = "-"
)

// transaction is what the guard knows of the conversation.
type transaction struct {
	await    string // the verb whose answer comes next
	greeted  bool   // EHLO or HELO was accepted
	extended bool   // EHLO was
	mail     bool   // MAIL was accepted
	rcpts    int
	auth     bool // a SASL exchange goes on
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
		line, err := readLine(c.br)
		if err != nil {
			c.lineFault(err)
			return nil
		}
		command, fault := c.screen(line)
		if fault == nil {
			return command
		}
		c.refuse(fault)
	}
	return nil
}

func (c *conn) lineFault(err error) {
	switch {
	case errors.Is(err, errLongLine):
		c.bye(Errorf(500, "5.5.2", "line too long, closing connection"))
	case errors.Is(err, errBareLine):
		c.bye(Errorf(500, "5.5.2", "lines must end in CRLF and hold no other CR, LF or NUL; closing connection"))
	case timedOut(err) && c.isDraining():
		c.bye(c.closing())
	case timedOut(err):
		c.bye(Errorf(421, "4.4.2", "timeout, closing connection"))
	default:
		c.over = true
	}
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// bye answers and ends the conversation.
func (c *conn) bye(e *Error) {
	c.send(fmt.Appendf(nil, "%d %s\r\n", e.Code, e.line()))
	c.over = true
}

// refuse answers a command that go-smtp will not see.
func (c *conn) refuse(e *Error) {
	if e.Close {
		c.bye(e)
		return
	}
	c.deliver(e.Code, fmt.Appendf(nil, "%d %s\r\n", e.Code, e.line()))
}

// screen decides about one line: a command for go-smtp, or a refusal.
func (c *conn) screen(line []byte) ([]byte, *Error) {
	if c.tx.auth {
		c.tx.auth = false
		return append(bytes.Clone(line), '\r', '\n'), nil
	}
	for _, b := range line {
		if b < ' ' || b == 0x7f {
			return nil, Errorf(500, "5.5.2", "control characters are not allowed in commands")
		}
	}
	verb, arg, _ := strings.Cut(string(line), " ")
	verb, arg = strings.ToUpper(verb), strings.Trim(arg, " ")
	if c.isDraining() && !c.tx.mail && verb != "QUIT" {
		fault := c.closing()
		fault.Close = true
		return nil, fault
	}
	if !c.tx.extended { // PIPELINING was not announced to this peer
		if fault := c.lastInGroup(verb); fault != nil {
			return nil, fault
		}
	}
	arg, fault := c.allow(verb, arg)
	if fault != nil {
		return nil, fault
	}
	c.tx.await = verb
	if arg != "" {
		verb += " " + arg
	}
	return []byte(verb + "\r\n"), nil
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
		return path(arg, "TO:", false)
	case "DATA":
		return c.allowData(arg)
	case "NOOP", "RSET", "VRFY":
		if c.tx.junk++; c.tx.junk > c.s.limits.Junk {
			return "", closing(Errorf(421, "4.7.0", "too many commands without mail, closing connection"))
		}
		return "", c.trivial(verb)
	case "AUTH":
		return c.allowAuth(arg)
	case "QUIT":
		return "", nil
	case "BDAT":
		// Its chunk follows at once and would be read as commands.
		return "", closing(Errorf(502, "5.5.1", "BDAT is not offered, closing connection"))
	case "STARTTLS":
		return "", Errorf(503, "5.5.1", "TLS is already active")
	}
	return "", Errorf(500, "5.5.2", "command not recognised")
}

func closing(e *Error) *Error { e.Close = true; return e }

// trivial answers what needs no engine; RSET does.
func (c *conn) trivial(verb string) *Error {
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
	if c.tx.junk++; c.tx.junk > c.s.limits.Junk {
		return "", closing(Errorf(421, "4.7.0", "too many commands without mail, closing connection"))
	}
	c.peer.Helo, c.peer.Extended = name, verb == "EHLO"
	return name, nil
}

// lastInGroup refuses what was sent behind a command whose answer must be awaited
// (RFC 2920 §3.1).
func (c *conn) lastInGroup(verb string) *Error {
	if c.br.Buffered() > 0 {
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
	return path(arg, "FROM:", true)
}

func (c *conn) allowData(arg string) (string, *Error) {
	switch {
	case arg != "":
		return "", Errorf(501, "5.5.4", "DATA takes no argument")
	case !c.tx.mail:
		return "", Errorf(503, "5.5.1", "MAIL and RCPT come first")
	case c.tx.rcpts == 0:
		return "", Errorf(503, "5.5.1", "no recipient was accepted")
	}
	return "", c.lastInGroup("DATA")
}

func (c *conn) allowAuth(arg string) (string, *Error) {
	if _, ok := c.session.(Authenticator); !ok {
		return "", Errorf(502, "5.5.1", "AUTH is not offered")
	}
	switch {
	case !c.tx.greeted:
		return "", Errorf(503, "5.5.1", "EHLO comes first")
	case c.tx.mail:
		return "", Errorf(503, "5.5.1", "AUTH is not allowed in a transaction")
	case arg == "":
		return "", Errorf(501, "5.5.4", "AUTH needs a mechanism")
	}
	return arg, c.lastInGroup("AUTH")
}
