package demail

import (
	"bytes"
	"fmt"
	"hash"
	"io"
)

// bodyHasher hashes a body in canonical form "simple" (RFC 6376 §3.4.3) as it
// streams past: empty lines at the end count as one CRLF, and so does an empty
// body. It holds back only a count of line ends, never bytes.
type bodyHasher struct {
	h     hash.Hash
	crlfs int  // held back, until something follows
	cr    bool // a CR ended the last chunk
}

// Write never fails.
func (b *bodyHasher) Write(p []byte) (int, error) {
	n := len(p)
	if b.cr && n > 0 {
		b.cr = false
		if p[0] == '\n' {
			b.crlfs++
			p = p[1:]
		} else {
			b.release()
			b.h.Write(crlf[:1])
		}
	}
	end := len(p)
	if end > 0 && p[end-1] == '\r' {
		b.cr = true
		end--
	}
	held := 0
	for bytes.HasSuffix(p[:end], crlf) {
		held++
		end -= len(crlf)
	}
	if end > 0 {
		b.release()
		b.h.Write(p[:end])
	}
	b.crlfs += held
	return n, nil
}

// release hashes the line ends that turned out not to be the last ones.
func (b *bodyHasher) release() {
	if b.crlfs == 1 { // almost always: bodies come line by line
		b.h.Write(crlf)
		b.crlfs = 0
		return
	}
	for b.crlfs > 0 {
		k := min(crlfRun, b.crlfs)
		b.h.Write(manyCRLF[:k*len(crlf)])
		b.crlfs -= k
	}
}

// crlfRun line ends are hashed at a time.
const crlfRun = 512

var manyCRLF = bytes.Repeat(crlf, crlfRun)

// sum ends the body and gives its hash.
func (b *bodyHasher) sum() []byte {
	if b.cr {
		b.release()
		b.h.Write(crlf[:1])
	}
	b.h.Write(crlf)
	return b.h.Sum(nil)
}

// hashBody reads body to its end; nil is an empty body.
func hashBody(newHash func() hash.Hash, body io.Reader) ([]byte, error) {
	b := &bodyHasher{h: newHash()}
	if body != nil {
		if _, err := io.CopyBuffer(b, onlyReader{body}, make([]byte, 64<<10)); err != nil {
			return nil, fmt.Errorf("hash body: %w", err)
		}
	}
	return b.sum(), nil
}

// onlyReader hides WriterTo, by which a source could hand over chunks of its own size.
type onlyReader struct{ io.Reader }

// BodyDigest is the hash of a body in the canonical form that the integrity field
// uses for bh= (TR-01201-3.4 §3.1.21), computed while the body streams past: with
// it what was sent is found again by what a confirmation says of it.
type BodyDigest struct{ b bodyHasher }

// NewBodyDigest begins a body; h is the hash, new.
func NewBodyDigest(h hash.Hash) *BodyDigest { return &BodyDigest{bodyHasher{h: h}} }

// Write takes the next bytes of the body. It never fails.
func (d *BodyDigest) Write(p []byte) (int, error) { return d.b.Write(p) }

// Sum ends the body and gives its hash; nothing may be written behind it.
func (d *BodyDigest) Sum() []byte { return d.b.sum() }
