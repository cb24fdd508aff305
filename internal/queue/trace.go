package queue

import (
	"fmt"
	"time"
)

// EventKind says what happened to a message.
type EventKind string

// Event kinds. The text is on disk.
const (
	Accepted  EventKind = "accepted"
	Attempt   EventKind = "attempt"   // begun
	Uncertain EventKind = "uncertain" // an attempt was cut off: the next hop may have the message
	Deferred  EventKind = "deferred"
	Delivery  EventKind = "delivered"
	Failure   EventKind = "failed"
	Reported  EventKind = "reported" // Other is the report's ID
	DeadEnd   EventKind = "dead"
	Revived   EventKind = "revived"
	Dropped   EventKind = "dropped"
	Finished  EventKind = "finished" // nothing is kept but the trace
	Held      EventKind = "held"
	Unheld    EventKind = "released"
	DelayTold EventKind = "delay-told" // the sender got a notice of delay
	Noted     EventKind = "noted"      // anything else; Data tells
	// What the provider tells after it has the message.
	Dispatched EventKind = "dispatched"
	Received   EventKind = "received"
	Retrieved  EventKind = "retrieved"
	Refused    EventKind = "refused" // failed after the hand-over
)

// Event is one entry of a message's trace. It is written in the same batch as
// what it tells of, and stays when the message is gone, until Expire.
type Event struct {
	Kind      EventKind
	Time      time.Time
	Recipient int               // index in Envelope.Recipients; -1 if it is about all
	Reply     Reply             // of the next hop, or the reason in Text
	Other     ID                // another message
	Data      map[string]string // what else is known, never content; at most MaxEventData
	envelope  []byte            // Accepted only: the envelope's record without Prefix
}

func encodeEvent(e Event) []byte {
	r := newRecord(keyTrace)
	r.text(fieldEventKind, string(e.Kind))
	r.time(fieldEventTime, e.Time)
	r.uint(fieldEventRcpt, uint64(e.Recipient+1))
	r.uint(fieldEventCode, uint64(e.Reply.Code))
	r.text(fieldEventEnh, e.Reply.Enhanced)
	r.text(fieldEventText, e.Reply.Text)
	r.text(fieldEventOther, string(e.Other))
	r.bytes(fieldEventEnv, e.envelope)
	r.pairs(fieldEventData, e.Data)
	return r.seal()
}

func decodeEvent(raw []byte) (Event, error) {
	payload, err := openRecord(keyTrace, raw)
	if err != nil {
		return Event{}, err
	}
	e := Event{Recipient: -1}
	err = eachField(payload, func(f field) (err error) {
		switch f.number {
		case fieldEventKind:
			e.Kind = EventKind(f.text())
		case fieldEventTime:
			e.Time, err = f.time()
		case fieldEventRcpt:
			var n int
			n, err = f.int()
			e.Recipient = n - 1
		case fieldEventCode:
			e.Reply.Code, err = f.int()
		case fieldEventEnh:
			e.Reply.Enhanced = f.text()
		case fieldEventText:
			e.Reply.Text = f.text()
		case fieldEventOther:
			e.Other = ID(f.text())
		case fieldEventEnv:
			e.envelope = append([]byte(nil), f.value...)
		case fieldEventData:
			err = takePair(&e.Data, f.value)
		}
		return err
	})
	return e, err
}

// acceptedEvent carries the envelope, so that the trace tells from whom to whom
// when the message itself is gone. The prefix is left out: it may hold header
// fields that came with the message.
func acceptedEvent(e *Envelope, record []byte, now time.Time) Event {
	if len(e.Prefix) > 0 {
		bare := *e
		bare.Prefix = nil
		record = encodeEnvelope(keyMessage, &bare)
	}
	return Event{Kind: Accepted, Time: now, Recipient: -1, envelope: record}
}

// Trace returns what became of a message, oldest first, and its envelope as it
// was accepted (without Prefix). ErrUnknown means that there never was such a
// message, or that its trace has expired.
func (q *Queue) Trace(id ID) (*Envelope, []Event, error) {
	b, err := id.binary()
	if err != nil {
		return nil, nil, fmt.Errorf("trace: %w", err)
	}
	if err := q.enter(); err != nil {
		return nil, nil, err
	}
	defer q.leave()
	var (
		envelope      *Envelope
		events, notes []Event
		bad           error
	)
	upper := append(idKey(keyTrace, b), 0xff, 0xff, 0xff, 0xff)
	err = q.store.scan(idKey(keyTrace, b), upper, func(key, value []byte) bool {
		event, err := decodeEvent(value)
		if err == nil && event.envelope != nil {
			envelope, err = decodeEnvelope(keyMessage, id, event.envelope)
		}
		bad = err
		if isNote(key) {
			notes = append(notes, event)
		} else {
			events = append(events, event)
		}
		return err == nil && len(events)+len(notes) < maxTrace
	})
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("trace %s: %w", id, err)
	case bad != nil:
		return nil, nil, fmt.Errorf("trace %s: %w", id, bad)
	case len(events) == 0:
		return nil, nil, fmt.Errorf("trace %s: %w", id, ErrUnknown)
	}
	return envelope, mergeEvents(events, notes), nil
}

// maxTrace bounds the events that Trace returns; the rest is left out.
const maxTrace = 100_000

// mergeEvents puts notes between the events, by time; both keep their own order.
func mergeEvents(events, notes []Event) []Event {
	if len(notes) == 0 {
		return events
	}
	all := make([]Event, 0, len(events)+len(notes))
	for _, e := range events {
		for len(all) > 0 && len(notes) > 0 && notes[0].Time.Before(e.Time) {
			all, notes = append(all, notes[0]), notes[1:]
		}
		all = append(all, e)
	}
	return append(all, notes...)
}
