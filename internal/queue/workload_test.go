package queue

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// work lets several callers use q at once, each for a number of rounds or until
// its first error, and keeps the ledger.
func work(q *Queue, book *ledger, seed uint64, callers, rounds int) error {
	var wg sync.WaitGroup
	faults := make([]error, callers)
	for caller := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(caller)))
			for round := 0; round < rounds && faults[caller] == nil; round++ {
				switch rng.IntN(12) {
				case 0:
					faults[caller] = workDead(q, book, rng)
				case 1, 2, 3:
					faults[caller] = workDeliver(q, book, rng)
				case 4, 5:
					faults[caller] = workOperate(q, book, rng)
				case 6:
					faults[caller] = workAnnotate(q, book, rng)
				default:
					faults[caller] = workCommit(q, book, rng)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

// randomBody is mostly small, sometimes larger than fits the index.
func randomBody(rng *rand.Rand) []byte {
	size := rng.IntN(4000)
	switch rng.IntN(8) {
	case 0:
		size = InlineLimit + 1 + rng.IntN(40_000)
	case 1:
		size = 0
	}
	b := make([]byte, size)
	seed := byte(rng.IntN(256))
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

func randomEnvelope(rng *rand.Rand) *Envelope {
	e := testEnvelope(fmt.Sprintf("tenant-%d", rng.IntN(3)), "one@x", "two@x")
	e.Hop = fmt.Sprintf("hop-%d", rng.IntN(2))
	e.Class = Class(rng.IntN(int(classes)))
	return e
}

func workBody(q *Queue, rng *rand.Rand) (*Body, entry, error) {
	content := randomBody(rng)
	b, err := q.NewBody(1 << 20)
	if err != nil {
		return nil, entry{}, err
	}
	_, err = b.Write(content)
	return b, entry{sum: sha256.Sum256(content), size: int64(len(content)), rcpts: 2}, err
}

func workCommit(q *Queue, book *ledger, rng *rand.Rand) error {
	b, known, err := workBody(q, rng)
	if err != nil {
		return err
	}
	if rng.IntN(10) == 0 {
		b.Abort()
		return nil
	}
	e := randomEnvelope(rng)
	e.Keys = keysOf(b.ID())
	known.hold = free
	if e.Hold = rng.IntN(8) == 0; e.Hold {
		known.hold = onHold
	}
	if target := book.any(rng); rng.IntN(4) == 0 && target != "" {
		e.Notes = []Note{{target, Event{Kind: Received, Recipient: -1, Other: b.ID()}}}
		known.noteTo = target
	}
	book.note(b.ID(), func(e *entry) { *e = known })
	if err := q.Commit(context.Background(), e, b); err != nil {
		return err
	}
	book.note(b.ID(), func(e *entry) { e.acked = true })
	return nil
}

func keysOf(id ID) []string { return []string{"one:" + string(id), "all"} }

// any is a message that was acknowledged, so that its trace is known to be there; ""
// if there is none.
func (l *ledger) any(rng *rand.Rand) ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []ID
	for id, e := range l.msgs {
		if e.acked {
			all = append(all, id)
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return all[rng.IntN(len(all))]
}

// workAnnotate is a confirmation that comes for some message, there or gone; and the
// daily Expire, which finds nothing that is old enough.
func workAnnotate(q *Queue, book *ledger, rng *rand.Rand) error {
	if rng.IntN(8) == 0 {
		return q.Expire(time.Now().Add(-time.Hour))
	}
	id := book.any(rng)
	if id == "" {
		return nil
	}
	book.note(id, func(e *entry) { e.noteCalls++ })
	err := q.Annotate(id, Event{Kind: Noted, Recipient: 1, Data: map[string]string{"who": "outside"}})
	if err == nil {
		book.note(id, func(e *entry) { e.notes++ })
	}
	return err
}

// workOperate is the operator, who does something to a few messages at once.
func workOperate(q *Queue, book *ledger, rng *rand.Rand) error {
	list, _, err := q.List(context.Background(), Filter{})
	if err != nil || len(list) == 0 {
		return err
	}
	var ids []ID
	for range 1 + rng.IntN(3) {
		ids = append(ids, list[rng.IntN(len(list))].ID)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	switch rng.IntN(6) {
	case 0:
		return book.operate(ids, onHold, false, func() (int, error) { return q.Hold(ids, "test") })
	case 1, 2:
		return book.operate(ids, free, false, func() (int, error) { return q.Unhold(ids) })
	case 3:
		return book.operate(ids, free, true, func() (int, error) { return q.Bounce(ids, "test") })
	}
	return book.retry(q, ids[:1])
}

// operate does one operation and notes what is certain before and after it.
func (l *ledger) operate(ids []ID, to holding, bounce bool, do func() (int, error)) error {
	mine, before := map[ID]int{}, map[ID]entry{}
	for _, id := range ids {
		l.note(id, func(e *entry) {
			before[id] = *e
			e.ops++
			e.opsOpen++
			mine[id], e.hold = e.ops, maybe
			if bounce {
				e.bounces++
			}
		})
	}
	n, err := do()
	if errors.Is(err, ErrSick) || (err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrUnknown)) {
		return err
	}
	for _, id := range ids {
		l.note(id, func(e *entry) {
			e.opsOpen--
			alone := e.ops == mine[id] && e.opsOpen == 0
			switch was := before[id]; {
			case err == nil && alone:
				e.hold = to
				e.bounced = e.bounced || (bounce && e.revives == was.revives && e.left == stays && e.leaving != dead)
			case n == 0 && alone && was.opsOpen == 0:
				e.hold = was.hold // nothing was changed
			}
		})
	}
	return nil
}

// retry makes one message due.
func (l *ledger) retry(q *Queue, ids []ID) error {
	begins := 0
	l.note(ids[0], func(e *entry) { begins = e.begins })
	at := time.Now()
	n, err := q.Retry(ids, at)
	if errors.Is(err, ErrSick) || (err != nil && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrUnknown)) {
		return err
	}
	l.note(ids[0], func(e *entry) {
		if n == 1 && e.begins == begins && !e.calling && e.leaving == stays {
			e.retried.begins, e.retried.at = begins, at
		}
	})
	return nil
}

func workDeliver(q *Queue, book *ledger, rng *rand.Rand) error {
	due, err := q.Due(time.Now(), 1+rng.IntN(3))
	if err != nil {
		return err
	}
	var ids []ID
	envelopes := map[ID]*Envelope{}
	for _, e := range due {
		ids = append(ids, e.ID)
		envelopes[e.ID] = e
		// A Finish that was under way is decided, since the message is handed out. Its
		// Commit may not be: Pebble shows a batch before it is synced.
		book.note(e.ID, func(e *entry) { e.open, e.leaving, e.left = false, stays, stays })
	}
	if rng.IntN(8) == 0 {
		q.Release(ids...)
		return nil
	}
	for _, id := range ids {
		book.note(id, func(e *entry) { e.calling = true })
	}
	if err := q.Begin(ids...); err != nil {
		return err
	}
	for _, id := range ids {
		book.note(id, func(e *entry) { e.acked, e.calling, e.open = true, false, true; e.begins++ })
	}
	for _, id := range ids {
		if err := workFinish(q, book, rng, envelopes[id]); err != nil {
			return err
		}
	}
	return nil
}

func workFinish(q *Queue, book *ledger, rng *rand.Rand, e *Envelope) error {
	id := e.ID
	next := time.Now().Add(-time.Second)
	if rng.IntN(3) == 0 {
		next = next.Add(time.Hour) // until the operator lets it be tried
	}
	both := func(s State) []Result {
		return []Result{{Recipient: 0, State: s, NextTry: next}, {Recipient: 1, State: s, NextTry: next}}
	}
	o, leaving := Outcome{Results: both(Delivered)}, gone
	var child ID
	told := 0
	kind := rng.IntN(6)
	if e.BounceReason != "" {
		kind = 2
	}
	switch kind {
	case 0, 5:
		o, leaving = Outcome{Results: both(Waiting)}, later
		if rng.IntN(2) == 0 {
			told = e.Recipients[0].DelaysTold + 1
			o.DelaysTold = map[int]int{0: told}
		}
	case 1:
		o, leaving = Outcome{Results: both(Failed), Dead: "nobody to tell"}, dead
	case 2:
		b, known, err := workBody(q, rng)
		if err != nil {
			return err
		}
		report := randomEnvelope(rng)
		report.Keys = keysOf(b.ID())
		o = Outcome{Results: both(Failed), Births: []Birth{{report, b}}}
		child = b.ID()
		known.parent, known.hold = id, free
		book.note(child, func(e *entry) { *e = known })
	}
	mine, revives := 0, 0
	book.note(id, func(e *entry) {
		e.leaving, e.child = leaving, child
		e.toldCalled = max(e.toldCalled, told)
		e.bounced = e.bounced && leaving != dead
		mine, revives = e.begins, e.revives
	})
	if err := q.Finish(id, o); err != nil {
		return err
	}
	if child != "" {
		book.note(child, func(e *entry) { e.acked = true })
	}
	book.note(id, func(e *entry) {
		e.told = max(e.told, told)
		if e.begins != mine || e.revives != revives || e.calling || e.left != stays {
			return // somebody else has it by now
		}
		e.open, e.leaving = false, stays
		if leaving != later {
			e.left = leaving
		}
	})
	return nil
}

// workDead is the operator, who deletes or revives the oldest dead letter.
func workDead(q *Queue, book *ledger, rng *rand.Rand) error {
	letters, err := q.DeadLetters("", 1)
	if err != nil || len(letters) == 0 {
		return err
	}
	id := letters[0].Envelope.ID
	if rng.IntN(2) == 0 {
		book.note(id, func(e *entry) { e.dropping = true })
		err = q.Drop(id, "test")
		if err == nil {
			book.note(id, func(e *entry) { e.left = gone })
		}
	} else {
		mine := 0
		book.note(id, func(e *entry) { e.reviving++; e.revives++; mine = e.begins })
		err = q.Revive(id, time.Now())
		book.note(id, func(e *entry) {
			if errors.Is(err, ErrUnknown) {
				e.reviving--
			}
			if err != nil {
				return
			}
			e.revives++
			if e.begins == mine && !e.calling {
				e.left, e.leaving, e.open = stays, stays, false
				e.reviving--
			} // else it may have been another death that this ended: nothing is certain
		})
	}
	if errors.Is(err, ErrUnknown) || errors.Is(err, ErrInvalid) {
		return nil // another caller was first
	}
	return err
}
