package smtpguard

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// witness is a session that notes what reaches it and complains about what never
// may.
type witness struct {
	t        *testing.T
	mail     bool
	rcpts    int
	authed   bool
	messages [][]byte
	ended    bool
}

func (w *witness) Mail(from string, o *smtp.MailOptions) error {
	if w.mail || w.ended {
		w.t.Error("MAIL in a transaction, or after the end")
	}
	if from != "" && CheckAddress(from) != nil || o.Size > 4096 || o.Body == smtp.BodyBinaryMIME {
		w.t.Errorf("sender %q, options %+v", from, o)
	}
	w.mail, w.rcpts = true, 0
	return nil
}

func (w *witness) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !w.mail || w.ended {
		w.t.Error("RCPT outside of a transaction")
	}
	if CheckAddress(to) != nil {
		w.t.Errorf("recipient %q", to)
	}
	if strings.HasPrefix(to, "no") {
		return Errorf(550, "5.1.1", "no")
	}
	w.rcpts++
	return nil
}

func (w *witness) Data(r io.Reader) (string, error) {
	if !w.mail || w.rcpts == 0 || w.ended {
		w.t.Error("a message without a recipient")
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	w.messages = append(w.messages, b)
	return "taken", nil
}

func (w *witness) AuthMechanisms() []string { return []string{"PLAIN"} }
func (w *witness) Auth(string) (sasl.Server, error) {
	if w.mail || w.authed || w.ended {
		w.t.Error("AUTH in a transaction, twice, or after the end")
	}
	return sasl.NewPlainServer(func(_, user, secret string) error {
		if user != "box" || secret != "right" {
			return smtp.ErrAuthFailed
		}
		w.authed = true
		return nil
	}), nil
}

func (w *witness) Reset() { w.mail, w.rcpts = false, 0 }
func (w *witness) Close() {
	if w.ended {
		w.t.Error("closed twice")
	}
	w.ended = true
}

// script is a peer that sends bytes in pieces, and then hangs up.
type script struct {
	chop
	out  bytes.Buffer
	done chan struct{}
	once sync.Once // a stop may close what has just closed itself
}

func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { s.once.Do(func() { close(s.done) }); return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// play gives one connection the bytes of in, in pieces, and returns what it said.
func play(t *testing.T, s *Server, in []byte, piece int) (w *witness, out []byte) {
	w = &witness{t: t}
	peer := &script{chop: chop{in, piece}, done: make(chan struct{})}
	c := newConn(s, peer, Implicit)
	if err := s.enter(c); err != nil {
		t.Fatal(err)
	}
	c.session = w
	s.hand.give(c)
	select {
	case <-peer.done:
	case <-time.After(patience):
		t.Fatal("the connection did not end")
	}
	if !w.ended {
		t.Error("the session was not closed")
	}
	return w, peer.out.Bytes()
}

var replyLine = regexp.MustCompile(`^(220 box\.example ESMTP|250[- ][A-Z0-9a-z.= -]+|334 [A-Za-z0-9+/=]*|354 [ -~]+|([245])[0-9][0-9] ([245])\.[0-9]\.[0-9]+ [ -~]+)$`)

// FuzzSession: whatever bytes come, what reaches the session is in order and
// clean, and what leaves is SMTP.
func FuzzSession(f *testing.F) {
	const open = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\n"
	f.Add([]byte(open+"DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"), 7)
	for _, end := range smuggling {
		f.Add([]byte(open+"DATA\r\nx"+end+"MAIL FROM:<m@x.example>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nx\r\n.\r\n"), 3)
		f.Add([]byte(open+fmt.Sprintf("BDAT %d\r\nx%sBDAT 2 LAST\r\n\r\n", 1+len(end), end)), 3)
	}
	f.Add([]byte(open+"BDAT 3\r\nA: BDAT 5 LAST\r\nb\r\n\r\nRSET\r\nBDAT 4 LAST\r\nQUITNOOP\r\n"), 100)
	f.Add([]byte(open+"BDAT 3\r\nA: NOOP\r\nRSET\r\nBDAT 0 LAST\r\n"+open[16:]+"BDAT 5000 LAST\r\n"), 1)
	f.Add([]byte(open+"BDAT 6\r\nA: b\r\nDATA\r\nBDAT 99999999999 LAST\r\nBDAT x\r\n"), 1)
	f.Add([]byte("HELO c.example\r\nMAIL FROM:<\"a> SIZE=1\"@x.example>\r\nRCPT TO:<@r:b@x.example>\r\n"), 1)
	f.Add([]byte("EHLO c.example\r\nMAIL FROM:<> BODY=8BITMIME RET=HDRS ENVID=x+2B\r\nRCPT TO:<no@x.example> NOTIFY=NEVER\r\nRSET\r\nVRFY a\r\nSTARTTLS\r\n"), 50)
	f.Add([]byte("EHLO c.example\r\nAUTH PLAIN AGJveAByaWdodA==\r\nAUTH PLAIN AGJveAByaWdodA==\r\n"), 33)
	f.Add([]byte("EHLO c.example\r\nAUTH PLAIN\r\nAGJveAByaWdodA==\r\nMAIL FROM:<a@x.example> AUTH=<>\r\nAUTH PLAIN\r\n"), 28)
	f.Add([]byte("EHLO c.example\r\nAUTH PLAIN\r\n*\r\nAUTH PLAIN =\r\nAUTH PLAIN !\r\nAUTH LOGIN\r\n"), 28)
	s := New(options(nil, Limits{MessageBytes: 4096, SoftErrors: 1000, HardErrors: 1000, AuthErrors: 1000, Junk: 1000}))
	f.Cleanup(func() { stop(s) })
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if len(in) > 20000 {
			return
		}
		w, out := play(t, s, in, max(1, piece))
		for _, m := range w.messages {
			rest := bytes.ReplaceAll(m, []byte("\r\n"), nil)
			if bytes.ContainsAny(rest, "\r\n\x00") || len(m) > 4096 || len(m) > 0 && !bytes.HasSuffix(m, []byte("\r\n")) {
				t.Errorf("message %q was taken", m)
			}
		}
		if ends := bytes.Count(in, []byte("\n.\r\n")) + bytes.Count(bytes.ToUpper(in), []byte("LAST\r\n")); len(w.messages) > ends {
			t.Errorf("%d messages out of %d ends in %q", len(w.messages), ends, in)
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\r\n"), "\r\n") {
			if m := replyLine.FindStringSubmatch(line); m == nil || m[2] != m[3] {
				t.Errorf("answer %q", line)
			}
		}
	})
}

// FuzzAddress: what CheckAddress takes survives the way through a command.
func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a@x.example", "a.b+c@x-y.example", `"a"@x`, "a@[::1]", "a@b@c", "a@x..y", "\u00e4@x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckAddress(s) != nil {
			return
		}
		address, rest, fault := cutPath("TO:<"+s+"> NOTIFY=NEVER", "TO:")
		if fault != nil || address != s || rest != " NOTIFY=NEVER" || pathFault(s) != nil {
			t.Fatalf("%q became %q and %q, %v", s, address, rest, fault)
		}
		if strings.ContainsAny(s, "<>\" \r\n\t\x00\\") || strings.Count(s, "@") != 1 {
			t.Fatalf("%q passed", s)
		}
	})
}

// chop gives a body its bytes in pieces.
type chop struct {
	rest  []byte
	piece int
}

func (c *chop) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.piece, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

// readBody reads one message out of in, which comes in pieces.
func readBody(in []byte, piece int, chunked bool) (content []byte, left int, err error) {
	src := &input{}
	src.init(&chop{in, piece})
	b := &body{in: src, max: 1 << 20, line: 998, start: true, chunked: chunked, left: int64(len(in)), last: true}
	content, err = io.ReadAll(b)
	return content, src.buffered() + len(src.src.(*chop).rest), err
}

// FuzzBody holds the body's scanner, at any division of its input into reads,
// against a reader that goes byte by byte.
func FuzzBody(f *testing.F) {
	for _, end := range smuggling {
		f.Add([]byte("first"+end+"second\r\n.\r\nNOOP\r\n"), 3, false)
		f.Add([]byte("first"+end+"\r\n"), 2, true)
	}
	f.Add([]byte("..\r\n...\r\n.x\r\n\r\n.\r\nRSET"), 1, false)
	f.Add([]byte("\r\r\n.\r\n"), 1, false)
	f.Fuzz(func(t *testing.T, in []byte, piece int, chunked bool) {
		content, left, err := readBody(in, max(1, min(piece, 5000)), chunked)
		want, wantLeft, ok := plainly(in, chunked)
		if (err == nil) != ok {
			t.Fatalf("%q: %v, want a clean message: %v", in, err, ok)
		}
		if ok && (!bytes.Equal(content, want) || left != wantLeft) {
			t.Fatalf("%q: %q and %d bytes left, want %q and %d", in, content, left, want, wantLeft)
		}
	})
}

// plainly says what is clean, as simply as it can be said.
func plainly(in []byte, chunked bool) (content []byte, left int, ok bool) {
	if !chunked {
		end := bytes.Index(append([]byte("\r\n"), in...), []byte("\r\n.\r\n"))
		if end < 0 {
			return nil, 0, false
		}
		in, left = in[:end], len(in)-end-3
	}
	for line := range bytes.SplitAfterSeq(in, []byte("\r\n")) {
		text, ended := bytes.CutSuffix(line, []byte("\r\n"))
		if !ended && len(line) > 0 || bytes.ContainsAny(text, "\r\n\x00") {
			return nil, 0, false
		}
		if !chunked {
			line = bytes.TrimPrefix(line, []byte("."))
			text = bytes.TrimPrefix(text, []byte("."))
		}
		if len(text) > 998 {
			return nil, 0, false
		}
		content = append(content, line...)
	}
	return content, left, len(content) <= 1<<20
}
