package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxDue bounds how many messages one call of Due hands out.
const MaxDue = 1000

// lane is one tenant's mail for one next hop, as far as memory knows it. Its
// numbers are lower bounds: they save scanning over what is long deleted, and
// asking lanes that have nothing due. Finding less than a bound says is harmless.
type lane struct {
	key string
	// from is, for each class, a time before which the index has no entry.
	from [classes]int64
	// ready is a time before which no message can be handed out.
	ready int64
}

func newLane(key string) *lane {
	l := &lane{key: key, ready: never}
	for c := range l.from {
		l.from[c] = never
	}
	return l
}

// add notes that an entry is in the index.
func (l *lane) add(e dueEntry) {
	l.from[e.class] = min(l.from[e.class], e.due)
	l.ready = min(l.ready, e.due)
}

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
}

// Due hands out at most limit messages (and at most MaxDue) whose time has come,
// serving the lanes in turn. A message handed out is not handed out again until
// Finish or Release. The envelopes are copies. Damaged messages are set aside.
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
	lanes := q.readyLanes(now, skip)
	for len(lanes) > 0 && len(out) < limit {
		share := max(1, (limit-len(out))/len(lanes))
		var more []*lane
		for _, l := range lanes {
			if len(out) == limit {
				break
			}
			got, rest, err := q.serve(l, now, min(share, limit-len(out)))
			if err != nil {
				q.giveBack(out)
				return nil, fmt.Errorf("queue due: %w", err)
			}
			out = append(out, got...)
			q.setLast(l.key)
			if rest {
				more = append(more, l)
			}
		}
		lanes = more
	}
	return out, nil
}

// readyLanes lists the lanes that may have something due, beginning behind the
// one that was served last.
func (q *Queue) readyLanes(now time.Time, skip []Skip) []*lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ready []*lane
	for _, l := range q.lanes {
		if l.ready <= now.UnixMilli() && !l.skipped(skip) {
			ready = append(ready, l)
		}
	}
	slices.SortFunc(ready, func(a, b *lane) int { return strings.Compare(a.key, b.key) })
	first, _ := slices.BinarySearchFunc(ready, q.lastLane+"\x00", func(l *lane, key string) int {
		return strings.Compare(l.key, key)
	})
	return append(slices.Clone(ready[first:]), ready[:first]...)
}

func (q *Queue) setLast(key string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastLane = key
}

// giveBack releases messages that Due cannot hand out after all.
func (q *Queue) giveBack(list []*Envelope) {
	for _, e := range list {
		q.Release(e.ID)
	}
}

// serve takes up to n due messages from l, and reports whether there may be more.
func (q *Queue) serve(l *lane, now time.Time, n int) ([]*Envelope, bool, error) {
	entries, more, err := q.scanLane(l, now.UnixMilli(), n)
	if err != nil {
		return nil, false, err
	}
	var out []*Envelope
	for i, e := range entries {
		envelope, err := q.take(e, now)
		if err != nil {
			for _, rest := range entries[i:] {
				q.untake(rest.id)
			}
			q.giveBack(out)
			return nil, false, err
		}
		if envelope != nil {
			out = append(out, envelope)
		}
	}
	return out, more, nil
}

// scanLane finds up to n entries that are due and not taken, and marks them
// taken. While it reads, the lane's bounds are lifted to never; what it finds
// and what commits meanwhile add lowers them again.
func (q *Queue) scanLane(l *lane, now int64, n int) (found []dueEntry, more bool, err error) {
	q.mu.Lock()
	old := *l
	*l = *newLane(l.key)
	q.mu.Unlock()

	seen := newLane(l.key)
	for class := Class(0); class < classes; class++ {
		if old.from[class] > now || more {
			seen.from[class] = old.from[class]
			if !more {
				seen.ready = min(seen.ready, old.from[class])
			}
			continue
		}
		lower := dueKey(l.key, class, old.from[class], [idBytes]byte{})
		upper := laneEnd(l.key)
		if class+1 < classes {
			upper = dueKey(l.key, class+1, 0, [idBytes]byte{})
		}
		err = q.store.scan(lower, upper, func(key, _ []byte) bool {
			e, ok := parseDue(key)
			if !ok {
				return true // no message waits under such a key
			}
			seen.from[class] = min(seen.from[class], e.due)
			more = len(found) == n && e.due <= now
			if e.due > now || more {
				seen.ready = min(seen.ready, e.due)
				return false
			}
			if q.tryTake(e) {
				found = append(found, e)
			}
			return true
		})
		if err != nil {
			break
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		seen = &old
		for _, e := range found {
			delete(q.taken, e.id)
		}
	}
	for c := range l.from {
		l.from[c] = min(l.from[c], seen.from[c])
	}
	l.ready = min(l.ready, seen.ready)
	return found, more, err
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
		}
	}
}

// take loads a message that tryTake has marked. It returns nil if the message
// has moved on since the scan began, or was found damaged and set aside.
func (q *Queue) take(e dueEntry, now time.Time) (*Envelope, error) {
	envelope, st, err := q.load(idFrom(e.id))
	if err == nil && st.due == e.due && st.hold == "" {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.taken[e.id] = &taken{envelope: envelope, state: st, entry: e, at: now}
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
		if l.ready < next && !l.skipped(skip) {
			next = l.ready
		}
	}
	if next == never {
		return time.Time{}, false
	}
	return time.UnixMilli(next), true
}
