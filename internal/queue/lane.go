package queue

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// MaxDue bounds how many messages one call of Due hands out.
const MaxDue = 1000

// lane is one tenant's mail for one next hop, as far as memory knows it. Its
// numbers are lower bounds: they save scanning over what is long deleted, and
// asking lanes that have nothing due. Finding less than a bound says is harmless.
type lane struct {
	key string
	account
	tenant *tenant
	// from is, for each class, a time before which the index has no entry.
	from [classes]int64
	// ready is, for each class, a time before which no message can be handed out.
	ready [classes]int64
}

func newLane(key string) *lane {
	l := &lane{key: key}
	for c := range classes {
		l.from[c], l.ready[c] = never, never
	}
	return l
}

// add notes that an entry is in the index.
func (l *lane) add(e dueEntry) { l.lower(e.class, e.due, e.due) }

func (l *lane) lower(class Class, from, ready int64) {
	l.from[class] = min(l.from[class], from)
	l.ready[class] = min(l.ready[class], ready)
}

// empty reports whether the lane has no mail but what is taken; if that is given
// back, the lane is made again.
func (l *lane) empty() bool { return slices.Min(l.ready[:]) == never }

// Skip reports whether a lane is to be left alone. It must be quick and must not
// call the queue.
type Skip func(tenant, hop string) bool

func (l *lane) skipped(skip []Skip) bool {
	if len(skip) == 0 {
		return false
	}
	tenant, hop := laneNames(l.key)
	return slices.ContainsFunc(skip, func(s Skip) bool { return s(tenant, hop) })
}

// lane returns the lane with that key. The caller holds q.mu.
func (q *Queue) lane(key string) *lane {
	l := q.lanes[key]
	if l == nil {
		l = newLane(key)
		q.lanes[key] = l
		q.join(l)
	}
	return l
}

// taken is a message that Due has handed out. Until it is given back nobody else
// changes it, so its record here is the truth.
type taken struct {
	envelope *Envelope // nil while Due reads it
	state    state
	entry    dueEntry  // where it waits, unless begun
	at       time.Time // the time given to Due
	begun    bool      // it stands under keyProgress, not under keyDue
	busy     bool      // Begin or Finish is under way
	cost     int64     // what its tenant and lane were charged
}

// Due hands out at most limit messages (and at most MaxDue) whose time has come, in
// the order that fairness asks for (fair.go). A message handed out is not handed out
// again until Finish or Release. The envelopes are copies. Damaged messages are set
// aside. Its work is bounded by limit, not by how much mail there is.
//
// A message may be handed out a moment before its Commit returns. That is safe,
// since Begin is durable only together with everything before it.
//
// Lanes that any skip names are left alone, as if they were empty: the caller
// knows that their next hop takes nothing now.
func (q *Queue) Due(now time.Time, limit int, skip ...Skip) ([]*Envelope, error) {
	if err := q.enter(); err != nil {
		return nil, err
	}
	defer q.leave()
	q.dueMu.Lock()
	defer q.dueMu.Unlock()

	limit = min(limit, MaxDue)
	var out []*Envelope
	for len(out) < limit {
		q.mu.Lock()
		turn, ok := q.nextTurn(now.UnixMilli(), skip)
		if !ok && len(skip) == 0 && len(out) == 0 {
			q.forgive()
		}
		q.mu.Unlock()
		if !ok {
			break
		}
		got, err := q.serve(turn, now, limit-len(out))
		if err != nil {
			q.giveBack(out)
			return nil, fmt.Errorf("queue due: %w", err)
		}
		out = append(out, got...)
	}
	return out, nil
}

// giveBack releases messages that Due cannot hand out after all.
func (q *Queue) giveBack(list []*Envelope) {
	for _, e := range list {
		q.Release(e.ID)
	}
}

// serve takes up to n due messages of a turn.
func (q *Queue) serve(t turn, now time.Time, n int) ([]*Envelope, error) {
	entries, err := q.scanLane(t, now.UnixMilli(), n)
	if err != nil {
		return nil, err
	}
	var out []*Envelope
	for i, e := range entries {
		envelope, err := q.take(e, now)
		if err != nil {
			for _, rest := range entries[i:] {
				q.untake(rest.id)
			}
			q.giveBack(out)
			return nil, err
		}
		if envelope != nil {
			out = append(out, envelope)
		}
	}
	return out, nil
}

// scanLane finds up to n entries of a turn that are due and not taken, and marks them
// taken, until they use up its budget. While it reads, the lane's bounds are lifted to
// never; what it finds and what commits meanwhile add lowers them again.
func (q *Queue) scanLane(t turn, now int64, n int) (found []dueEntry, err error) {
	l, class, budget := t.lane, t.class, t.budget
	q.mu.Lock()
	oldFrom, oldReady := l.from[class], l.ready[class]
	l.from[class], l.ready[class] = never, never
	q.mu.Unlock()

	from, ready := int64(never), int64(never)
	lower := dueKey(l.key, class, oldFrom, [idBytes]byte{})
	upper := laneEnd(l.key)
	if class+1 < classes {
		upper = dueKey(l.key, class+1, 0, [idBytes]byte{})
	}
	err = q.store.scan(lower, upper, func(key, value []byte) bool {
		e, ok := parseDue(key)
		if !ok {
			return true // no message waits under such a key
		}
		from = min(from, e.due)
		if e.due > now || len(found) == n || budget <= 0 {
			ready = e.due
			return false
		}
		if q.tryTake(e) {
			found = append(found, e)
			budget -= dueCost(value)
		}
		return true
	})
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		from, ready = oldFrom, oldReady
		for _, e := range found {
			delete(q.taken, e.id)
		}
	}
	l.lower(class, from, ready)
	return found, err
}

// tryTake marks a message taken, unless it is.
func (q *Queue) tryTake(e dueEntry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.taken[e.id] != nil {
		return false
	}
	q.taken[e.id] = &taken{entry: e, busy: true}
	return true
}

func (q *Queue) untake(id [idBytes]byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.taken[id]; t != nil {
		delete(q.taken, id)
		if !t.begun {
			q.lane(t.entry.lane).add(t.entry)
			q.charge(t.entry.lane, -t.cost)
		}
	}
}

// charge puts a message on its lane's and tenant's account. The caller holds q.mu.
func (q *Queue) charge(lane string, cost int64) {
	l := q.lane(lane)
	l.charge(cost)
	l.tenant.charge(cost)
}

// take loads a message that tryTake has marked. It returns nil if the message
// has moved on since the scan began, or was found damaged and set aside.
func (q *Queue) take(e dueEntry, now time.Time) (*Envelope, error) {
	envelope, st, err := q.load(idFrom(e.id))
	if err == nil && st.due == e.due && st.hold == "" {
		q.mu.Lock()
		defer q.mu.Unlock()
		e.size = envelope.Size
		t := &taken{envelope: envelope, state: st, entry: e, at: now, cost: messageCost + e.size}
		q.taken[e.id] = t
		q.charge(e.lane, t.cost)
		return envelope.clone(), nil
	}
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnknown) {
		return nil, err
	}
	defer q.untake(e.id)
	_, still := q.store.get(dueKey(e.lane, e.class, e.due, e.id))
	if errors.Is(still, ErrUnknown) {
		return nil, nil // finished or put off after the scan's snapshot
	}
	if still != nil {
		return nil, still
	}
	if err == nil {
		err = fmt.Errorf("%w: due entry does not fit the state", ErrCorrupt)
	}
	return nil, q.setAside(e.id, &e, err)
}

// Release gives back messages that were handed out and not begun; they are due
// as before. Others are left as they are.
func (q *Queue) Release(ids ...ID) {
	for _, id := range ids {
		b, err := id.binary()
		if err != nil {
			continue
		}
		q.mu.Lock()
		t := q.taken[b]
		free := t != nil && !t.begun && !t.busy
		q.mu.Unlock()
		if free {
			q.untake(b)
		}
	}
	q.signal()
}

// NextDue is the earliest time at which Due, given the same skip, may find
// something, and false if nothing waits. It may be too early, never too late.
func (q *Queue) NextDue(skip ...Skip) (time.Time, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next := int64(never)
	for _, l := range q.lanes {
		if ready := slices.Min(l.ready[:]); ready < next && !l.skipped(skip) {
			next = ready
		}
	}
	if next == never {
		return time.Time{}, false
	}
	return time.UnixMilli(next), true
}
