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
	const run = 512
	if b.crlfs == 0 {
		return
	}
	block := bytes.Repeat(crlf, min(run, b.crlfs))
	for b.crlfs > 0 {
		k := min(run, b.crlfs)
		b.h.Write(block[:k*len(crlf)])
		b.crlfs -= k
	}
}

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
