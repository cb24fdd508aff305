package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// DeadLetter is a message that nobody could be told about.
type DeadLetter struct {
	Envelope *Envelope // without Prefix
	Reason   string
	Since    time.Time
}

// DeadLetters lists dead letters, oldest first, from behind the ID after, at most
// limit of them (and at most MaxList). Damaged ones are set aside.
func (q *Queue) DeadLetters(after ID, limit int) ([]DeadLetter, error) {
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	lower, err := listFrom(keyDead, after)
	if err != nil {
		return nil, err
	}
	limit = min(limit, MaxList)
	var out []DeadLetter
	var bad error
	damaged := map[[idBytes]byte]error{}
	err = q.store.scan(lower, prefixEnd(keyDead), func(key, value []byte) bool {
		id, ok := keyID(key)
		if !ok || len(out) >= limit {
			return false
		}
		m, err := decodeMark(keyDead, value)
		if err != nil {
			m.reason = "the reason cannot be read"
		}
		e, _, err := q.load(idFrom(id))
		if errors.Is(err, ErrUnknown) {
			return true // ended just now
		}
		if errors.Is(err, ErrCorrupt) {
			damaged[id] = err
			return true
		}
		if err != nil {
			bad = err
			return false
		}
		e.Prefix, e.DeadReason = nil, m.reason
		out = append(out, DeadLetter{e, m.reason, m.since})
		return true
	})
	for id, why := range damaged {
		err = errors.Join(err, q.setAside(id, nil, why))
	}
	if err := errors.Join(err, bad); err != nil {
		return nil, fmt.Errorf("queue dead letters: %w", err)
	}
	return out, nil
}

// Revive puts a dead letter back: all recipients that are not Delivered wait
// again and are due at now, and its time of receipt counts from now.
func (q *Queue) Revive(id ID, now time.Time) error {
	return q.endDead(id, func(t *txn, e *Envelope, st state, key [idBytes]byte) error {
		e.Received = now
		for i := range e.Recipients {
			if r := &e.Recipients[i]; r.State != Delivered {
				r.State, r.NextTry = Waiting, now.Truncate(time.Millisecond)
			}
		}
		if st.due = nextDue(e.Recipients); st.due == never {
			return fmt.Errorf("%w: every recipient has it: drop it", ErrInvalid)
		}
		st.bounce = ""
		st.events = t.addTrace(key, st.events, Event{Kind: Revived, Time: now, Recipient: -1})
		t.setEnvelope(key, e)
		t.set(idKey(keyState, key), encodeState(st, e.Recipients))
		t.addDue(e.dueEntry(key, st.due))
		t.count(e.Tenant, deadCounts(e).negative())
		return nil
	})
}

// Drop deletes a dead letter for good; reason goes into its trace.
func (q *Queue) Drop(id ID, reason string) error {
	return q.endDead(id, func(t *txn, e *Envelope, st state, key [idBytes]byte) error {
		t.addTrace(key, st.events, Event{Kind: Dropped, Time: time.Now(), Recipient: -1, Reply: Reply{Text: clipText(reason)}})
		t.count(e.Tenant, Counts{Bytes: -e.Size, Dead: -1})
		t.forget(e, key)
		return nil
	})
}

// endDead runs one change that ends a message's time as a dead letter.
func (q *Queue) endDead(id ID, do func(*txn, *Envelope, state, [idBytes]byte) error) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	key, err := id.binary()
	if err != nil {
		return err
	}
	held := q.claim(key)
	if held == nil {
		return fmt.Errorf("queue %s: %w", id, ErrUnknown)
	}
	defer q.unclaim(key, held)
	_, err = q.store.get(idKey(keyDead, key))
	if err != nil {
		return fmt.Errorf("queue %s: dead letter: %w", id, err)
	}
	e, st, err := q.load(id)
	if err != nil {
		return fmt.Errorf("queue %s: dead letter: %w", id, err)
	}
	t := q.newTxn()
	if err := do(t, e, st, key); err != nil {
		return fmt.Errorf("queue %s: %w", id, err)
	}
	t.delete(idKey(keyDead, key))
	// From the moment it is due again it must be free: Due passes over what is taken
	// and would not come back to it.
	t.learn = append(t.learn, func() { delete(q.taken, key) })
	return q.commitBodies(context.Background(), t, id)
}

// claim keeps two callers from ending the same dead letter at once; nil means
// that somebody else has it.
func (q *Queue) claim(key [idBytes]byte) *taken {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken[key] != nil {
		return nil
	}
	held := &taken{begun: true, busy: true}
	q.taken[key] = held
	return held
}

// unclaim undoes a claim that still holds; Due may have taken the message since.
func (q *Queue) unclaim(key [idBytes]byte, held *taken) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken[key] == held {
		delete(q.taken, key)
	}
}
