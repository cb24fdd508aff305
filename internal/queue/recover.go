package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// recoverBatch bounds the messages in one batch during recovery.
const recoverBatch = 256

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// recover brings index and memory into agreement; checkBodies does the same with the
// spool, later. Each step can be cut off and done again. None of them looks at every
// message: what they cost grows with tenants, lanes, and attempts that were cut off.
func (q *Queue) recover() error {
	steps := []struct {
		name string
		do   func() error
	}{
		{"ids", q.followIDs},
		{"counts", q.recoverCounts},
		{"lanes", q.recoverLanes},
		{"attempts", q.recoverAttempts},
		{"quarantine", q.recoverQuarantine},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("recover %s: %w", step.name, err)
		}
	}
	return nil
}

func (q *Queue) recoverCounts() error {
	return q.store.scan([]byte{keyCounts}, prefixEnd(keyCounts), func(key, value []byte) bool {
		if list, err := decodeCounts(value); err == nil {
			q.totals[string(key[1:])] = countsOf(list)
		}
		return true
	})
}

// recoverLanes finds the lanes by jumping from each to the next, so that its cost
// grows with their number and not with the messages'.
func (q *Queue) recoverLanes() error {
	var bad [][]byte
	err := q.store.iterate([]byte{keyDue}, prefixEnd(keyDue), func(it *pebble.Iterator) error {
		for ok := it.First(); ok; {
			q.store.reads.Add(1)
			e, good := parseDue(it.Key())
			if !good {
				bad = append(bad, bytes.Clone(it.Key()))
				ok = it.Next()
				continue
			}
			l := q.lane(e.lane) // nobody else is here yet
			l.ready, l.from = [classes]int64{}, [classes]int64{}
			ok = it.SeekGE(laneEnd(e.lane))
		}
		return nil
	})
	for _, key := range bad {
		if err := q.setAsideKey(key, nil, errors.New("due key cannot be read")); err != nil {
			return err
		}
	}
	return err
}

// recoverAttempts finds the attempts that were in progress. The next hop may or
// may not have those messages: they are due at once, and marked.
func (q *Queue) recoverAttempts() error {
	var cut []cutOff
	err := q.store.scan([]byte{keyProgress}, prefixEnd(keyProgress), func(key, value []byte) bool {
		if id, ok := keyID(key); ok {
			m, err := decodeMark(keyProgress, value)
			cut = append(cut, cutOff{id, m.since, err})
		}
		return true
	})
	for len(cut) > 0 && err == nil {
		n := min(len(cut), recoverBatch)
		err = q.resume(cut[:n])
		cut = cut[n:]
	}
	return err
}

// cutOff is an attempt that was in progress, for the recipients due at a time.
type cutOff struct {
	id  [idBytes]byte
	at  time.Time
	err error
}

func (q *Queue) resume(cut []cutOff) error {
	now := time.Now()
	t := q.newTxn()
	for _, c := range cut {
		e, st, err := q.load(idFrom(c.id))
		if err == nil {
			err = c.err
		}
		if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnknown) {
			if err := q.setAside(c.id, nil, err); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		t.resumeMessage(e, st, c, now)
		q.recovered.Uncertain++
	}
	return t.commit(context.Background())
}

func (t *txn) resumeMessage(e *Envelope, st state, c cutOff, now time.Time) {
	id := c.id
	due := now.Truncate(time.Millisecond)
	for _, i := range e.DueAt(c.at) {
		e.Recipients[i].Uncertain++
		e.Recipients[i].NextTry = due
		st.events = t.addTrace(id, st.events, Event{Kind: Uncertain, Time: now, Recipient: i})
	}
	st.due = nextDue(e.Recipients)
	t.delete(idKey(keyProgress, id))
	t.set(idKey(keyState, id), encodeState(st, e.Recipients))
	t.addDue(e.dueEntry(id, st.due))
}

func (q *Queue) recoverQuarantine() error {
	q.quarantine = 0
	return q.store.scan([]byte{keyQuarantine}, prefixEnd(keyQuarantine), func(_, _ []byte) bool {
		q.quarantine++
		return true
	})
}

// setAside moves a damaged message's records to the quarantine, so that it is
// neither tried nor lost. Its body stays where it is. due is its due entry, if known.
func (q *Queue) setAside(id [idBytes]byte, due *dueEntry, why error) error {
	t := q.newTxn()
	e, st, err := q.load(idFrom(id))
	_, dead := q.store.get(idKey(keyDead, id))
	switch {
	case err == nil && dead == nil:
		t.count(e.Tenant, Counts{Bytes: -e.Size, Dead: -1})
	case err == nil && st.hold != "":
		t.count(e.Tenant, Counts{Bytes: -e.Size, Held: -1})
	case err == nil:
		entry := e.dueEntry(id, st.due)
		due = &entry
		t.count(e.Tenant, countsFor(e).negative())
	case due != nil: // its recipients and bytes stay in the sums
		tenant, _, _ := strings.Cut(due.lane[1:], "\x00")
		t.count(tenant, Counts{Messages: -1})
	}
	if due != nil {
		t.deleteDue(*due)
	}
	for _, kind := range []byte{keyProgress, keyDead, keyHeld} {
		t.delete(idKey(kind, id))
	}
	q.recent.forget(id)
	moved := int64(0)
	for _, kind := range []byte{keyMessage, keyState} {
		raw, err := q.store.get(idKey(kind, id))
		if errors.Is(err, ErrUnknown) {
			continue
		}
		if err != nil {
			return err
		}
		moved++
		t.set(quarantineKey(idKey(kind, id)), raw)
		t.delete(idKey(kind, id))
	}
	return q.quarantined(t, moved, string(idFrom(id)), why)
}

// setAsideKey moves one entry to the quarantine.
func (q *Queue) setAsideKey(key, value []byte, why error) error {
	t := q.newTxn()
	t.set(quarantineKey(key), value)
	t.delete(key)
	return q.quarantined(t, 1, "", why)
}

func (q *Queue) quarantined(t *txn, moved int64, id string, why error) error {
	if err := t.commit(context.Background()); err != nil {
		return err
	}
	q.log.Error("queue: damaged message is set aside", "id", id, "error", why)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.quarantine += moved
	q.recovered.Quarantined++
	return nil
}
