package queue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// Lookup keys find the traces of messages by what people and confirmations know: a
// message-id, an address. They stand in the index hashed, sorted by age in steps of a
// bucket, then by hash, then by ID. So Expire deletes all buckets that are too old
// as one range, and Find seeks twice in each bucket that is kept.
const (
	// bucketBits: a bucket is 2^29 ms, about 6 days. Keys outlive their trace by at most
	// that; Find does not name such messages.
	bucketBits  = 29
	bucketBytes = 3
	hashBytes   = 16
)

// MaxFind bounds how many messages one call of Find names.
const MaxFind = 1000

// checkKeys reports the first limit that lookup keys break.
func checkKeys(keys []string) error {
	if len(keys) > MaxKeys {
		return fmt.Errorf("%w: %d lookup keys, at most %d", ErrInvalid, len(keys), MaxKeys)
	}
	for _, key := range keys {
		if key == "" || len(key) > MaxText {
			return fmt.Errorf("%w: lookup key of %d bytes, want 1 to %d", ErrInvalid, len(key), MaxText)
		}
	}
	return nil
}

// bucketOf is the bucket of a message's lookup keys.
func bucketOf(id [idBytes]byte) uint64 {
	return binary.BigEndian.Uint64(id[:8]) >> 16 >> bucketBits
}

// bucketKey is the start of all lookup keys of a bucket.
func bucketKey(bucket uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{keyLookup}, bucket<<(64-8*bucketBytes))
	return b[:1+bucketBytes]
}

// lookupKey is the start of the lookup keys of one text within a bucket.
func lookupKey(bucket uint64, text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return append(bucketKey(bucket), sum[:hashBytes]...)
}

// lookupLength is the length of a whole lookup key.
const lookupLength = 1 + bucketBytes + hashBytes + idBytes

// parseLookup reads bucket and ID of a lookup key.
func parseLookup(key []byte) (bucket uint64, id [idBytes]byte, ok bool) {
	if len(key) != lookupLength || key[0] != keyLookup {
		return 0, id, false
	}
	for _, b := range key[1 : 1+bucketBytes] {
		bucket = bucket<<8 | uint64(b)
	}
	copy(id[:], key[1+bucketBytes+hashBytes:])
	return bucket, id, true
}

func (t *txn) addKeys(id [idBytes]byte, keys []string) {
	for _, key := range keys {
		t.set(append(lookupKey(bucketOf(id), key), id[:]...), nil)
	}
}

// expireKeys deletes the buckets that lie wholly before at.
func (t *txn) expireKeys(at time.Time) error {
	return t.batch.DeleteRange([]byte{keyLookup}, bucketKey(bucketOf(firstIDAt(at))), nil)
}

// Find names the messages that were committed with this lookup key and whose trace
// is kept, newest first, at most limit of them (and at most MaxFind).
func (q *Queue) Find(key string, limit int) ([]ID, error) {
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	limit = min(limit, MaxFind)
	var found []ID
	err := q.store.iterate([]byte{keyLookup}, prefixEnd(keyLookup), func(it *pebble.Iterator) error {
		for ok := it.Last(); ok; {
			bucket, _, _ := parseLookup(it.Key())
			prefix := lookupKey(bucket, key)
			end := append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, idBytes+1)...)
			for ok = it.SeekLT(end); ok && bytes.HasPrefix(it.Key(), prefix); ok = it.Prev() {
				if len(found) >= limit {
					return nil
				}
				if _, id, ok := parseLookup(it.Key()); ok && q.traced(id) {
					found = append(found, idFrom(id))
				}
			}
			ok = it.SeekLT(bucketKey(bucket))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("queue find: %w", err)
	}
	return found, nil
}

// traced reports whether a message's trace is kept. In doubt it says yes: whoever
// asks for the trace then gets the error.
func (q *Queue) traced(id [idBytes]byte) bool {
	_, err := q.store.get(traceKey(id, 0))
	return !errors.Is(err, ErrUnknown)
}
