package smtpguard

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// plain speaks with a peer that is not under TLS yet. It returns nil when the
// peer asked for TLS and was told to go ahead.
func (c *conn) plain() error {
	c.setWindow(window{until: time.Now().Add(c.s.limits.Plain), wakes: true})
	if err := c.s.o.Ready(); err != nil {
		fault := notReady(err)
		c.bye(fault)
		return fault
	}
	c.say(fmt.Appendf(nil, "220 %s ESMTP\r\n", c.s.o.Hostname))
	for range maxPlainCommands {
		if c.over {
			return errors.New("connection lost")
		}
		line, err := c.in.line()
		if err != nil {
			c.lineFault(err)
			return fmt.Errorf("before TLS: %w", err)
		}
		verb, arg, _ := strings.Cut(string(line), " ")
		switch verb = strings.ToUpper(verb); {
		case verb == "QUIT":
			c.bye(Errorf(221, "2.0.0", "closing connection"))
			return errors.New("peer left without TLS")
		case verb == "STARTTLS" && arg == "":
			return c.startTLS()
		}
		c.say(c.plainAnswer(verb))
	}
	c.bye(Errorf(421, "4.7.0", "too many commands without STARTTLS, closing connection"))
	return errors.New("too many commands without STARTTLS")
}

// say sends an answer at once.
func (c *conn) say(b []byte) {
	c.out = append(c.out, b...)
	c.flush()
}

func (c *conn) plainAnswer(verb string) []byte {
	switch verb {
	case "EHLO":
		// Postfix asks for SMTPUTF8 before it starts TLS, and bounces without it.
		return fmt.Appendf(nil, "250-%s\r\n250-ENHANCEDSTATUSCODES\r\n250-SMTPUTF8\r\n250 STARTTLS\r\n", c.s.o.Hostname)
	case "HELO":
		return fmt.Appendf(nil, "250 %s\r\n", c.s.o.Hostname)
	case "NOOP":
		return []byte("250 2.0.0 OK\r\n")
	case "STARTTLS":
		return []byte("501 5.5.4 STARTTLS takes no argument\r\n")
	case "MAIL", "RCPT", "DATA", "AUTH", "BDAT", "VRFY", "RSET", "EXPN", "HELP", "ETRN":
		return []byte("530 5.7.0 this server speaks TLS only: STARTTLS comes first\r\n")
	}
	return []byte("500 5.5.2 command not recognised\r\n")
}

// startTLS says go ahead, unless something was sent ahead: it would be read as if
// it had come under TLS.
func (c *conn) startTLS() error {
	if c.in.buffered() > 0 {
		c.bye(Errorf(554, "5.5.0", "nothing may be sent behind STARTTLS before its answer, closing connection"))
		return errors.New("bytes sent ahead of the handshake")
	}
	c.say([]byte("220 2.0.0 ready for TLS\r\n"))
	return nil
}
