package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Note is an event for the trace of another message, as a confirmation tells of
// the message that it confirms.
type Note struct {
	ID    ID
	Event Event
}

// Bounds of an event that the relay writes.
const (
	MaxEventData = 16 // entries of Event.Data, each with at most MaxText bytes
	maxEventKind = 32
)

// noteMark stands behind the ID in the trace key of a note, where other events have
// the first byte of their number. Behind it is an ID of the note's own, so that
// notes need no number and are never in the way of whoever has the message.
const noteMark = 0x80

func (t *txn) noteKey(id [idBytes]byte, now time.Time) []byte {
	own, err := t.q.ids.next(now).binary()
	if err != nil {
		panic("queue: " + err.Error()) // next makes IDs only
	}
	return append(append(idKey(keyTrace, id), noteMark), own[:]...)
}

func isNote(key []byte) bool { return len(key) == 1+idBytes+1+idBytes && key[1+idBytes] == noteMark }

// Annotate adds events to the trace of a message that is in the queue or was, durably
// and all at once. A zero Time means now. ErrUnknown: there is no such trace.
func (q *Queue) Annotate(id ID, events ...Event) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	notes := make([]Note, len(events))
	for i, e := range events {
		notes[i] = Note{id, e}
	}
	key, err := id.binary()
	if err == nil && !q.traced(key) {
		err = ErrUnknown
	}
	t := q.newTxn()
	if err == nil {
		err = t.addNotes(notes, time.Now())
	}
	if err == nil {
		err = t.commit(context.Background())
	}
	if err != nil {
		return fmt.Errorf("queue %s: annotate: %w", id, err)
	}
	return nil
}

// Notes goes through the notes alone in a message's trace, oldest first, and gives the
// envelope as it was accepted (nil if that is lost). Their cost does not grow with the
// attempts that the message took. ErrUnknown: there is no such trace.
func (q *Queue) Notes(id ID, each func(Event)) (*Envelope, error) {
	b, err := id.binary()
	if err != nil {
		return nil, fmt.Errorf("notes: %w", err)
	}
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	raw, err := q.store.get(traceKey(b, 0))
	if err != nil {
		return nil, fmt.Errorf("notes of %s: %w", id, err)
	}
	first, err := decodeEvent(raw)
	var e *Envelope
	if err == nil && first.envelope != nil {
		e, err = decodeEnvelope(keyMessage, id, first.envelope)
	}
	if err != nil {
		return nil, fmt.Errorf("notes of %s: %w", id, err)
	}
	from, n := append(idKey(keyTrace, b), noteMark), 0
	var bad error
	err = q.store.scan(from, append(idKey(keyTrace, b), noteMark+1), func(_, value []byte) bool {
		event, err := decodeEvent(value)
		if bad = err; err == nil {
			each(event)
		}
		n++
		return err == nil && n < maxTrace
	})
	if err = errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("notes of %s: %w", id, err)
	}
	return e, nil
}

// addNotes puts notes into the batch, but for those about unknown messages.
func (t *txn) addNotes(notes []Note, now time.Time) error {
	if len(notes) > MaxNotes {
		return fmt.Errorf("%w: %d notes, at most %d", ErrInvalid, len(notes), MaxNotes)
	}
	for _, n := range notes {
		if err := n.Event.check(); err != nil {
			return fmt.Errorf("note for %s: %w", n.ID, err)
		}
		id, err := n.ID.binary()
		if err != nil || !t.q.traced(id) {
			t.q.log.Warn("queue: note for a message without a trace", "id", n.ID, "kind", string(n.Event.Kind))
			continue
		}
		if n.Event.Time.IsZero() {
			n.Event.Time = now
		}
		n.Event.Reply, n.Event.envelope = n.Event.Reply.clip(), nil
		t.set(t.noteKey(id, now), encodeEvent(n.Event))
	}
	return nil
}

// check reports the first limit that an event of the relay breaks.
func (e *Event) check() error {
	if e.Kind == "" || len(e.Kind) > maxEventKind {
		return fmt.Errorf("%w: event of kind %.40q", ErrInvalid, e.Kind)
	}
	if e.Recipient < -1 || e.Recipient >= MaxRecipients || (!e.Time.IsZero() && !storable(e.Time)) {
		return fmt.Errorf("%w: event for recipient %d at %v", ErrInvalid, e.Recipient+1, e.Time)
	}
	if e.Other != "" {
		if _, err := e.Other.binary(); err != nil {
			return fmt.Errorf("%w: other message of an event: %w", ErrInvalid, err)
		}
	}
	if len(e.Data) > MaxEventData {
		return fmt.Errorf("%w: event with %d entries of data, at most %d", ErrInvalid, len(e.Data), MaxEventData)
	}
	for name, value := range e.Data {
		if name == "" || len(name) > MaxText || len(value) > MaxText {
			return errors.Join(ErrInvalid, fmt.Errorf("event data of %d and %d bytes", len(name), len(value)))
		}
	}
	return nil
}
