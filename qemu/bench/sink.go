package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
)

// sink is the next hop of both relays: a small SMTP server with implicit TLS and
// client certificates, which stores nothing but the hash of each body.
type sink struct {
	cfg  *tls.Config
	port int

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	total    int // connections that were made
	expected map[string]uint64
	seen     map[string]int
	wrong    []string
	left     int
	all      chan struct{} // closed when every expected message is there
	hold     chan struct{} // not nil: the final dot is answered when it is closed
	last     time.Time
	first    map[string]time.Time // when a watched message came
}

func newSink(cert tls.Certificate, clients *x509.CertPool) (*sink, error) {
	s := &sink{conns: map[net.Conn]bool{}, cfg: &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: clients,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.CurveP256}}}
	s.expect(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	s.serve(l)
	return s, nil
}

// serve accepts connections on l.
func (s *sink) serve(l net.Listener) {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.total++
			s.mu.Unlock()
			go func() {
				_ = s.session(tls.Server(c, s.cfg))
				c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
		}
	}()
}

// down closes the port and every connection; up opens the same port again.
func (s *sink) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener.Close()
	for c := range s.conns {
		c.Close()
	}
}

func (s *sink) up() error {
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
	if err == nil {
		s.serve(l)
	}
	return err
}

// pause holds back every answer to a final dot; the returned function ends that.
func (s *sink) pause() (resume func()) {
	hold := make(chan struct{})
	s.mu.Lock()
	s.hold = hold
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.hold = nil
		s.mu.Unlock()
		close(hold)
	}
}

// expect forgets what came and names what must come: hashes of bodies by name.
func (s *sink) expect(list map[string]uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expected, s.seen, s.wrong, s.left, s.all, s.first = list, map[string]int{}, nil, len(list), make(chan struct{}), map[string]time.Time{}
	s.total = 0
}

// verdict reports messages that are missing, doubled or damaged.
func (s *sink) verdict() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubled := 0
	for _, n := range s.seen {
		if n > 1 {
			doubled++
		}
	}
	if s.left == 0 && doubled == 0 && len(s.wrong) == 0 {
		return nil
	}
	return fmt.Errorf("of %d messages %d are missing, %d came more than once, %d are damaged or unknown %.3q", len(s.expected), s.left, doubled, len(s.wrong), s.wrong[:min(3, len(s.wrong))])
}

// arrived notes one message.
func (s *sink) arrived(name string, hash uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = time.Now()
	want, known := s.expected[name]
	if !known || want != hash {
		s.wrong = append(s.wrong, name)
		return
	}
	if s.seen[name]++; s.seen[name] > 1 {
		return
	}
	s.first[name] = s.last
	if s.left--; s.left == 0 {
		close(s.all)
	}
}

// session speaks SMTP, only as much as a relay needs.
func (s *sink) session(c *tls.Conn) error {
	r, w := &wire{r: c, buf: make([]byte, 64<<10)}, bufio.NewWriterSize(c, 4<<10)
	fmt.Fprint(w, "220 sink ESMTP\r\n")
	for {
		if r.lo == r.hi { // answers of pipelined commands go together
			if err := w.Flush(); err != nil {
				return err
			}
		}
		line, err := r.line()
		if err != nil {
			return err
		}
		switch verb := strings.ToUpper(string(line[:min(4, len(line))])); verb {
		case "EHLO":
			fmt.Fprint(w, "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE 100000000\r\n")
		case "MAIL", "RCPT", "RSET", "NOOP":
			fmt.Fprint(w, "250 2.0.0 ok\r\n")
		case "DATA":
			fmt.Fprint(w, "354 go\r\n")
			if err := w.Flush(); err != nil {
				return err
			}
			name, hash, err := r.message()
			if err != nil {
				return err
			}
			s.mu.Lock()
			hold := s.hold
			s.mu.Unlock()
			if hold != nil {
				<-hold
			}
			s.arrived(name, hash)
			fmt.Fprint(w, "250 2.0.0 taken\r\n")
		case "QUIT":
			fmt.Fprint(w, "221 2.0.0 bye\r\n")
			return w.Flush()
		default:
			fmt.Fprint(w, "502 5.5.1 no\r\n")
		}
	}
}

// wire reads a connection through one buffer.
type wire struct {
	r      io.Reader
	buf    []byte
	lo, hi int
}

var errLong = errors.New("line or header too long")

// fill reads more behind what is there.
func (w *wire) fill() error {
	if w.lo == w.hi {
		w.lo, w.hi = 0, 0
	}
	if w.hi == len(w.buf) {
		if w.lo == 0 {
			return errLong
		}
		w.hi = copy(w.buf, w.buf[w.lo:w.hi])
		w.lo = 0
	}
	n, err := w.r.Read(w.buf[w.hi:])
	w.hi += n
	if n > 0 {
		return nil
	}
	return err
}

// until returns what comes up to and with mark.
func (w *wire) until(mark string) ([]byte, error) {
	for {
		if i := bytes.Index(w.buf[w.lo:w.hi], []byte(mark)); i >= 0 {
			out := w.buf[w.lo : w.lo+i+len(mark)]
			w.lo += len(out)
			return out, nil
		}
		if err := w.fill(); err != nil {
			return nil, err
		}
	}
}

func (w *wire) line() ([]byte, error) { return w.until("\r\n") }

// message reads header and body and returns the name in the body's first line
// and the body's hash. No line of a test's body begins with a dot.
func (w *wire) message() (name string, sum uint64, err error) {
	if _, err = w.until("\r\n\r\n"); err != nil {
		return "", sum, err
	}
	first, err := w.line()
	if err != nil {
		return "", sum, err
	}
	name = strings.TrimSpace(string(first))
	h := xxhash.New()
	_, _ = h.Write(first[:len(first)-2]) // the CRLF may be that of the end mark's search
	w.lo -= 2
	const end = "\r\n.\r\n"
	for {
		b := w.buf[w.lo:w.hi]
		if i := bytes.Index(b, []byte(end)); i >= 0 {
			_, _ = h.Write(b[:i+2])
			w.lo += i + len(end)
			return name, h.Sum64(), nil
		}
		if n := len(b) - len(end); n > 0 {
			_, _ = h.Write(b[:n])
			w.lo += n
		}
		if err := w.fill(); err != nil {
			return "", sum, err
		}
	}
}
