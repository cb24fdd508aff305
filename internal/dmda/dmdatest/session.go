package dmdatest

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// session is one connection of a token.
type session struct {
	backend *backend
	p       *Provider
	token   *tokenState
	conn    net.Conn
	helo    string

	from       demail.Address
	account    Account
	recipients []demail.Address
	faults     []fault
}

// Reset forgets the transaction.
func (s *session) Reset() {
	s.from, s.account, s.recipients, s.faults = demail.Address{}, Account{}, nil, nil
}

// Logout has nothing to free.
func (s *session) Logout() error { return nil }

// Mail checks that the token may send as from (TR-01201, security module, chapter 10).
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.Reset()
	down, locked := s.p.state(s.token)
	switch {
	case down:
		return reply(421, "4.3.2", "service is down on demand")
	case locked:
		return reply(550, "5.7.1", "token is locked")
	}
	a, err := demail.ParseAddress(from)
	if err != nil {
		return reply(550, "5.1.7", "sender is no De-Mail address")
	}
	acc, ok := s.token.account(a)
	if !ok {
		return reply(550, "5.7.1", "sender belongs to no account of this token")
	}
	s.from, s.account = a, acc
	return nil
}

// Rcpt takes known De-Mail addresses, and those that ask for a fault.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.from.IsZero() {
		return reply(503, "5.5.1", "MAIL first")
	}
	a, err := demail.ParseAddress(to)
	if err != nil || !s.p.isDeMail(a) {
		return reply(550, "5.1.2", "recipient is no De-Mail address")
	}
	if parseFault(a.Local()).name == "" && !s.p.knows(a) {
		return reply(550, "5.1.1", "no such De-Mail address")
	}
	f := s.p.faultOf(a)
	switch f.name {
	case "lock-token":
		s.p.LockToken(s.token.Name, true)
		return reply(550, "5.7.1", "token is locked")
	case "code":
		return reply(f.code, fmt.Sprintf("%d.0.0", f.code/100), "fault on demand")
	}
	s.recipients = append(s.recipients, a)
	s.faults = append(s.faults, f)
	return nil
}

// Data reads a message, judges and stores it, and plays the faults that its
// recipients asked for.
func (s *session) Data(r io.Reader) error {
	if !s.backend.begin() {
		return reply(421, "4.3.2", "closing")
	}
	defer s.backend.working.Done()
	if len(s.recipients) == 0 {
		return reply(503, "5.5.1", "RCPT first")
	}
	slow := s.asked("slow").name != ""
	if slow {
		r = &slowReader{r: r, left: s.p.cfg.Slow / 2, closed: s.backend.closed}
	}
	raw, err := readMessage(r)
	if err != nil {
		_ = s.conn.Close() // what is left of the message must not be read as commands
		return reply(451, "4.4.2", "message was cut off")
	}
	if slow {
		pause(s.p.cfg.Slow/2, s.backend.closed)
	}
	if f := s.asked("data"); f.name != "" {
		return reply(f.code, fmt.Sprintf("%d.0.0", f.code/100), "fault on demand")
	}
	if s.asked("timeout").name != "" {
		return s.hang()
	}
	drop := s.asked("drop-after-data").name != ""
	if err := s.accept(raw, !drop); err != nil {
		return err
	}
	if drop {
		s.hangUp()
	}
	return nil
}

// asked finds a fault among the recipients'.
func (s *session) asked(name string) fault {
	for _, f := range s.faults {
		if f.name == name {
			return f
		}
	}
	return fault{}
}

// readMessage reads at most MaxMessage bytes and one, so that judge can tell.
func readMessage(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	_, err := io.Copy(&b, r)
	if err == smtp.ErrDataTooLarge {
		err = nil
	}
	return b.Bytes(), err
}

// hang answers nothing until the client or the server closes, or HangLimit is over.
func (s *session) hang() error {
	_ = s.conn.SetReadDeadline(time.Now().Add(HangLimit))
	_, _ = io.Copy(io.Discard, s.conn)
	s.hangUp()
	return reply(421, "4.4.2", "hung on demand")
}

// hangUp closes without TLS's good-bye, as a crash does.
func (s *session) hangUp() {
	if t, ok := s.conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
	}
	_ = s.conn.Close()
}

// slowReader reads little at a time until it has spent its delay.
type slowReader struct {
	r      io.Reader
	left   time.Duration
	closed <-chan struct{}
}

// Read gives at most 512 bytes after a pause.
func (s *slowReader) Read(p []byte) (int, error) {
	const bit, step = 512, 20 * time.Millisecond
	if s.left > 0 {
		pause(min(step, s.left), s.closed)
		s.left -= step
		p = p[:min(len(p), bit)]
	}
	return s.r.Read(p)
}

// pause waits for d or until closed is.
func pause(d time.Duration, closed <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-closed:
	}
}
