// Package nexthop hands messages to the next server: a strict SMTP client over
// TLS (RFC 5321, RFC 3207, RFC 8314), and a Route that chooses among servers and
// keeps some of its connections open.
//
// What it promises:
//
//   - Nothing is sent in plain text but EHLO, STARTTLS and QUIT. A server without
//     STARTTLS, a failed handshake, or a certificate that the caller's tls.Config
//     refuses: a temporary failure, and no mail.
//   - The body arrives byte for byte: dots are stuffed after CRLF only, nothing is
//     converted or repaired (RFC 5321 §4.5.2). A body with a bare CR, bare LF or
//     NUL, or without CRLF at its end, is never sent to its end.
//   - The end mark is sent only after the body's reader returned io.EOF. Any other
//     error of the reader breaks the connection off, so that no torn message is
//     ever taken.
//   - A server that does not announce what a message needs (8BITMIME, SMTPUTF8,
//     SIZE) gets no such message: a permanent failure. Without DSN the parameters
//     of RFC 3461 stay here and the results say Relayed.
//   - Addresses are checked before they are written between angle brackets.
//   - Every read and write has a deadline of RFC 5321 §4.5.3.2; a server's answers
//     are bounded.
//   - A connection carries at most MaxReuseMessages messages and lives at most
//     MaxReuseAge. Every connection proves the server's certificate anew: TLS
//     sessions are not resumed, as package tlsprofile says.
//   - A server that could not be reached is tried last for a while; a fallback
//     gets mail only while no other server can be reached.
//
// Commands go out together as far as PIPELINING allows (RFC 2920): to a server that
// announces it, a message for a few recipients takes two writes and two answers'
// time. BDAT (RFC 3030) would not save another: content may only follow when some
// recipient has been accepted.
//
// What it does not do: DNS MX records, retries, BDAT, opportunistic TLS, AUTH.
//
// After the end mark was sent and no answer came, the outcome is unknown. The
// result is then Temporary with Unsure set: the caller sends again, because a
// duplicate is allowed and a loss is not.
package nexthop

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Mode says how a server comes to TLS.
type Mode int

// Modes.
const (
	StartTLS Mode = iota
	Implicit
)

// Server is one next hop.
type Server struct {
	Address string      // host:port
	Mode    Mode        // how it comes to TLS
	TLS     *tls.Config // with everything that decides whether the peer is the right one
	Helo    string      // our own host name

	Order    int  // lower ones are tried first
	Weight   int  // its share of the connections among those of the same Order
	Fallback bool // is tried only when no other server can be reached
}

// Recipient is one forward-path of a message.
type Recipient struct {
	Address  string
	Notify   string // RFC 3461 NOTIFY, "" if not given
	Original string // RFC 3461 ORCPT, decoded: "rfc822;a@b", "" if not given
}

// Message is what is to be handed over.
type Message struct {
	From       string // "" for the null reverse-path
	Recipients []Recipient
	ENVID, RET string // RFC 3461, ENVID decoded
	EightBit   bool
	UTF8       bool
	Size       int64
	// Open gives the content anew for each try. Its reader returns io.EOF only
	// behind a whole message.
	Open func() (io.ReadCloser, error)
}

// Outcome is what became of one recipient.
type Outcome int

// Outcomes.
const (
	Temporary Outcome = iota
	Permanent
	Delivered
)

// Result is the outcome for one recipient, with the answer that decided it.
type Result struct {
	Outcome Outcome
	Reply   Reply
	Server  string // who answered, "" if nobody did
	Relayed bool   // Delivered to a server that does not report further
	Unsure  bool   // Temporary, but the server may have taken it
	Lost    bool   // Temporary: no server could be reached, or the connection broke
}

// Reply is an answer of a server, or our own reason in its form (Code 0).
type Reply struct {
	Code     int
	Enhanced string // "5.1.1"; made up from Code if the server gave none
	Text     string // printable ASCII, at most maxReplyText bytes
}

func (r Reply) String() string {
	if r.Code == 0 {
		return strings.TrimSpace(r.Enhanced + " " + r.Text)
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text))
}

// Failure is an error with the verdict for every recipient it concerns.
type Failure struct {
	Outcome Outcome // Temporary or Permanent
	Reply   Reply
	Server  string
	Unsure  bool
	Lost    bool // says something about the server, not about the message
	Cause   error
}

func (f *Failure) Error() string {
	s := "next hop"
	if f.Server != "" {
		s += " " + f.Server
	}
	return s + ": " + f.Reply.String()
}

func (f *Failure) Unwrap() error { return f.Cause }

// own is a verdict of ours.
func own(o Outcome, enhanced, format string, args ...any) *Failure {
	return &Failure{Outcome: o, Reply: Reply{Enhanced: enhanced, Text: printable(fmt.Sprintf(format, args...))}}
}

// ResultsOf makes the same result for n recipients of an error; one that is no
// *Failure counts as temporary, and as said about the server.
func ResultsOf(err error, n int) []Result {
	r := Result{Reply: Reply{Enhanced: "4.4.0", Text: printable(err.Error())}, Lost: true}
	if f, ok := err.(*Failure); ok {
		r = Result{Outcome: f.Outcome, Reply: f.Reply, Server: f.Server, Unsure: f.Unsure, Lost: f.Lost}
	}
	all := make([]Result, n)
	for i := range all {
		all[i] = r
	}
	return all
}

// Limits are the time bounds of RFC 5321 §4.5.3.2; zero fields mean its values.
type Limits struct {
	Connect   time.Duration // and TLS handshake; default 30 s
	Greeting  time.Duration // 5 min
	Command   time.Duration // EHLO, MAIL, RCPT, RSET: 5 min
	DataStart time.Duration // 2 min
	DataBlock time.Duration // per write of at most 64 KiB: 3 min
	DataEnd   time.Duration // 10 min
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&l.Connect, 30 * time.Second}, {&l.Greeting, 5 * time.Minute}, {&l.Command, 5 * time.Minute},
		{&l.DataStart, 2 * time.Minute}, {&l.DataBlock, 3 * time.Minute}, {&l.DataEnd, 10 * time.Minute},
	} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	return l
}

// Bounds.
const (
	maxReplyText  = 400
	maxReplyLine  = 2048 // RFC 5321 §4.5.3.1.5 says 512; some servers say more
	maxReplyLines = 128
	// pipelineGroup is how many RCPT commands are sent before answers are read:
	// few enough that neither side's socket buffers can fill up (RFC 2920 §3.1).
	pipelineGroup = 50
	// firstGroup goes out together with MAIL. It is small, because servers count
	// errors, and each is one if MAIL is refused.
	firstGroup  = 5
	writeBuffer = 16 << 10
	// copyBuffer is how much of a body is read and written at once, gatherBuffer what
	// that becomes under TLS. Both are shared by all connections.
	copyBuffer   = 64 << 10
	gatherBuffer = copyBuffer + 4<<10
)

var copyBuffers, gatherBuffers sync.Pool // of *[]byte

// printable keeps an answer fit for logs and reports.
func printable(s string) string {
	if len(s) > maxReplyText {
		s = s[:maxReplyText]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
