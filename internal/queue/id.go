package queue

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ID names one message for its whole life. It is 26 characters of Crockford's
// base 32: 48 bits of Unix milliseconds, then 80 random bits, so that IDs sort
// by the time they were made. Within one process they strictly increase.
type ID string

// idText is the length of an ID, idBytes of its binary form in keys.
const (
	idText  = 26
	idBytes = 16
)

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// errID is returned for text that is no ID.
var errID = errors.New("not a queue id")

// ParseID checks that s is an ID in its one canonical form.
func ParseID(s string) (ID, error) {
	if _, err := ID(s).binary(); err != nil {
		return "", err
	}
	return ID(s), nil
}

// Time is when the ID was made, to the millisecond; zero if it is no ID.
func (id ID) Time() time.Time {
	b, err := id.binary()
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b[:8]) >> 16))
}

// binary is the form that stands in keys; it sorts as the text does.
func (id ID) binary() (b [idBytes]byte, err error) {
	if len(id) != idText || id[0] > '7' {
		return b, fmt.Errorf("%w: %d characters", errID, len(id))
	}
	var hi, lo uint64
	for i := range idText {
		v := crockfordValue(id[i])
		if v < 0 {
			return b, fmt.Errorf("%w: character %d", errID, i+1)
		}
		hi = hi<<5 | lo>>59
		lo = lo<<5 | uint64(v)
	}
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return b, nil
}

func crockfordValue(c byte) int {
	for i := range len(crockford) {
		if crockford[i] == c {
			return i
		}
	}
	return -1
}

func idFrom(b [idBytes]byte) ID {
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	var text [idText]byte
	for i := idText - 1; i >= 0; i-- {
		text[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return ID(text[:])
}

// firstIDAt sorts before every ID made at t or later.
func firstIDAt(t time.Time) (b [idBytes]byte) {
	binary.BigEndian.PutUint64(b[:8], uint64(max(t.UnixMilli(), 0))<<16)
	return b
}

// idMaker makes IDs that strictly increase, also when the clock steps back.
type idMaker struct {
	mu   sync.Mutex
	last [idBytes]byte
}

// next makes an ID for now.
func (m *idMaker) next(now time.Time) ID {
	b := firstIDAt(now)
	_, _ = rand.Read(b[6:]) // never fails (crypto/rand)
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(b[:]) <= string(m.last[:]) {
		b = increment(m.last)
	}
	m.last = b
	return idFrom(b)
}

func increment(b [idBytes]byte) [idBytes]byte {
	for i := idBytes - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			break
		}
	}
	return b
}
