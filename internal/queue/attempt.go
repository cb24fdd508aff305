package queue

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Begin records, durably and in one batch, that an attempt at each of the messages
// starts now: for the recipients that DueAt named at the time given to Due. Only
// then may the relay connect, or start the transaction on a connection that is
// open. The messages must be taken and not begun. It waits as long as the disk
// takes: there is nothing better to do with the message meanwhile.
func (q *Queue) Begin(ids ...ID) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	now := time.Now()
	t := q.newTxn()
	var held []*taken
	defer func() { q.yield(held) }()
	for _, id := range ids {
		m, key, err := q.seize(id, false)
		if err != nil {
			return fmt.Errorf("queue %s: begin: %w", id, err)
		}
		held = append(held, m)
		t.beginMessage(m, key, now)
	}
	if err := t.commit(context.Background()); err != nil {
		return fmt.Errorf("queue: begin %d messages: %w", len(ids), err)
	}
	return nil
}

func (t *txn) beginMessage(m *taken, key [idBytes]byte, now time.Time) {
	next := m.envelope.fork()
	st := m.state
	t.tally.begins++
	for _, i := range next.DueAt(m.at) {
		next.Recipients[i].Attempts++
		st.events = t.addTrace(key, st.events, Event{Kind: Attempt, Time: now, Recipient: i})
	}
	t.deleteDue(m.entry)
	t.set(idKey(keyProgress, key), encodeMark(keyProgress, mark{since: m.at}))
	t.set(idKey(keyState, key), encodeState(st, next.Recipients))
	t.learn = append(t.learn, func() { m.envelope, m.state, m.begun = next, st, true })
}

// seize claims a taken message for one Begin or Finish.
func (q *Queue) seize(id ID, begunToo bool) (*taken, [idBytes]byte, error) {
	key, err := id.binary()
	if err != nil {
		return nil, key, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.taken[key]
	if m == nil || m.busy || (m.begun && !begunToo) {
		return nil, key, ErrNotTaken
	}
	m.busy = true
	return m, key, nil
}

func (q *Queue) yield(list []*taken) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range list {
		m.busy = false
	}
}

// Finish records, durably and in one batch, what became of a taken message, begun
// or not: results, births, and whether it waits on, is removed or becomes a dead
// letter (see Outcome). Then the message is no longer taken. On an error it still
// is, unless the store is sick; the births' bodies are finished in any case. Like
// Begin it waits as long as the disk takes.
func (q *Queue) Finish(id ID, o Outcome) error {
	bodies := make([]*Body, 0, len(o.Births))
	for _, birth := range o.Births {
		if birth.Body != nil {
			defer birth.Body.Abort()
			bodies = append(bodies, birth.Body)
		}
	}
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	m, key, err := q.seize(id, true)
	if err != nil {
		return fmt.Errorf("queue %s: finish: %w", id, err)
	}
	defer q.yield([]*taken{m})
	t := q.newTxn()
	if err := t.finishMessage(m, key, o, time.Now()); err != nil {
		return fmt.Errorf("queue %s: finish: %w", id, err)
	}
	return q.commitBodies(context.Background(), t, id, bodies...)
}

// maxBirths bounds how many messages one Finish may bring into being.
const maxBirths = 16

func (t *txn) finishMessage(m *taken, key [idBytes]byte, o Outcome, now time.Time) error {
	if len(o.Births) > maxBirths {
		return fmt.Errorf("%w: %d births, at most %d", ErrInvalid, len(o.Births), maxBirths)
	}
	next := m.envelope.fork()
	st := m.state
	events, err := applyResults(next, o.Results, now)
	if err == nil {
		events, err = applyDelays(next, o.DelaysTold, events, now)
	}
	if err != nil {
		return err
	}
	for _, birth := range o.Births {
		if birth.Envelope == nil {
			return fmt.Errorf("%w: birth without envelope", ErrInvalid)
		}
		if err := t.addMessage(birth.Envelope, birth.Body, now); err != nil {
			return err
		}
		events = append(events, Event{Kind: Reported, Time: now, Recipient: -1, Other: birth.Envelope.ID})
	}
	if err := checkKeys(o.Keys); err != nil {
		return err
	}
	t.addKeys(key, o.Keys)
	if err := t.addNotes(o.Notes, now); err != nil {
		return err
	}
	st.events = t.addTrace(key, st.events, events...)
	t.tally.finishes++
	if m.begun {
		t.delete(idKey(keyProgress, key))
	} else {
		t.deleteDue(m.entry)
	}
	t.settle(next, st, key, o.Dead, now)
	t.learn = append(t.learn, func() { delete(t.q.taken, key) })
	return nil
}

// settle puts the message where it belongs after a Finish: waiting, dead or gone.
func (t *txn) settle(e *Envelope, st state, key [idBytes]byte, dead string, now time.Time) {
	st.due = nextDue(e.Recipients)
	switch {
	case dead != "":
		reason := clipText(dead)
		st.due, st.bounce = 0, ""
		st.events = t.addTrace(key, st.events, Event{Kind: DeadEnd, Time: now, Recipient: -1, Reply: Reply{Text: reason}})
		t.set(idKey(keyState, key), encodeState(st, e.Recipients))
		t.set(idKey(keyDead, key), encodeMark(keyDead, mark{since: now, reason: reason}))
		t.count(e.Tenant, deadCounts(e))
	case st.due != never:
		t.set(idKey(keyState, key), encodeState(st, e.Recipients))
		t.addDue(e.dueEntry(key, st.due))
	default:
		t.addTrace(key, st.events, Event{Kind: Finished, Time: now, Recipient: -1})
		t.count(e.Tenant, countsFor(e).negative())
		t.forget(e, key)
	}
}

// deadCounts is the change when a waiting message becomes a dead letter.
func deadCounts(e *Envelope) Counts {
	c := countsFor(e).negative()
	c.Bytes, c.Dead = 0, 1
	return c
}

// forget deletes the message; its body file goes when that is durable.
func (t *txn) forget(e *Envelope, key [idBytes]byte) {
	t.delete(idKey(keyMessage, key))
	t.delete(idKey(keyState, key))
	t.learn = append(t.learn, func() { t.q.recent.forget(key) })
	if e.Size <= InlineLimit {
		t.deleteSized(idKey(keyInline, key), e.Size)
	}
	if e.Size <= firstInlineLimit {
		return
	}
	t.delete(idKey(keyFile, key))
	id := idFrom(key)
	t.after = append(t.after, func() {
		if err := t.q.spool.remove(id); err != nil {
			t.q.log.Warn("queue body is left behind until the next start", "id", id, "error", err)
		}
	})
}

// deleteSized tells Pebble how much space the deletion frees, so that it compacts
// where bodies were.
func (t *txn) deleteSized(key []byte, size int64) {
	_ = t.batch.DeleteSized(key, uint32(size+recordExtra), nil)
}

// applyResults changes e's recipients and returns the events to trace.
func applyResults(e *Envelope, results []Result, now time.Time) ([]Event, error) {
	var events []Event
	for _, res := range results {
		if res.Recipient < 0 || res.Recipient >= len(e.Recipients) {
			return nil, fmt.Errorf("%w: result for recipient %d of %d", ErrInvalid, res.Recipient+1, len(e.Recipients))
		}
		r := &e.Recipients[res.Recipient]
		if r.State.Final() {
			return nil, fmt.Errorf("%w: recipient %d is %s already", ErrInvalid, res.Recipient+1, r.State)
		}
		r.State, r.Last = res.State, res.Reply.clip()
		kind := Deferred
		switch res.State {
		case Waiting:
			if !storable(res.NextTry) {
				return nil, fmt.Errorf("%w: recipient %d waits for %v", ErrInvalid, res.Recipient+1, res.NextTry)
			}
			r.NextTry = res.NextTry
		case Delivered:
			kind = Delivery
		case Failed:
			kind = Failure
		default:
			return nil, fmt.Errorf("%w: result %s", ErrInvalid, res.State)
		}
		events = append(events, Event{Kind: kind, Time: now, Recipient: res.Recipient, Reply: r.Last})
	}
	return events, nil
}

// applyDelays sets how many notices of delay there were, and adds their events.
func applyDelays(e *Envelope, told map[int]int, events []Event, now time.Time) ([]Event, error) {
	for _, i := range slices.Sorted(maps.Keys(told)) {
		if i < 0 || i >= len(e.Recipients) || told[i] < 0 || told[i] > math.MaxInt32 {
			return nil, fmt.Errorf("%w: %d notices of delay for recipient %d of %d", ErrInvalid, told[i], i+1, len(e.Recipients))
		}
		e.Recipients[i].DelaysTold = told[i]
		events = append(events, Event{Kind: DelayTold, Time: now, Recipient: i})
	}
	return events, nil
}
