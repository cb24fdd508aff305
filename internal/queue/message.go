package queue

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits of one message. Commit refuses what exceeds them, so that a record
// can always be read back within known memory.
const (
	MaxRecipients = 1000
	// MaxAddress is the longest address in bytes (RFC 5321 4.5.3.1.3 says 256
	// with the brackets; RFC 6531 counts bytes of UTF-8).
	MaxAddress = 320
	// MaxText bounds each other text of an envelope: ENVID, ORCPT, names, replies.
	MaxText = 1024
	// MaxPrefix bounds the header fields that are put on top of the body.
	MaxPrefix = 64 << 10
	// MaxAttributes bounds the relay's own notes on a message.
	MaxAttributes = 32
	// MaxKeys bounds the lookup keys of a message: two for each recipient, and some.
	MaxKeys = 2*MaxRecipients + 16
	// MaxNotes bounds the events that one call writes into the traces of others.
	MaxNotes = 2 * MaxRecipients
)

// Direction says which way a message goes.
type Direction string

// Directions.
const (
	Out Direction = "out" // from a tenant to the provider
	In  Direction = "in"  // from the provider to a tenant
)

// Class is a tenant's own order of precedence: within a tenant and next hop, due
// messages of a lower class go first.
type Class uint8

// Classes.
const (
	Urgent Class = iota // single letters, reports
	Normal
	Bulk
	classes
)

// State is where a message stands with one recipient.
type State uint8

// States. Delivered and Failed are final.
const (
	Waiting   State = iota // will be tried at NextTry
	Delivered              // the next hop has taken it over
	Failed                 // given up; the relay has reported it
)

// String is for people and logs.
func (s State) String() string {
	switch s {
	case Waiting:
		return "waiting"
	case Delivered:
		return "delivered"
	case Failed:
		return "failed"
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Final reports whether nothing more will be tried.
func (s State) Final() bool { return s == Delivered || s == Failed }

// Reply is the last answer of the next hop, or our own verdict in its form.
// Text never holds message content.
type Reply struct {
	Code     int    // SMTP reply code, 0 if there was none
	Enhanced string // RFC 3463, "5.1.1"
	Text     string
}

// Recipient is one forward-path of a message and what became of it.
type Recipient struct {
	Address  string // canonical forward-path
	Original string // ORCPT of RFC 3461, "" if not given
	Notify   string // NOTIFY of RFC 3461, "" if not given

	State     State
	Attempts  int       // attempts begun
	Uncertain int       // of these: cut off, so the next hop may have taken the message
	NextTry   time.Time // while Waiting
	Last      Reply
	// DelaysTold is how many notices of delay its sender has got (Outcome.DelaysTold).
	DelaysTold int
}

// Envelope is everything about a message but its body. The relay fills it, hands
// it to Commit, and gets it back from Due.
type Envelope struct {
	ID        ID     // set by NewBody
	Tenant    string // whose message it is; fairness counts by it
	Direction Direction
	// Hop names the next hop: messages with the same Tenant and Hop wait in one
	// lane, and may share a connection.
	Hop        string
	Class      Class
	From       string // reverse-path, "" for the null one
	Recipients []Recipient

	ENVID    string // RFC 3461
	RET      string // RFC 3461: "", "FULL" or "HDRS"
	EightBit bool   // body is 8BITMIME (RFC 6152)
	UTF8     bool   // SMTPUTF8 (RFC 6531)

	Received time.Time // when it was accepted; retries and give-up count from it
	ReportOf ID        // the message that this report is about, or ""
	// Prefix is put in front of the body on delivery: trace fields that were not
	// known before the body's end. Size and Sum do not count it.
	Prefix []byte
	// Attributes are the relay's own notes, kept with the message and shown to
	// the operator: never content.
	Attributes map[string]string
	// Keys are what Find finds the message's trace by, as long as it is kept. Commit
	// and Finish store them hashed; they are not given back.
	Keys []string
	// Notes are events of other messages that become durable with this one (Commit
	// and Births only; not given back). Unknown messages are passed over.
	Notes []Note

	// Hold: it waits for the operator (Unhold or Bounce) and is not handed out. Set
	// it before Commit for quarantine. HoldReason is for the operator.
	Hold       bool
	HoldReason string
	// BounceReason, if not empty, tells whoever gets the message from Due not to try it,
	// but to let all waiting recipients fail for this reason (Bounce).
	BounceReason string
	// DeadReason, if not empty, says that and why it is a dead letter (List, Show).
	DeadReason string

	Size int64 // bytes of the body; set by Commit
	Sum  Sum   // of the body; set by Commit
}

// Result is what one attempt, or giving up, did to one recipient.
type Result struct {
	Recipient int       // index in Envelope.Recipients
	State     State     // Waiting after a temporary failure
	NextTry   time.Time // for Waiting
	Reply     Reply
}

// Birth is a message that comes into being in the batch that ends another:
// typically the report of a failure. Body comes from NewBody.
type Birth struct {
	Envelope *Envelope
	Body     *Body
}

// Outcome is what Finish records, in one batch.
type Outcome struct {
	// Results may leave out recipients: those stay as they are.
	Results []Result
	Births  []Birth
	// DelaysTold sets Recipient.DelaysTold by the recipient's index, in the same batch as
	// the notice, if that is one of Births.
	DelaysTold map[int]int
	// Keys are more lookup keys of the message, and Notes more events in its trace, or in
	// others': what the attempt brought to light.
	Keys  []string
	Notes []Note
	// Dead, if not empty, keeps the message with its body as a dead letter, for
	// this reason, whatever its recipients' states. Without it a message whose
	// recipients are all final is removed.
	Dead string
}

// Errors that callers test with errors.Is.
var (
	// ErrSick: the store has failed and takes nothing more; answer 421 and end
	// the process in good time, since only opening it anew can tell what is on disk.
	ErrSick = errors.New("queue store is sick")
	// ErrFull: too little disk space for another message; answer 452.
	ErrFull = errors.New("queue disk is full")
	// ErrTooLarge: the body exceeds the limit given to NewBody; answer 552.
	ErrTooLarge = errors.New("message is too large")
	// ErrInvalid: the envelope breaks a limit of this package.
	ErrInvalid = errors.New("invalid envelope")
	// ErrUnknown: there is no such message, or not in this state.
	ErrUnknown = errors.New("no such message")
	// ErrNotTaken: the message was not handed out by Due, or was given back.
	ErrNotTaken = errors.New("message is not taken")
	// ErrBusy: the message is being tried just now; ask again when that has ended.
	ErrBusy = errors.New("message is being tried")
	// ErrCorrupt: a record or body does not match its checksum or hash.
	ErrCorrupt = errors.New("corrupt")
	// ErrClosed: the queue was closed.
	ErrClosed = errors.New("queue is closed")
)

// check reports the first limit that e breaks.
func (e *Envelope) check() error {
	if _, err := e.ID.binary(); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if e.Direction != In && e.Direction != Out {
		return fmt.Errorf("%w: direction %q", ErrInvalid, e.Direction)
	}
	if e.Class >= classes {
		return fmt.Errorf("%w: class %d", ErrInvalid, e.Class)
	}
	if !laneName(e.Tenant) || !laneName(e.Hop) {
		return fmt.Errorf("%w: tenant and hop must have 1 to %d bytes, none of them zero", ErrInvalid, maxLaneName)
	}
	if n := len(e.Recipients); n == 0 || n > MaxRecipients {
		return fmt.Errorf("%w: %d recipients, want 1 to %d", ErrInvalid, n, MaxRecipients)
	}
	if len(e.Prefix) > MaxPrefix || len(e.From) > MaxAddress || len(e.ENVID) > MaxText || len(e.RET) > MaxText {
		return fmt.Errorf("%w: prefix, reverse-path, ENVID or RET is too long", ErrInvalid)
	}
	if e.ReportOf != "" {
		if _, err := e.ReportOf.binary(); err != nil {
			return fmt.Errorf("%w: report of: %w", ErrInvalid, err)
		}
	}
	if !storable(e.Received) {
		return fmt.Errorf("%w: time of receipt %v", ErrInvalid, e.Received)
	}
	for i := range e.Recipients {
		if err := e.Recipients[i].check(); err != nil {
			return fmt.Errorf("%w: recipient %d: %w", ErrInvalid, i+1, err)
		}
	}
	if err := checkKeys(e.Keys); err != nil {
		return err
	}
	return checkAttributes(e.Attributes)
}

// storable reports whether t fits a record: nanoseconds since 1970, to 2262.
func storable(t time.Time) bool { return t.Unix() >= 0 && t.Year() < 2262 }

// laneName reports whether s can stand in a lane's key.
func laneName(s string) bool {
	return s != "" && len(s) <= maxLaneName && !strings.Contains(s, "\x00")
}

func (r *Recipient) check() error {
	if r.Address == "" || len(r.Address) > MaxAddress {
		return fmt.Errorf("address of %d bytes, want 1 to %d", len(r.Address), MaxAddress)
	}
	if len(r.Original) > MaxText || len(r.Notify) > MaxText {
		return errors.New("ORCPT or NOTIFY is too long")
	}
	if !r.NextTry.IsZero() && !storable(r.NextTry) {
		return fmt.Errorf("next try %v", r.NextTry)
	}
	if r.State > Failed || r.Attempts < 0 || r.Uncertain < 0 || r.DelaysTold < 0 {
		return errors.New("bad state")
	}
	return nil
}

func checkAttributes(attributes map[string]string) error {
	if len(attributes) > MaxAttributes {
		return fmt.Errorf("%w: %d attributes, at most %d", ErrInvalid, len(attributes), MaxAttributes)
	}
	for name, value := range attributes {
		if name == "" || len(name) > MaxText || len(value) > MaxText {
			return fmt.Errorf("%w: attribute of %d and %d bytes", ErrInvalid, len(name), len(value))
		}
	}
	return nil
}

// clip shortens a reply's text to what a record takes.
func (r Reply) clip() Reply {
	r.Text, r.Enhanced = clip(r.Text, MaxText), clip(r.Enhanced, MaxText)
	r.Code = max(r.Code, 0)
	return r
}

// clip shortens s to at most n bytes, without half a character at the end.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
