package relay

import (
	"crypto/sha256"
	"errors"
	"io"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// dataBody is, in the trace of an outgoing message, its body as it was handed over,
// hashed as bodyKey has it.
const dataBody = "body"

// content hashes the body of an outgoing message while it is handed over, in the form
// that the integrity field will have: what a confirmation says of it leads back to
// it. The sender need not wait for that before the 250, and what counts is what the
// provider got.
type content struct {
	ends   int // bytes of the empty line that have been seen in a row; 4: the body has begun
	digest *demail.BodyDigest
	whole  bool
}

func newContent() *content { return &content{digest: demail.NewBodyDigest(sha256.New())} }

// read takes what a reader of the message gave.
func (c *content) read(p []byte, err error) {
	for i := 0; c.ends < len(emptyLine) && i < len(p); i++ {
		switch {
		case p[i] == emptyLine[c.ends]:
			c.ends++
		case p[i] == emptyLine[0]:
			c.ends = 1
		default:
			c.ends = 0
		}
		if c.ends == len(emptyLine) {
			p = p[i+1:]
			break
		}
	}
	if c.ends == len(emptyLine) {
		_, _ = c.digest.Write(p)
	}
	c.whole = c.whole || errors.Is(err, io.EOF)
}

// emptyLine ends a header (RFC 5322 §2.1).
const emptyLine = "\r\n\r\n"

// tell puts the hash into what is recorded of an attempt that handed the message over.
func (c *content) tell(e *queue.Envelope, o *queue.Outcome) {
	if !c.whole {
		return
	}
	key := bodyKey(c.digest.Sum())
	o.Keys = append(o.Keys, key, ownKey(e.Tenant, queue.Out, key))
	o.Notes = append(o.Notes, queue.Note{ID: e.ID, Event: queue.Event{Kind: queue.Noted, Recipient: -1,
		Data: map[string]string{dataBody: strings.TrimPrefix(key, "body:")}}})
}
