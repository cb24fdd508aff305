package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"
)

// Commit takes the message in charge. It sets e's ID, Size and Sum; recipients
// with a zero NextTry are due at once; Attempts and the rest of their state start
// at zero. When it returns nil, the message is durable and the relay may
// answer 250. On any error the relay must answer 4xx: the message may, after
// ErrSick or an ended context, still turn up in the queue, but not be lost once
// acknowledged. The body is finished in any case.
func (q *Queue) Commit(ctx context.Context, e *Envelope, body *Body) error {
	if body == nil || body.q != q {
		return fmt.Errorf("%w: body is not of this queue", ErrInvalid)
	}
	defer body.Abort()
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	t := q.newTxnFor(body.heldInline())
	if err := t.addMessage(e, body, time.Now()); err != nil {
		return err
	}
	return q.commitBodies(ctx, t, e.ID, body)
}

// commitBodies commits a batch in which bodies are born.
func (q *Queue) commitBodies(ctx context.Context, t *txn, id ID, bodies ...*Body) error {
	err := t.commit(ctx)
	if err == nil || errors.Is(err, errUnsure) {
		for _, b := range bodies {
			b.done() // the files stay: the batch that refers to them is stored, or may be
		}
	}
	if err != nil {
		return fmt.Errorf("queue %s: %w", id, err)
	}
	return nil
}

// addMessage seals the body and puts the message into the batch.
func (t *txn) addMessage(e *Envelope, body *Body, now time.Time) error {
	if body == nil || body.q != t.q {
		return fmt.Errorf("%w: body is not of this queue", ErrInvalid)
	}
	e.ID, e.Size, e.Sum = body.ID(), body.Size(), body.sum()
	e.BounceReason, e.DeadReason = "", ""
	for i := range e.Recipients {
		r := &e.Recipients[i]
		r.State, r.Attempts, r.Uncertain, r.Last, r.DelaysTold = Waiting, 0, 0, Reply{}, 0
		if r.NextTry.IsZero() {
			r.NextTry = now.Truncate(time.Millisecond)
		}
	}
	if err := e.check(); err != nil {
		return fmt.Errorf("queue %s: %w", e.ID, err)
	}
	if err := body.seal(); err != nil {
		return err
	}
	id, err := e.ID.binary()
	if err != nil {
		return err
	}
	fresh := &letter{size: body.n, came: now}
	if body.inline() {
		t.setInline(idKey(keyInline, id), body)
		fresh.body = body.leave() // from here on the batch has it
	} else {
		t.set(idKey(keyFile, id), encodeFile(e.Size))
		t.files = append(t.files, e.ID)
	}
	if err := t.addNotes(e.Notes, now); err != nil {
		return err
	}
	t.addKeys(id, e.Keys)
	t.tally.commits++
	t.tally.bytes += uint64(e.Size)
	st := state{due: nextDue(e.Recipients)}
	record := encodeEnvelope(keyMessage, e)
	st.events = t.addTrace(id, 0, acceptedEvent(e, record, now))
	if e.Hold {
		t.holdMessage(e, &st, id, e.HoldReason, now)
		t.count(e.Tenant, Counts{Bytes: e.Size, Held: 1})
	} else {
		t.addDue(e.dueEntry(id, st.due))
		t.count(e.Tenant, countsFor(e))
	}
	t.set(idKey(keyMessage, id), record)
	t.set(idKey(keyState, id), encodeState(st, e.Recipients))
	fresh.envelope = e.clone()
	t.q.recent.add(id, fresh)
	t.fresh = append(t.fresh, id)
	return nil
}

// countsFor is what a waiting message adds to its tenant's counts.
func countsFor(e *Envelope) Counts {
	return Counts{Messages: 1, Recipients: int64(len(e.Recipients)), Bytes: e.Size}
}

// nextDue is the earliest time at which a recipient waits for an attempt, in
// milliseconds; never if none waits.
func nextDue(recipients []Recipient) int64 {
	due := int64(never)
	for i := range recipients {
		if recipients[i].State == Waiting {
			due = min(due, dueMillis(recipients[i].NextTry))
		}
	}
	return due
}

// never is later than every due time.
const never = math.MaxInt64

// Body opens a message's body for reading, with its Prefix in front. ErrUnknown:
// there is no such message. ErrCorrupt: its body is missing or damaged; the relay
// then finishes the message as a dead letter.
func (q *Queue) Body(id ID) (*BodyReader, error) {
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	r, err := q.openBody(id)
	if err != nil {
		err = fmt.Errorf("queue %s: read body: %w", id, err)
		if errors.Is(err, ErrCorrupt) {
			q.sawCorrupt(err)
		}
		return nil, err
	}
	return r, nil
}

func (q *Queue) openBody(id ID) (*BodyReader, error) {
	key, err := id.binary()
	if err != nil {
		return nil, err
	}
	l := q.recent.get(key)
	if l != nil && l.body != nil {
		r, err := q.newReader(l.envelope)
		if err == nil {
			r.src = l.reader()
		}
		return r, err
	}
	e, err := q.envelopeOf(id, key)
	if err != nil {
		return nil, err
	}
	r, err := q.newReader(e)
	if err != nil {
		return nil, err
	}
	raw, err := q.store.get(idKey(keyInline, key))
	if err == nil {
		small, err := decodeInline(raw)
		r.src = bytes.NewReader(small)
		return r, err
	}
	if !errors.Is(err, ErrUnknown) {
		return nil, err
	}
	f, err := q.fs.Open(q.spool.path(id))
	if isNotExist(err) {
		return nil, fmt.Errorf("%w: there is no body", ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	r.src, r.close = f, f.Close
	return r, nil
}

// envelopeOf is a message's envelope; its recipients may be out of date.
func (q *Queue) envelopeOf(id ID, key [idBytes]byte) (*Envelope, error) {
	q.mu.Lock()
	m := q.taken[key]
	var e *Envelope
	if m != nil {
		e = m.envelope
	}
	q.mu.Unlock()
	if e != nil {
		return e, nil
	}
	e, _, err := q.load(id)
	return e, err
}

// newReader makes a reader that lacks its source.
func (q *Queue) newReader(e *Envelope) (*BodyReader, error) {
	hash, err := e.Sum.begin()
	if err != nil {
		return nil, err
	}
	return &BodyReader{
		id: e.ID, prefix: e.Prefix, size: e.Size, total: int64(len(e.Prefix)) + e.Size, want: e.Sum,
		hash: hash, fail: q.sawCorrupt, close: func() error { return nil },
	}, nil
}

// sawCorrupt counts a body that does not match its hash.
func (q *Queue) sawCorrupt(err error) {
	q.log.Error("queue body is damaged", "error", err)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.corrupt++
}

// load reads a message's envelope and state.
func (q *Queue) load(id ID) (*Envelope, state, error) {
	key, err := id.binary()
	if err != nil {
		return nil, state{}, err
	}
	raw, missing := q.store.get(idKey(keyState, key))
	if missing != nil && !errors.Is(missing, ErrUnknown) {
		return nil, state{}, missing
	}
	if missing != nil {
		q.recent.forget(key)
	}
	e, err := q.loadEnvelope(id, key)
	if err == nil && missing != nil {
		err = fmt.Errorf("%w: there is no state", ErrCorrupt)
	}
	if err != nil {
		return nil, state{}, err
	}
	st, err := decodeState(e, raw)
	return e, st, err
}

// loadEnvelope reads what never changes about a message.
func (q *Queue) loadEnvelope(id ID, key [idBytes]byte) (*Envelope, error) {
	if l := q.recent.get(key); l != nil {
		return l.envelope.fork(), nil
	}
	raw, err := q.store.get(idKey(keyMessage, key))
	if err != nil {
		return nil, err
	}
	return decodeEnvelope(keyMessage, id, raw)
}

// fork is a copy whose recipients may change, and nothing else.
func (e *Envelope) fork() *Envelope {
	c := *e
	c.Recipients = slices.Clone(e.Recipients)
	return &c
}

// clone is a deep copy, so that callers cannot change what the queue holds.
func (e *Envelope) clone() *Envelope {
	c := *e
	c.Recipients = slices.Clone(e.Recipients)
	c.Prefix = slices.Clone(e.Prefix)
	if e.Attributes != nil {
		c.Attributes = make(map[string]string, len(e.Attributes))
		for name, value := range e.Attributes {
			c.Attributes[name] = value
		}
	}
	c.Keys, c.Notes = nil, nil
	return &c
}

// DueAt lists the recipients that an attempt at the given time is for.
func (e *Envelope) DueAt(now time.Time) []int {
	var due []int
	for i := range e.Recipients {
		if r := &e.Recipients[i]; r.State == Waiting && dueMillis(r.NextTry) <= now.UnixMilli() {
			due = append(due, i)
		}
	}
	return due
}

var _ io.ReadCloser = (*BodyReader)(nil)
