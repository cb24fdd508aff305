package queue

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
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
				switch rng.IntN(8) {
				case 0:
					faults[caller] = workDead(q, book, rng)
				case 1, 2:
					faults[caller] = workDeliver(q, book, rng)
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
	book.note(b.ID(), func(e *entry) { *e = known })
	if err := q.Commit(context.Background(), randomEnvelope(rng), b); err != nil {
		return err
	}
	book.note(b.ID(), func(e *entry) { e.acked = true })
	return nil
}

func workDeliver(q *Queue, book *ledger, rng *rand.Rand) error {
	due, err := q.Due(time.Now(), 1+rng.IntN(3))
	if err != nil {
		return err
	}
	var ids []ID
	for _, e := range due {
		ids = append(ids, e.ID)
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
		if err := workFinish(q, book, rng, id); err != nil {
			return err
		}
	}
	return nil
}

func workFinish(q *Queue, book *ledger, rng *rand.Rand, id ID) error {
	both := func(s State) []Result {
		next := time.Now().Add(-time.Second)
		return []Result{{Recipient: 0, State: s, NextTry: next}, {Recipient: 1, State: s, NextTry: next}}
	}
	o, leaving := Outcome{Results: both(Delivered)}, gone
	var child ID
	switch rng.IntN(5) {
	case 0:
		o, leaving = Outcome{Results: both(Waiting)}, later
	case 1:
		o, leaving = Outcome{Results: both(Failed), Dead: "nobody to tell"}, dead
	case 2:
		b, known, err := workBody(q, rng)
		if err != nil {
			return err
		}
		o = Outcome{Results: both(Failed), Births: []Birth{{randomEnvelope(rng), b}}}
		child = b.ID()
		known.parent = id
		book.note(child, func(e *entry) { *e = known })
	}
	mine, revives := 0, 0
	book.note(id, func(e *entry) { e.leaving, e.child = leaving, child; mine, revives = e.begins, e.revives })
	if err := q.Finish(id, o); err != nil {
		return err
	}
	if child != "" {
		book.note(child, func(e *entry) { e.acked = true })
	}
	book.note(id, func(e *entry) {
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
			if err == nil || errors.Is(err, ErrUnknown) {
				e.reviving--
			}
			if err == nil && e.begins == mine && !e.calling {
				e.left, e.leaving, e.open = stays, stays, false
			}
		})
	}
	if errors.Is(err, ErrUnknown) || errors.Is(err, ErrInvalid) {
		return nil // another caller was first
	}
	return err
}
