package queue

import (
	"errors"
	"fmt"
	"time"
)

// Take hands out messages by their IDs, whether they are due or not, as Due does: for
// what is to be decided without an attempt. Those that are taken, on hold, dead or
// gone are left out.
func (q *Queue) Take(now time.Time, ids ...ID) ([]*Envelope, error) {
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	var out []*Envelope
	for _, id := range ids {
		e, err := q.takeOne(id, now)
		if err != nil {
			q.giveBack(out)
			return nil, fmt.Errorf("queue %s: take: %w", id, err)
		}
		if e != nil {
			out = append(out, e)
		}
	}
	return out, nil
}

func (q *Queue) takeOne(id ID, now time.Time) (*Envelope, error) {
	key, err := id.binary()
	if err != nil {
		return nil, err
	}
	e, st, err := q.load(id)
	switch {
	case errors.Is(err, ErrUnknown) || errors.Is(err, ErrCorrupt): // Due will find what is damaged
		return nil, nil
	case err != nil:
		return nil, err
	case st.due == 0 || st.hold != "": // dead or on hold
		return nil, nil
	}
	entry := e.dueEntry(key, st.due)
	if _, err := q.store.get(dueKey(entry.lane, entry.class, entry.due, entry.id)); err != nil {
		if errors.Is(err, ErrUnknown) {
			err = nil // being tried, or it has just moved on
		}
		return nil, err
	}
	if !q.tryTake(entry) {
		return nil, nil
	}
	return q.take(entry, now)
}
