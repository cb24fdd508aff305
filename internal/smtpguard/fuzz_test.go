package smtpguard

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// witness is a session that notes what reaches it and complains about what never
// may.
type witness struct {
	t        *testing.T
	mail     bool
	rcpts    int
	messages [][]byte
}

func (w *witness) Admit(context.Context, *Peer) (Session, error) { return w, nil }

func (w *witness) Mail(from string, _ *smtp.MailOptions) error {
	if w.mail {
		w.t.Error("MAIL in a transaction")
	}
	if from != "" && CheckAddress(from) != nil {
		w.t.Errorf("sender %q", from)
	}
	w.mail, w.rcpts = true, 0
	return nil
}

func (w *witness) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !w.mail {
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
	if !w.mail || w.rcpts == 0 {
		w.t.Error("DATA without a recipient")
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	w.messages = append(w.messages, b)
	return "taken", nil
}

func (w *witness) Reset() { w.mail, w.rcpts = false, 0 }
func (w *witness) Close() {}

// play gives one connection the bytes of in, in pieces, and returns what it said.
func play(t *testing.T, in []byte, piece int) (w *witness, out []byte) {
	w = &witness{t: t}
	s := New(options(w, Limits{MessageBytes: 4096, SoftErrors: 1000, HardErrors: 1000, Junk: 1000}))
	near, far := net.Pipe()
	c := newConn(s, far, Implicit)
	if err := s.enter(c); err != nil {
		t.Fatal(err)
	}
	c.session = w
	s.hand.give(c)
	go func() { // what follows the end of the conversation finds nobody
		for len(in) > 0 {
			n := min(piece, len(in))
			if _, err := near.Write(in[:n]); err != nil {
				return
			}
			in = in[n:]
		}
		_ = near.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // nothing comes once all is answered
	}()
	_ = near.SetReadDeadline(time.Now().Add(patience))
	out, err := io.ReadAll(near)
	if err != nil && !timedOut(err) && !errors.Is(err, io.ErrClosedPipe) {
		t.Fatal(err)
	}
	near.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.Shutdown(ctx)
	if ctx.Err() != nil {
		t.Fatal("the connection did not end")
	}
	return w, out
}

var replyLine = regexp.MustCompile(`^[2345][0-9][0-9][ -][ -~]*$`)

// FuzzSession: whatever bytes come, what reaches the session is in order and
// clean, and what leaves is SMTP.
func FuzzSession(f *testing.F) {
	const open = "EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<b@x.example>\r\nDATA\r\n"
	f.Add([]byte(open+"Subject: x\r\n\r\nx\r\n.\r\nQUIT\r\n"), 7)
	for _, end := range smuggling {
		f.Add([]byte(open+"x"+end+"MAIL FROM:<m@x.example>\r\nRCPT TO:<v@x.example>\r\nDATA\r\nx\r\n.\r\n"), 3)
	}
	f.Add([]byte("EHLO c.example\r\nMAIL FROM:<a@x.example>\r\nBDAT 5 LAST\r\nhello"), 100)
	f.Add([]byte("HELO c.example\r\nMAIL FROM:<\"a> SIZE=1\"@x.example>\r\nRCPT TO:<@r:b@x.example>\r\nAUTH PLAIN AGJveAByaWdodA==\r\n"), 1)
	f.Add([]byte("EHLO c.example\r\nMAIL FROM:<> BODY=8BITMIME RET=HDRS ENVID=x+2B\r\nRCPT TO:<no@x.example> NOTIFY=NEVER\r\nRSET\r\nVRFY a\r\nSTARTTLS\r\n"), 50)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if len(in) > 20000 {
			return
		}
		w, out := play(t, in, max(1, piece))
		for _, m := range w.messages {
			rest := bytes.ReplaceAll(m, []byte("\r\n"), nil)
			if bytes.ContainsAny(rest, "\r\n\x00") || len(m) > 4096 || len(m) > 0 && !bytes.HasSuffix(m, []byte("\r\n")) {
				t.Errorf("message %q was taken", m)
			}
		}
		if ends := bytes.Count(in, []byte("\r\n.\r\n")) + bytes.Count(in, []byte("\n.\r\n")); len(w.messages) > ends {
			t.Errorf("%d messages out of %d ends in %q", len(w.messages), ends, in)
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\r\n"), "\r\n") {
			if line != "" && !replyLine.MatchString(line) {
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
		line, fault := path("TO:<"+s+"> NOTIFY=NEVER", "TO:", false)
		if fault != nil || line != "TO:<"+s+"> NOTIFY=NEVER" {
			t.Fatalf("%q became %q, %v", s, line, fault)
		}
		if strings.ContainsAny(s, "<>\" \r\n\t\x00\\") || strings.Count(s, "@") != 1 {
			t.Fatalf("%q passed", s)
		}
	})
}
