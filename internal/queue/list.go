package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxList bounds how many messages one call lists.
const MaxList = 1000

// Filter chooses messages. Zero fields choose all.
type Filter struct {
	Tenant    string
	Hop       string
	Direction Direction
	Before    time.Time // received before
	Made      time.Time // its ID was made before; what is behind that is not looked at
	Sender    string    // reverse-path, whatever its case
	Recipient string    // a forward-path, whatever its case
	// Reason is part of the last reply to a recipient ("451 4.7.1 ..."), or of why
	// the message is held or dead, whatever its case.
	Reason string
	State  string // "" or one of InQueue, OnHold, DeadEnded
	After  ID     // continue behind this one
	Limit  int    // at most MaxList; 0 means MaxList
}

// maxExamined bounds how many messages one call of List looks at, so that an
// operator's rare filter cannot keep the index busy.
const maxExamined = 100_000

// List returns messages that wait, are held or dead, oldest first, without Prefix. next is
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
		if !f.Made.IsZero() && !idFrom(id).Time().Before(f.Made) {
			return false // so are all behind it
		}
		examined++
		if e, err := decodeEnvelope(keyMessage, idFrom(id), value); err == nil && f.takes(e) {
			if q.standing(e, id) == nil && f.takesState(e) {
				list = append(list, e)
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

// States of Filter.
const (
	InQueue   = "waiting" // waiting for an attempt, or being tried
	OnHold    = "held"
	DeadEnded = "dead"
)

// takes looks at what never changes about a message.
func (f Filter) takes(e *Envelope) bool {
	return (f.Tenant == "" || e.Tenant == f.Tenant) && (f.Hop == "" || e.Hop == f.Hop) &&
		(f.Direction == "" || e.Direction == f.Direction) &&
		(f.Before.IsZero() || e.Received.Before(f.Before)) &&
		(f.Sender == "" || strings.EqualFold(e.From, f.Sender)) &&
		(f.Recipient == "" || slices.ContainsFunc(e.Recipients, func(r Recipient) bool {
			return strings.EqualFold(r.Address, f.Recipient)
		}))
}

// takesState looks at the rest.
func (f Filter) takesState(e *Envelope) bool {
	state := InQueue
	switch {
	case e.DeadReason != "":
		state = DeadEnded
	case e.Hold:
		state = OnHold
	}
	if f.State != "" && f.State != state {
		return false
	}
	part := strings.ToLower(f.Reason)
	return part == "" || strings.Contains(strings.ToLower(e.HoldReason+"\n"+e.DeadReason), part) ||
		slices.ContainsFunc(e.Recipients, func(r Recipient) bool {
			return strings.Contains(strings.ToLower(fmt.Sprintf("%d %s %s", r.Last.Code, r.Last.Enhanced, r.Last.Text)), part)
		})
}

// standing fills in how e stands now, and takes its prefix away.
func (q *Queue) standing(e *Envelope, id [idBytes]byte) error {
	e.Prefix = nil
	raw, err := q.store.get(idKey(keyState, id))
	if err == nil {
		_, err = decodeState(e, raw)
	}
	if err != nil {
		return err
	}
	raw, err = q.store.get(idKey(keyDead, id))
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	m, err := decodeMark(keyDead, raw)
	if e.DeadReason = m.reason; err != nil || m.reason == "" {
		e.DeadReason = "the reason cannot be read"
	}
	return nil
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
	key, err := id.binary()
	if err == nil {
		err = q.standing(e, key)
	}
	if err != nil {
		return nil, fmt.Errorf("queue %s: %w", id, err)
	}
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
	dead, held := int64(0), int64(0)
	for _, c := range q.totals {
		dead += c.Dead
		held += c.Held
	}
	if held > 0 {
		all = append(all, Condition{"queue.held", Warning, fmt.Sprintf("%d messages are on hold", held),
			"look at them, then release or bounce them"})
	}
	if dead > 0 {
		all = append(all, Condition{"queue.dead", Warning, fmt.Sprintf("%d dead letters are kept", dead),
			"revive or drop them"})
	}
	return all
}

// Expire deletes the traces of messages accepted before t, with their lookup keys. It
// costs the same however many they are. Call it about daily.
func (q *Queue) Expire(t time.Time) error {
	if err := q.enter(); err != nil {
		return err
	}
	defer q.leave()
	txn := q.newTxn()
	if err := txn.expireKeys(t); err != nil {
		return fmt.Errorf("queue expire: %w", err)
	}
	if err := txn.batch.DeleteRange([]byte{keyTrace}, idKey(keyTrace, firstIDAt(t)), nil); err != nil {
		return fmt.Errorf("queue expire: %w", err)
	}
	if err := txn.commit(context.Background()); err != nil {
		return fmt.Errorf("queue expire: %w", err)
	}
	return nil
}
