package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
)

// maxLetter bounds what a tenant's server takes, in bytes.
const maxLetter = 128 << 20

// Letter is one message as a tenant's server received it.
type Letter struct {
	From   string
	To     []string
	Header string // up to and without the empty line
	Body   []byte
	At     time.Time
}

// BodyHash is the SHA-256 of the body in hex.
func (l Letter) BodyHash() string {
	sum := sha256.Sum256(l.Body)
	return hex.EncodeToString(sum[:])
}

// Field returns the first header field of the name, unfolded, or "".
func (l Letter) Field(name string) string {
	lines := strings.Split(l.Header, "\r\n")
	for i, line := range lines {
		key, value, ok := strings.Cut(line, ":")
		if !ok || !strings.EqualFold(key, name) {
			continue
		}
		for _, more := range lines[i+1:] {
			if !strings.HasPrefix(more, " ") && !strings.HasPrefix(more, "\t") {
				break
			}
			value += more
		}
		return strings.TrimSpace(value)
	}
	return ""
}

// MailServer is a tenant's ordinary mail server: STARTTLS on port 25 (it takes
// no mail in plain text), keeping what it received in memory.
type MailServer struct {
	server *smtp.Server

	mu      sync.Mutex
	letters []Letter
	changed chan struct{}
}

// StartMailServer serves on l until Close.
func StartMailServer(l net.Listener, domain string, cert tls.Certificate) *MailServer {
	m := &MailServer{changed: make(chan struct{})}
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &mailSession{server: m, conn: c}, nil
	}))
	s.Domain = domain
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	s.MaxMessageBytes = maxLetter
	s.ReadTimeout, s.WriteTimeout = 5*time.Minute, time.Minute
	s.EnableDSN = true
	m.server = s
	go func() { _ = s.Serve(l) }()
	return m
}

// Close stops the server at once.
func (m *MailServer) Close() error { return m.server.Close() }

// Letters returns everything received so far.
func (m *MailServer) Letters() []Letter {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Letter(nil), m.letters...)
}

// Wait returns the first letter that fits, waiting for it until ctx ends.
func (m *MailServer) Wait(ctx context.Context, what string, fits func(Letter) bool) (Letter, error) {
	for {
		m.mu.Lock()
		changed := m.changed
		for _, l := range m.letters {
			if fits(l) {
				m.mu.Unlock()
				return l, nil
			}
		}
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Letter{}, fmt.Errorf("e2e: tenant's server: %s did not arrive: %w", what, ctx.Err())
		}
	}
}

func (m *MailServer) keep(l Letter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.letters = append(m.letters, l)
	close(m.changed)
	m.changed = make(chan struct{})
}

// mailSession is one connection to the server.
type mailSession struct {
	server *MailServer
	conn   *smtp.Conn
	letter Letter
}

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	if _, ok := s.conn.TLSConnectionState(); !ok {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Must issue a STARTTLS command first"}
	}
	s.letter = Letter{From: from}
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.letter.To = append(s.letter.To, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxLetter+1))
	if err != nil {
		return err
	}
	header, body, _ := strings.Cut(string(data), "\r\n\r\n")
	l := s.letter
	l.Header, l.Body, l.At = header, []byte(body), time.Now()
	s.server.keep(l)
	return nil
}

func (s *mailSession) Reset()        { s.letter = Letter{} }
func (s *mailSession) Logout() error { return nil }
