// Package dsn writes and reads delivery status notifications: what became of a message, for
// its sender, as a multipart/report (RFC 3462) with a message/delivery-status part
// (RFC 3464).
//
// What it promises:
//
//   - A Report is written as one RFC 5322 message with CRLF line ends, lines of at
//     most 998 octets and ASCII headers; only the returned content may be 8-bit, and
//     Written says so, for BODY=8BITMIME.
//   - The text comes in the reader's language first and in the other one below it
//     (German, English).
//   - Values that came from outside (addresses, replies) cannot break out of
//     their line.
//   - Original-Recipient and Original-Envelope-Id appear as the sender gave them
//     (RFC 3461 §6.3), addresses beyond ASCII as RFC 6533 §3 writes them.
//   - Parse reads a delivery status of anybody within bounds, and what Report
//     writes as it was meant.
//
// What it does not do: decide who gets a report. Wanted answers what NOTIFY says
// (RFC 3461 §4.1); the null reverse-path, RET and the envelope are the caller's.
package dsn

import (
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"
	"time"
)

// Action is what a report tells of a recipient (RFC 3464 §2.3.3).
type Action string

// Actions.
const (
	Failed    Action = "failed"
	Delayed   Action = "delayed"
	Delivered Action = "delivered"
	Relayed   Action = "relayed"  // on to a server that cannot report further (RFC 3461 §6.2.2)
	Expanded  Action = "expanded" // to a list; others report so, we never do
)

// Recipient is one recipient's part of a report.
type Recipient struct {
	Address    string // final recipient
	Original   string // ORCPT as given ("rfc822;a@x"), or ""
	Action     Action
	Status     string // enhanced code, "5.1.1"
	RemoteMTA  string // next hop that answered, or ""
	Diagnostic string // its answer ("550 5.1.1 no such user") or our own reason, or ""
	Remote     bool   // Diagnostic is an SMTP answer
	Last       time.Time
	RetryUntil time.Time // for Delayed
}

// Report is a notification to be written.
type Report struct {
	ID       string // makes Message-ID and boundary; the report's own queue id
	Hostname string // of this box: Reporting-MTA
	From     string // address in the report's From field
	To       string // address of the reader, "" never
	Language string // "de" or "en": which text comes first
	Date     time.Time

	ENVID      string    // original envelope id, or ""
	QueueID    string    // of the message that the report is about
	Arrival    time.Time // of that message
	Subject    string    // overrides the subject; ASCII; "" for the usual one
	Note       Note      // one more paragraph, both languages, or zero
	Recipients []Recipient

	// Header is the original's header block; Content, if not nil, is its body, and
	// the whole message is returned then (RET=FULL).
	Header   []byte
	Content  io.Reader
	EightBit bool // the returned part has 8-bit content
}

// Note is a paragraph in both languages.
type Note struct{ German, English string }

// Wanted reports whether a recipient with this NOTIFY parameter (comma-separated,
// "" if none was given) wants a report of this action. Without the parameter
// failures and delays are reported (RFC 3461 §4.1).
func Wanted(notify string, a Action) bool {
	if notify == "" {
		return a == Failed || a == Delayed
	}
	keyword := map[Action]string{Failed: "FAILURE", Delayed: "DELAY", Delivered: "SUCCESS", Relayed: "SUCCESS"}[a]
	for word := range strings.SplitSeq(notify, ",") {
		if strings.EqualFold(word, keyword) {
			return true
		}
	}
	return false
}

// Write writes the report.
func (r *Report) Write(w io.Writer) error {
	out := &lines{w: w}
	boundary := "=_report_" + r.ID
	r.header(out, boundary)
	out.line("")
	out.line("--%s", boundary)
	out.line("Content-Type: text/plain; charset=utf-8")
	out.line("Content-Transfer-Encoding: quoted-printable")
	out.line("")
	r.text(out)
	out.line("")
	out.line("--%s", boundary)
	out.line("Content-Type: message/delivery-status")
	out.line("")
	r.status(out)
	out.line("--%s", boundary)
	r.returned(out)
	out.line("")
	out.line("--%s--", boundary)
	return out.err
}

func (r *Report) header(out *lines, boundary string) {
	out.line("Date: %s", r.Date.Format(time.RFC1123Z))
	out.line("From: De-Mail-Gateway <%s>", clean(r.From))
	out.line("To: <%s>", clean(r.To))
	out.line("Subject: %s", r.subject())
	out.line("Message-ID: <%s.report@%s>", r.ID, r.Hostname)
	out.line("Auto-Submitted: auto-replied")
	out.line("MIME-Version: 1.0")
	out.line("Content-Type: multipart/report; report-type=delivery-status;")
	out.line("\tboundary=\"%s\"", boundary)
}

func (r *Report) subject() string {
	if r.Subject != "" {
		return clean(r.Subject)
	}
	german := map[Action]string{Failed: "De-Mail nicht zugestellt", Delayed: "=?utf-8?Q?De-Mail_verz=C3=B6gert?=",
		Delivered: "De-Mail zugestellt", Relayed: "De-Mail weitergegeben"}
	english := map[Action]string{Failed: "De-Mail not delivered", Delayed: "De-Mail delayed", Delivered: "De-Mail delivered", Relayed: "De-Mail relayed"}
	a := r.worst()
	if r.Language == "en" {
		return english[a] + " (" + r.QueueID + ")"
	}
	return german[a] + " (" + r.QueueID + ")"
}

// worst is the action that the subject speaks of.
func (r *Report) worst() Action {
	for _, a := range []Action{Failed, Delayed, Relayed} {
		for i := range r.Recipients {
			if r.Recipients[i].Action == a {
				return a
			}
		}
	}
	return Delivered
}

func (r *Report) text(out *lines) {
	qp := quotedprintable.NewWriter(out)
	first, second := r.german, r.english
	if r.Language == "en" {
		first, second = second, first
	}
	fmt.Fprint(qp, first(), "\r\n-- \r\n\r\n", second())
	if err := qp.Close(); err != nil && out.err == nil {
		out.err = err
	}
}

func (r *Report) status(out *lines) {
	out.line("Reporting-MTA: dns;%s", clean(r.Hostname))
	if r.ENVID != "" {
		out.line("Original-Envelope-Id: %s", clean(r.ENVID))
	}
	if !r.Arrival.IsZero() {
		out.line("Arrival-Date: %s", r.Arrival.Format(time.RFC1123Z))
	}
	for i := range r.Recipients {
		out.line("")
		r.Recipients[i].status(out)
	}
	out.line("")
}

func (r *Recipient) status(out *lines) {
	if r.Original != "" {
		kind, address, _ := strings.Cut(r.Original, ";")
		out.line("Original-Recipient: %s", typed(kind, address))
	}
	out.line("Final-Recipient: %s", typed(mailType, r.Address))
	out.line("Action: %s", r.Action)
	out.line("Status: %s", clean(r.Status))
	if r.RemoteMTA != "" {
		out.line("Remote-MTA: dns;%s", clean(r.RemoteMTA))
	}
	if r.Diagnostic != "" {
		kind := "x-pforte"
		if r.Remote {
			kind = "smtp"
		}
		out.line("Diagnostic-Code: %s;%s", kind, clean(r.Diagnostic))
	}
	if !r.Last.IsZero() {
		out.line("Last-Attempt-Date: %s", r.Last.Format(time.RFC1123Z))
	}
	if !r.RetryUntil.IsZero() {
		out.line("Will-Retry-Until: %s", r.RetryUntil.Format(time.RFC1123Z))
	}
}

// returned is the third part: the header, or the whole message. A header block
// that does not end in CRLF gets one; the copy is for people.
func (r *Report) returned(out *lines) {
	kind, encoding := "text/rfc822-headers", "7bit"
	if r.Content != nil {
		kind = "message/rfc822"
	}
	if r.EightBit {
		encoding = "8bit"
	}
	out.line("Content-Type: %s", kind)
	out.line("Content-Transfer-Encoding: %s", encoding)
	out.line("")
	out.raw(r.Header)
	if r.Content != nil && out.err == nil {
		_, out.err = io.Copy(out, r.Content)
	}
}

// lines writes CRLF lines and keeps the first error.
type lines struct {
	w   io.Writer
	err error
}

func (l *lines) line(format string, args ...any) {
	l.raw(fmt.Appendf(nil, format+"\r\n", args...))
}

func (l *lines) raw(b []byte) {
	if l.err == nil {
		_, l.err = l.w.Write(b)
	}
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	if l.raw(b); l.err != nil {
		return 0, l.err
	}
	return len(b), nil
}

// longestValue bounds a value from outside, within the 998 octets of a line.
const longestValue = 800

// clean keeps a value from outside on its line and in ASCII.
func clean(s string) string {
	if len(s) > longestValue {
		s = s[:longestValue]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s))
}
