package queue

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"time"
)

// A record is a value of the index: kind, version, length of the payload (4
// bytes), payload, CRC-32C of all that (4 bytes), integers big-endian. So a
// record tells by itself whether it is whole and what it is.
//
// The payload is a list of fields: number (1 byte), length (uvarint), bytes.
// Fields with zero value are left out. A reader passes over numbers it does not
// know, so that a later release may add fields and an earlier one, after a
// failed update, still reads the rest. The version changes only when an earlier
// release must not read the record at all.
const (
	recordVersion = 1
	recordHead    = 6
	recordExtra   = recordHead + 4
	// maxRecord bounds a record: the largest is an envelope with every limit reached.
	maxRecord = 4 << 20
)

// encoder builds one record.
type encoder struct{ buf []byte }

func newRecord(kind byte) *encoder {
	e := &encoder{buf: make([]byte, recordHead, 256)}
	e.buf[0], e.buf[1] = kind, recordVersion
	return e
}

// seal puts in the length and adds the checksum. It is the last call.
func (e *encoder) seal() []byte {
	binary.BigEndian.PutUint32(e.buf[2:], uint32(len(e.buf)-recordHead))
	return binary.BigEndian.AppendUint32(e.buf, checksum(e.buf))
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func (e *encoder) bytes(field byte, b []byte) {
	if len(b) == 0 {
		return
	}
	e.buf = append(e.buf, field)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(b)))
	e.buf = append(e.buf, b...)
}

func (e *encoder) text(field byte, s string) {
	if s == "" {
		return
	}
	e.buf = append(e.buf, field)
	e.buf = binary.AppendUvarint(e.buf, uint64(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) uint(field byte, v uint64) {
	if v == 0 {
		return
	}
	e.buf = append(e.buf, field, 0)
	start := len(e.buf)
	e.buf = binary.AppendUvarint(e.buf, v)
	e.buf[start-1] = byte(len(e.buf) - start)
}

// time keeps nanoseconds since 1970; the zero time is left out.
func (e *encoder) time(field byte, t time.Time) {
	if !t.IsZero() {
		e.uint(field, uint64(t.UnixNano()))
	}
}

// nested adds a list of fields as one field, also when it is empty.
func (e *encoder) nested(field byte, fill func(*encoder)) {
	e.buf = append(e.buf, field, 0)
	start := len(e.buf)
	fill(e)
	n := len(e.buf) - start
	if n < 0x80 {
		e.buf[start-1] = byte(n)
		return
	}
	var length [binary.MaxVarintLen64]byte // of two bytes or more: what was filled in moves up
	size := binary.PutUvarint(length[:], uint64(n))
	e.buf = append(e.buf, length[1:size]...)
	copy(e.buf[start+size-1:], e.buf[start:start+n])
	copy(e.buf[start-1:], length[:size])
}

// openRecord checks the frame of a record and returns its payload.
func openRecord(kind byte, raw []byte) ([]byte, error) {
	if len(raw) < recordExtra || len(raw) > maxRecord {
		return nil, fmt.Errorf("%w: record of %d bytes", ErrCorrupt, len(raw))
	}
	body, sum := raw[:len(raw)-4], binary.BigEndian.Uint32(raw[len(raw)-4:])
	if int(binary.BigEndian.Uint32(raw[2:])) != len(raw)-recordExtra {
		return nil, fmt.Errorf("%w: record is torn", ErrCorrupt)
	}
	if checksum(body) != sum {
		return nil, fmt.Errorf("%w: record does not match its checksum", ErrCorrupt)
	}
	if raw[0] != kind || raw[1] != recordVersion {
		return nil, fmt.Errorf("%w: record %q of version %d, want %q of version %d", ErrCorrupt, raw[0], raw[1], kind, recordVersion)
	}
	return body[recordHead:], nil
}

// field is one field of a payload.
type field struct {
	number byte
	value  []byte
}

// eachField calls do with each field of payload. It stops at the first error.
func eachField(payload []byte, do func(f field) error) error {
	for len(payload) > 0 {
		n, used := binary.Uvarint(payload[1:])
		if used <= 0 || n > uint64(len(payload)-1-used) {
			return fmt.Errorf("%w: field %d runs over the record's end", ErrCorrupt, payload[0])
		}
		end := 1 + used + int(n)
		if err := do(field{payload[0], payload[1+used : end]}); err != nil {
			return err
		}
		payload = payload[end:]
	}
	return nil
}

func (f field) text() string { return string(f.value) }

func (f field) uint() (uint64, error) {
	v, n := binary.Uvarint(f.value)
	if n <= 0 || n != len(f.value) {
		return 0, fmt.Errorf("%w: field %d is no number", ErrCorrupt, f.number)
	}
	return v, nil
}

func (f field) int() (int, error) {
	v, err := f.uint()
	if err == nil && v > math.MaxInt32 {
		err = fmt.Errorf("%w: field %d is too large", ErrCorrupt, f.number)
	}
	return int(v), err
}

func (f field) time() (time.Time, error) {
	v, err := f.uint()
	if err == nil && v > math.MaxInt64 {
		err = fmt.Errorf("%w: field %d is no time", ErrCorrupt, f.number)
	}
	return time.Unix(0, int64(v)).UTC(), err
}
