package queue

import (
	"crypto/sha256"
	"fmt"
	"hash"

	"github.com/cespare/xxhash/v2"
)

// Sum is a body's check sum, by which a fault of the disk is noticed before the body
// is sent on. It does not guard against whoever can write in the queue's folder: they
// could write another sum as well. So it is XXH64, 8 bytes, big-endian; SHA-256,
// which the first releases wrote here (32 bytes), took a third of all CPU time
// for large mail. Evidence of the content is the relay's business.
type Sum string

// newSum begins the sum of a new body.
func newSum() hash.Hash { return xxhash.New() }

// begin begins a sum of s's kind.
func (s Sum) begin() (hash.Hash, error) {
	switch len(s) {
	case 8:
		return xxhash.New(), nil
	case sha256.Size:
		return sha256.New(), nil
	}
	return nil, fmt.Errorf("%w: check sum of %d bytes", ErrCorrupt, len(s))
}
