package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What the operator does to messages that wait. Each operation goes through the IDs
// in durable batches and says how many messages it changed; doing it again changes
// nothing. For messages that it could not be done to the error tells why (at most
// maxOperateErrors of them): ErrBusy, it is being tried; ErrUnknown, it is not there, is
// dead, or, with Retry, is on hold. The others are done all the same.

const (
	// operateBatch bounds the messages in one batch of an operation.
	operateBatch = 256
	// maxOperateErrors bounds how many messages the error of an operation names.
	maxOperateErrors = 100
	// Reasons that stand for none.
	noHoldReason   = "on hold"
	noBounceReason = "returned by the operator"
)

// Hold takes messages out of delivery until Unhold or Bounce. A message on hold is
// never given up, and the queue says that it is there (Conditions, Counts.Held).
func (q *Queue) Hold(ids []ID, reason string) (n int, err error) {
	return q.operate("hold", ids, func(t *txn, m *standing, now time.Time) error {
		if m.st.hold != "" {
			return errUnchanged
		}
		t.deleteDue(m.entry())
		t.holdMessage(m.e, &m.st, m.key, reason, now)
		c := countsFor(m.e).negative()
		c.Bytes, c.Held = 0, 1
		t.count(m.e.Tenant, c)
		return nil
	})
}

// holdMessage puts a message on hold that has no due entry.
func (t *txn) holdMessage(e *Envelope, st *state, key [idBytes]byte, reason string, now time.Time) {
	if reason = clip(reason, MaxText); reason == "" {
		reason = noHoldReason
	}
	e.Hold, e.HoldReason = true, reason
	st.hold, st.due = reason, 0
	st.events = t.addTrace(key, st.events, Event{Kind: Held, Time: now, Recipient: -1, Reply: Reply{Text: reason}})
	t.set(idKey(keyHeld, key), encodeMark(keyHeld, mark{since: now, reason: reason}))
}

// Unhold lets messages go on that were on hold. Their time of receipt counts from
// now, so that the time on hold is not taken from their retries; ID.Time still tells
// when they were accepted.
func (q *Queue) Unhold(ids []ID) (n int, err error) {
	return q.operate("release", ids, func(t *txn, m *standing, now time.Time) error {
		if m.st.hold == "" {
			return errUnchanged
		}
		t.release(m, now)
		return nil
	})
}

// release ends the hold; the caller gives the message its due time.
func (t *txn) release(m *standing, now time.Time) {
	m.st.hold, m.e.Received = "", now
	for i := range m.e.Recipients {
		if r := &m.e.Recipients[i]; r.State == Waiting {
			r.NextTry = now.Truncate(time.Millisecond)
		}
	}
	m.st.events = t.addTrace(m.key, m.st.events, Event{Kind: Unheld, Time: now, Recipient: -1})
	t.delete(idKey(keyHeld, m.key))
	t.setEnvelope(m.key, m.e)
	c := countsFor(m.e)
	c.Bytes, c.Held = 0, -1
	t.count(m.e.Tenant, c)
}

// Retry makes messages due at now that wait for a later time.
func (q *Queue) Retry(ids []ID, now time.Time) (n int, err error) {
	return q.operate("retry", ids, func(t *txn, m *standing, at time.Time) error {
		if m.st.hold != "" {
			return fmt.Errorf("%w: it is on hold, release it", ErrUnknown)
		}
		if !m.hasten(now) {
			return errUnchanged
		}
		m.note(t, at, "retry", "")
		return nil
	})
}

// Bounce makes messages due at once, held or not, with the reason as their
// Envelope.BounceReason: the relay then lets all waiting recipients fail and reports it.
func (q *Queue) Bounce(ids []ID, reason string) (n int, err error) {
	if reason = clip(reason, MaxText); reason == "" {
		reason = noBounceReason
	}
	return q.operate("bounce", ids, func(t *txn, m *standing, now time.Time) error {
		if m.st.bounce != "" && m.st.hold == "" {
			return errUnchanged
		}
		if m.st.hold != "" {
			t.release(m, now)
		}
		m.hasten(now)
		m.st.bounce = reason
		m.note(t, now, "bounce", reason)
		return nil
	})
}

// standing is a message that waits, claimed for an operation.
type standing struct {
	key  [idBytes]byte
	e    *Envelope
	st   state // as it becomes
	was  state // as it is stored
	held *taken
}

// entry is where the message waits, if it is not on hold.
func (m *standing) entry() dueEntry {
	return m.e.dueEntry(m.key, m.was.due)
}

// hasten lets recipients that wait for later wait for now, and tells whether there are any.
func (m *standing) hasten(now time.Time) (any bool) {
	at := now.Truncate(time.Millisecond)
	for i := range m.e.Recipients {
		if r := &m.e.Recipients[i]; r.State == Waiting && r.NextTry.After(at) {
			r.NextTry, any = at, true
		}
	}
	return any
}

func (m *standing) note(t *txn, now time.Time, operation, reason string) {
	m.st.events = t.addTrace(m.key, m.st.events, Event{
		Kind: Noted, Time: now, Recipient: -1, Reply: Reply{Text: reason}, Data: map[string]string{"operation": operation},
	})
}

// errUnchanged: there was nothing to do.
var errUnchanged = errors.New("unchanged")

type operation func(t *txn, m *standing, now time.Time) error

func (q *Queue) operate(name string, ids []ID, do operation) (n int, err error) {
	if err := q.enter(); err != nil {
		return 0, err
	}
	defer q.leave()
	var faults []error
	for len(ids) > 0 {
		some := ids[:min(len(ids), operateBatch)]
		ids = ids[len(some):]
		changed, errs := q.operateSome(some, do)
		n += changed
		for _, err := range errs {
			if faults = append(faults, err); errors.Is(err, ErrSick) {
				ids = nil
			}
		}
	}
	if more := len(faults) - maxOperateErrors; more > 0 {
		faults = append(faults[:maxOperateErrors], fmt.Errorf("and %d more", more))
	}
	if err := errors.Join(faults...); err != nil {
		return n, fmt.Errorf("queue %s: %w", name, err)
	}
	return n, nil
}

func (q *Queue) operateSome(ids []ID, do operation) (n int, faults []error) {
	now := time.Now()
	t := q.newTxn()
	var all []*standing
	defer func() { q.giveUp(all) }()
	seen := map[ID]bool{}
	for _, id := range ids {
		if seen[id] {
			continue
		}
		seen[id] = true
		m, err := q.stand(id)
		if m != nil {
			all = append(all, m)
		}
		if err == nil {
			err = do(t, m, now)
		}
		switch {
		case err == nil:
			t.restand(m)
			n++
		case !errors.Is(err, errUnchanged):
			faults = append(faults, fmt.Errorf("%s: %w", id, err))
		}
	}
	if n == 0 {
		return 0, faults
	}
	if err := t.commit(context.Background()); err != nil {
		return 0, append(faults, err)
	}
	return n, faults
}

// stand claims and loads a message that waits or is on hold. If it returns one, it
// must be given up, also on an error.
func (q *Queue) stand(id ID) (*standing, error) {
	key, err := id.binary()
	if err != nil {
		return nil, err
	}
	held := q.claim(key)
	if held == nil {
		return nil, ErrBusy
	}
	m := &standing{key: key, held: held}
	e, st, err := q.load(id)
	if err != nil {
		return m, err
	}
	m.e, m.st, m.was = e, st, st
	if _, err := q.store.get(idKey(keyDead, key)); !errors.Is(err, ErrUnknown) {
		m.e = nil
		return m, errors.Join(err, fmt.Errorf("%w: it is a dead letter", ErrUnknown))
	}
	return m, nil
}

// restand writes a message where it belongs after an operation.
func (t *txn) restand(m *standing) {
	if m.st.hold == "" {
		if m.was.hold == "" {
			t.deleteDue(m.entry())
		}
		m.st.due = nextDue(m.e.Recipients)
		t.addDue(m.e.dueEntry(m.key, m.st.due))
	}
	t.set(idKey(keyState, m.key), encodeState(m.st, m.e.Recipients))
	// It must be free from the moment it is due again (see endDead).
	t.learn = append(t.learn, func() { delete(t.q.taken, m.key) })
}

// giveUp ends claims that still hold. Due may have passed over the messages
// meanwhile, so it is told of them again.
func (q *Queue) giveUp(all []*standing) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range all {
		if q.taken[m.key] != m.held {
			continue
		}
		delete(q.taken, m.key)
		if m.e != nil && m.was.hold == "" {
			q.lane(m.entry().lane).add(m.entry())
		}
	}
	q.signal()
}
