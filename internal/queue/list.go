package queue

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// MaxList bounds how many messages one call lists.
const MaxList = 1000

// Filter chooses messages. Zero fields choose all.
type Filter struct {
	Tenant string
	Hop    string
	Before time.Time // received before
	After  ID        // continue behind this one
	Limit  int       // at most MaxList; 0 means MaxList
}

// maxExamined bounds how many messages one call of List looks at, so that an
// operator's rare filter cannot keep the index busy.
const maxExamined = 100_000

// List returns waiting and dead messages, oldest first, without Prefix. next is
// the Filter.After to continue with, "" at the end. Damaged ones are left out.
func (q *Queue) List(ctx context.Context, f Filter) (list []*Envelope, next ID, err error) {
	if err := q.enter(); err != nil {
		return nil, "", err
	}
	defer q.leave()
	lower, err := listFrom(keyMessage, f.After)
	if err != nil {
		return nil, "", err
	}
	limit := f.Limit
	if limit <= 0 || limit > MaxList {
		limit = MaxList
	}
	examined := 0
	err = q.store.scan(lower, prefixEnd(keyMessage), func(key, value []byte) bool {
		id, ok := keyID(key)
		if !ok {
			return true
		}
		examined++
		if e, err := decodeEnvelope(keyMessage, idFrom(id), value); err == nil && f.takes(e) {
			if raw, err := q.store.get(idKey(keyState, id)); err == nil {
				if _, err := decodeState(e, raw); err == nil {
					e.Prefix = nil
					list = append(list, e)
				}
			}
		}
		if len(list) == limit || examined == maxExamined || ctx.Err() != nil {
			next = idFrom(id)
			return false
		}
		return true
	})
	if err := errors.Join(err, ctx.Err()); err != nil {
		return nil, "", fmt.Errorf("queue list: %w", err)
	}
	return list, next, nil
}

func (f Filter) takes(e *Envelope) bool {
	return (f.Tenant == "" || e.Tenant == f.Tenant) && (f.Hop == "" || e.Hop == f.Hop) &&
		(f.Before.IsZero() || e.Received.Before(f.Before))
}

// listFrom is the key behind which a listing goes on.
func listFrom(kind byte, after ID) ([]byte, error) {
	if after == "" {
		return []byte{kind}, nil
	}
	id, err := after.binary()
	if err != nil {
		return nil, err
	}
	return append(idKey(kind, id), 0), nil
}

// Show returns one message without Prefix, or ErrUnknown.
func (q *Queue) Show(id ID) (*Envelope, error) {
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	e, _, err := q.load(id)
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", id, err)
	}
	e.Prefix = nil
	return e, nil
}

// Stats is how the queue stands.
type Stats struct {
	Total       Counts
	Tenants     map[string]Counts
	Taken       int       // handed out by Due
	Oldest      time.Time // when the oldest message, dead letters included, was accepted; zero if there is none
	Quarantined int64     // records set aside
}

// Stats counts without scanning: it costs one seek.
func (q *Queue) Stats() (Stats, error) {
	if err := q.enter(); err != nil {
		return Stats{}, err
	}
	defer q.leave()
	s := Stats{Tenants: map[string]Counts{}}
	err := q.store.scan([]byte{keyMessage}, prefixEnd(keyMessage), func(key, _ []byte) bool {
		if id, ok := keyID(key); ok {
			s.Oldest = idFrom(id).Time()
		}
		return false
	})
	if err != nil {
		return Stats{}, fmt.Errorf("queue stats: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for tenant, c := range q.totals {
		s.Total = s.Total.plus(c)
		if c != (Counts{}) {
			s.Tenants[tenant] = c
		}
	}
	s.Taken, s.Quarantined = len(q.taken), q.quarantine
	return s, nil
}

// Conditions are the store's findings about itself; none means healthy.
func (q *Queue) Conditions() []Condition {
	all := q.health.conditions(time.Now())
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quarantine > 0 {
		all = append(all, Condition{"queue.quarantine", Critical,
			fmt.Sprintf("%d damaged records were set aside; their messages are not delivered", q.quarantine),
			"check the disk; ask the senders to send again"})
	}
	if q.corrupt > 0 {
		all = append(all, Condition{"queue.corrupt", Critical,
			fmt.Sprintf("%d bodies did not match their hash", q.corrupt), "check the disk; look at the dead letters"})
	}
	dead := int64(0)
	for _, c := range q.totals {
		dead += c.Dead
	}
	if dead > 0 {
		all = append(all, Condition{"queue.dead", Warning, fmt.Sprintf("%d dead letters are kept", dead),
			"revive or drop them"})
	}
	return all
}

// Expire deletes the traces of messages accepted before t. Call it about daily.
func (q *Queue) Expire(t time.Time) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	txn := q.newTxn()
	if err := txn.batch.DeleteRange([]byte{keyTrace}, idKey(keyTrace, firstIDAt(t)), nil); err != nil {
		return fmt.Errorf("queue expire: %w", err)
	}
	if err := txn.commit(context.Background()); err != nil {
		return fmt.Errorf("queue expire: %w", err)
	}
	return nil
}
