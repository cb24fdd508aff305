package queue

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Field numbers of the records. A number is never used again for anything else.
const (
	fieldTenant     = 1
	fieldDirection  = 2
	fieldHop        = 3
	fieldClass      = 4
	fieldFrom       = 5
	fieldRecipient  = 6 // repeated; fields below
	fieldENVID      = 7
	fieldRET        = 8
	fieldEightBit   = 9
	fieldUTF8       = 10
	fieldReceived   = 11
	fieldReportOf   = 12
	fieldPrefix     = 13
	fieldAttribute  = 14 // repeated: 1 name, 2 value
	fieldSize       = 15
	fieldSum        = 16
	fieldAddress    = 1 // within fieldRecipient
	fieldOriginal   = 2
	fieldNotify     = 3
	fieldDueAt      = 1 // state
	fieldEvents     = 2
	fieldProgress   = 3 // repeated, one for each recipient
	fieldHold       = 4
	fieldBounce     = 5
	fieldState      = 1 // within fieldProgress
	fieldAttempts   = 2
	fieldUncertain  = 3
	fieldNextTry    = 4
	fieldCode       = 5
	fieldEnhanced   = 6
	fieldText       = 7
	fieldDelays     = 8
	fieldEventKind  = 1 // trace
	fieldEventTime  = 2
	fieldEventRcpt  = 3 // index + 1
	fieldEventCode  = 5
	fieldEventEnh   = 6
	fieldEventText  = 7
	fieldEventOther = 8
	fieldEventEnv   = 9
	fieldEventData  = 10 // repeated: 1 name, 2 value
	fieldSince      = 1  // progress and dead letter
	fieldReason     = 2
	fieldFileSize   = 1 // body file
)

// encodeEnvelope writes what never changes about a message.
func encodeEnvelope(kind byte, e *Envelope) []byte {
	r := newRecord(kind)
	r.text(fieldTenant, e.Tenant)
	r.text(fieldDirection, string(e.Direction))
	r.text(fieldHop, e.Hop)
	r.uint(fieldClass, uint64(e.Class))
	r.text(fieldFrom, e.From)
	for i := range e.Recipients {
		rcpt := &e.Recipients[i]
		r.nested(fieldRecipient, func(r *encoder) {
			r.text(fieldAddress, rcpt.Address)
			r.text(fieldOriginal, rcpt.Original)
			r.text(fieldNotify, rcpt.Notify)
		})
	}
	r.text(fieldENVID, e.ENVID)
	r.text(fieldRET, e.RET)
	r.uint(fieldEightBit, flag(e.EightBit))
	r.uint(fieldUTF8, flag(e.UTF8))
	r.time(fieldReceived, e.Received)
	r.text(fieldReportOf, string(e.ReportOf))
	r.bytes(fieldPrefix, e.Prefix)
	r.pairs(fieldAttribute, e.Attributes)
	r.uint(fieldSize, uint64(e.Size))
	r.text(fieldSum, string(e.Sum))
	return r.seal()
}

func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// decodeEnvelope is the inverse of encodeEnvelope, and applies the same limits.
func decodeEnvelope(kind byte, id ID, raw []byte) (*Envelope, error) {
	payload, err := openRecord(kind, raw)
	if err != nil {
		return nil, err
	}
	e := &Envelope{ID: id}
	err = eachField(payload, func(f field) error { return e.take(f) })
	if err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return e, nil
}

func (e *Envelope) take(f field) (err error) {
	var n uint64
	switch f.number {
	case fieldTenant:
		e.Tenant = f.text()
	case fieldDirection:
		e.Direction = Direction(f.text())
	case fieldHop:
		e.Hop = f.text()
	case fieldClass:
		n, err = f.uint()
		e.Class = Class(min(n, uint64(classes)))
	case fieldFrom:
		e.From = f.text()
	case fieldRecipient:
		return e.takeRecipient(f.value)
	case fieldENVID:
		e.ENVID = f.text()
	case fieldRET:
		e.RET = f.text()
	case fieldEightBit:
		e.EightBit = true
	case fieldUTF8:
		e.UTF8 = true
	case fieldReceived:
		e.Received, err = f.time()
	case fieldReportOf:
		e.ReportOf = ID(f.text())
	case fieldPrefix:
		e.Prefix = append([]byte(nil), f.value...)
	case fieldAttribute:
		return takePair(&e.Attributes, f.value)
	case fieldSize:
		n, err = f.uint()
		e.Size = int64(n)
	case fieldSum:
		e.Sum = Sum(f.value)
	}
	return err
}

func (e *Envelope) takeRecipient(payload []byte) error {
	var r Recipient
	err := eachField(payload, func(f field) error {
		switch f.number {
		case fieldAddress:
			r.Address = f.text()
		case fieldOriginal:
			r.Original = f.text()
		case fieldNotify:
			r.Notify = f.text()
		}
		return nil
	})
	e.Recipients = append(e.Recipients, r)
	if len(e.Recipients) > MaxRecipients {
		return fmt.Errorf("%w: too many recipients", ErrCorrupt)
	}
	return err
}

// pairs writes a map, in the order of its names.
func (e *encoder) pairs(field byte, m map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(m)) {
		e.nested(field, func(r *encoder) {
			r.text(1, name)
			r.text(2, m[name])
		})
	}
}

// takePair adds one field that pairs wrote to *m.
func takePair(m *map[string]string, payload []byte) error {
	var name, value string
	err := eachField(payload, func(f field) error {
		switch f.number {
		case 1:
			name = f.text()
		case 2:
			value = f.text()
		}
		return nil
	})
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[name] = value
	return err
}

// state is what changes about a message.
type state struct {
	due    int64  // Unix milliseconds; where the due key stands if there is one
	events uint64 // number of trace events so far
	hold   string // reason of Hold, "" if it is not held
	bounce string // reason of Bounce, "" if it may be tried
}

// encodeState writes st and the changing half of the recipients.
func encodeState(st state, recipients []Recipient) []byte {
	r := newRecord(keyState)
	r.uint(fieldDueAt, uint64(st.due))
	r.uint(fieldEvents, st.events)
	r.text(fieldHold, st.hold)
	r.text(fieldBounce, st.bounce)
	for i := range recipients {
		rcpt := &recipients[i]
		r.nested(fieldProgress, func(r *encoder) {
			r.uint(fieldState, uint64(rcpt.State))
			r.uint(fieldAttempts, uint64(rcpt.Attempts))
			r.uint(fieldUncertain, uint64(rcpt.Uncertain))
			r.time(fieldNextTry, rcpt.NextTry)
			r.uint(fieldCode, uint64(rcpt.Last.Code))
			r.text(fieldEnhanced, rcpt.Last.Enhanced)
			r.text(fieldText, rcpt.Last.Text)
			r.uint(fieldDelays, uint64(rcpt.DelaysTold))
		})
	}
	return r.seal()
}

// decodeState fills the recipients of e from its state record.
func decodeState(e *Envelope, raw []byte) (st state, err error) {
	payload, err := openRecord(keyState, raw)
	if err != nil {
		return st, err
	}
	next := 0
	err = eachField(payload, func(f field) (err error) {
		var n uint64
		switch f.number {
		case fieldDueAt:
			n, err = f.uint()
			st.due = int64(n)
		case fieldEvents:
			st.events, err = f.uint()
		case fieldHold:
			st.hold = f.text()
		case fieldBounce:
			st.bounce = f.text()
		case fieldProgress:
			if next >= len(e.Recipients) {
				return fmt.Errorf("%w: more states than recipients", ErrCorrupt)
			}
			err = eachField(f.value, e.Recipients[next].take)
			next++
		}
		return err
	})
	e.Hold, e.HoldReason, e.BounceReason = st.hold != "", st.hold, st.bounce
	if err == nil && next != len(e.Recipients) {
		err = fmt.Errorf("%w: %d states of %d recipients", ErrCorrupt, next, len(e.Recipients))
	}
	return st, err
}

func (r *Recipient) take(f field) (err error) {
	var n uint64
	switch f.number {
	case fieldState:
		n, err = f.uint()
		r.State = State(n)
		if n > uint64(Failed) {
			return fmt.Errorf("%w: state %d", ErrCorrupt, n)
		}
	case fieldAttempts:
		r.Attempts, err = f.int()
	case fieldUncertain:
		r.Uncertain, err = f.int()
	case fieldNextTry:
		r.NextTry, err = f.time()
	case fieldCode:
		r.Last.Code, err = f.int()
	case fieldEnhanced:
		r.Last.Enhanced = f.text()
	case fieldText:
		r.Last.Text = f.text()
	case fieldDelays:
		r.DelaysTold, err = f.int()
	}
	return err
}

// mark is the record of an attempt in progress (since: it is for the recipients
// that were due then) or of a dead letter.
type mark struct {
	since  time.Time
	reason string
}

func encodeMark(kind byte, m mark) []byte {
	r := newRecord(kind)
	r.time(fieldSince, m.since)
	r.text(fieldReason, m.reason)
	return r.seal()
}

func decodeMark(kind byte, raw []byte) (m mark, err error) {
	payload, err := openRecord(kind, raw)
	if err != nil {
		return m, err
	}
	err = eachField(payload, func(f field) (err error) {
		switch f.number {
		case fieldSince:
			m.since, err = f.time()
		case fieldReason:
			m.reason = f.text()
		}
		return err
	})
	return m, err
}

// encodeFile is the record that a body file belongs to a message.
func encodeFile(size int64) []byte {
	r := newRecord(keyFile)
	r.uint(fieldFileSize, uint64(size))
	return r.seal()
}

func decodeFile(raw []byte) (size int64, err error) {
	payload, err := openRecord(keyFile, raw)
	if err != nil {
		return 0, err
	}
	err = eachField(payload, func(f field) (err error) {
		if f.number == fieldFileSize {
			var n uint64
			n, err = f.uint()
			size = int64(n)
		}
		return err
	})
	return size, err
}

// frameInline makes a record of a small body that stands in it already: the payload
// is the body itself.
func frameInline(record []byte) {
	record[0], record[1] = keyInline, recordVersion
	payload := record[recordHead : len(record)-4]
	binary.BigEndian.PutUint32(record[2:], uint32(len(payload)))
	binary.BigEndian.PutUint32(record[len(record)-4:], checksum(record[:len(record)-4]))
}

func decodeInline(raw []byte) ([]byte, error) { return openRecord(keyInline, raw) }
