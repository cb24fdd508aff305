package queue

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"time"
)

// The first byte of each key in the index. See the package comment.
const (
	keyCounts     = 'c' // c tenant
	keyMessage    = 'm' // m id
	keyState      = 's' // s id
	keyInline     = 'b' // b id
	keyFile       = 'f' // f id
	keyDue        = 'd' // d tenant 0 hop 0 class due id
	keyProgress   = 'p' // p id
	keyDead       = 'x' // x id
	keyQuarantine = 'z' // z and the key of the bad record
	keyTrace      = 't' // t id number, or t id 0x80 id for notes
	keyHeld       = 'h' // h id
	keyLookup     = 'k' // k bucket hash id
)

// maxLaneName bounds a tenant's or next hop's name in a key.
const maxLaneName = 253

func idKey(kind byte, id [idBytes]byte) []byte {
	return append([]byte{kind}, id[:]...)
}

// keyID reads the ID of a key made by idKey (or of one that begins like it).
func keyID(key []byte) (id [idBytes]byte, ok bool) {
	if len(key) < 1+idBytes {
		return id, false
	}
	copy(id[:], key[1:])
	return id, true
}

func traceKey(id [idBytes]byte, number uint64) []byte {
	return binary.BigEndian.AppendUint32(idKey(keyTrace, id), uint32(number))
}

func countsKey(tenant string) []byte { return append([]byte{keyCounts}, tenant...) }

func quarantineKey(key []byte) []byte { return append([]byte{keyQuarantine}, key...) }

// laneKey is the common start of a lane's due keys.
func laneKey(tenant, hop string) string {
	return string(keyDue) + tenant + "\x00" + hop + "\x00"
}

// laneNames is the inverse of laneKey.
func laneNames(key string) (tenant, hop string) {
	tenant, hop, _ = strings.Cut(strings.TrimSuffix(key[1:], "\x00"), "\x00")
	return tenant, hop
}

// dueKey is the place of a message in its lane: by class, then due time in Unix
// milliseconds, then ID.
func dueKey(lane string, class Class, due int64, id [idBytes]byte) []byte {
	key := append([]byte(lane), byte(class))
	key = binary.BigEndian.AppendUint64(key, uint64(max(due, 0)))
	return append(key, id[:]...)
}

// dueTail is the length of a due key behind its lane.
const dueTail = 1 + 8 + idBytes

type dueEntry struct {
	lane  string
	class Class
	due   int64
	id    [idBytes]byte
	size  int64 // of the body; stands in the value
}

// dueEntry is the entry under which e waits for the time due.
func (e *Envelope) dueEntry(id [idBytes]byte, due int64) dueEntry {
	return dueEntry{lane: laneKey(e.Tenant, e.Hop), class: e.Class, due: due, id: id, size: e.Size}
}

// dueValue tells the size, so that a lane can be scanned without reading messages.
func dueValue(size int64) []byte { return binary.AppendUvarint(nil, uint64(max(size, 0))) }

// dueCost is what serving a due entry costs. The first release wrote no value.
func dueCost(value []byte) int64 {
	size, _ := binary.Uvarint(value)
	return messageCost + int64(min(size, math.MaxInt32))
}

// parseDue is the inverse of dueKey.
func parseDue(key []byte) (e dueEntry, ok bool) {
	n := len(key) - dueTail
	if n < 3 || key[0] != keyDue || key[n-1] != 0 || bytes.Count(key[:n], []byte{0}) != 2 {
		return e, false
	}
	e.lane = string(key[:n])
	e.class = Class(key[n])
	e.due = int64(binary.BigEndian.Uint64(key[n+1:]))
	copy(e.id[:], key[n+9:])
	return e, e.class < classes
}

// laneEnd sorts behind every key of the lane and before the next one's.
func laneEnd(lane string) []byte {
	end := []byte(lane)
	end[len(end)-1] = 1
	return end
}

// prefixEnd sorts behind every key that starts with kind.
func prefixEnd(kind byte) []byte { return []byte{kind + 1} }

// dueMillis rounds up, so that nothing is due before its time.
func dueMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	ms := t.UnixMilli()
	if t.After(time.UnixMilli(ms)) {
		ms++
	}
	return max(ms, 0)
}
