package queue

import (
	"context"

	"github.com/cockroachdb/pebble/v2"
)

// txn is a batch together with what the queue's memory must learn when it is
// durable.
type txn struct {
	q      *Queue
	batch  *pebble.Batch
	counts map[string]Counts
	tally  tally
	dues   []dueEntry
	fresh  [][idBytes]byte // messages that are kept in memory
	files  []ID            // bodies that stand in files of their own
	learn  []func()        // under q.mu
	after  []func()        // later, without lock
}

func (q *Queue) newTxn() *txn { return q.newTxnFor(0) }

// txnRoom is enough for the records of most messages.
const txnRoom = 8 << 10

// newTxnFor makes a batch with room for so many bytes of bodies: growing would
// double it.
func (q *Queue) newTxnFor(bytes int) *txn {
	return &txn{q: q, batch: q.store.db.NewBatchWithSize(bytes + txnRoom), counts: map[string]Counts{}}
}

// set and delete fill the batch in memory and cannot fail: the batch is not
// indexed and its size is bounded by the limits of a message.
func (t *txn) set(key, value []byte) { _ = t.batch.Set(key, value, nil) }

// setEnvelope changes what else never changes: when the operator lets a message begin
// anew.
func (t *txn) setEnvelope(key [idBytes]byte, e *Envelope) {
	t.q.recent.forget(key)
	t.set(idKey(keyMessage, key), encodeEnvelope(keyMessage, e))
}

// setInline copies a small body straight into the batch.
func (t *txn) setInline(key []byte, body *Body) {
	op := t.batch.SetDeferred(len(key), body.n+recordExtra)
	copy(op.Key, key)
	body.record(op.Value)
	_ = op.Finish()
}

func (t *txn) delete(key []byte) { _ = t.batch.Delete(key, nil) }

func (t *txn) count(tenant string, c Counts) { t.counts[tenant] = t.counts[tenant].plus(c) }

func (t *txn) addDue(e dueEntry) {
	t.set(dueKey(e.lane, e.class, e.due, e.id), dueValue(e.size))
	t.dues = append(t.dues, e)
}

func (t *txn) deleteDue(e dueEntry) { t.delete(dueKey(e.lane, e.class, e.due, e.id)) }

// commit makes t durable. After errUnsure it may still become so, and the memory
// learns of it then.
func (t *txn) commit(ctx context.Context) error {
	for tenant, c := range t.counts {
		_ = t.batch.Merge(countsKey(tenant), c.encode(), nil)
	}
	t.q.busy.Add(1)
	return t.q.store.commit(ctx, t.batch, t.done)
}

// done runs once, on the committing goroutine: first with stored true or false,
// before the caller goes on; what it returns runs after that.
func (t *txn) done(stored bool) (after func()) {
	if stored {
		for _, id := range t.files {
			t.q.spool.settle(id)
		}
		t.q.meter.count(t.tally)
		t.q.mu.Lock()
		for tenant, c := range t.counts {
			t.q.totals[tenant] = t.q.totals[tenant].plus(c)
		}
		for _, e := range t.dues {
			t.q.lane(e.lane).add(e)
		}
		for _, learn := range t.learn {
			learn()
		}
		t.q.mu.Unlock()
		if len(t.dues) > 0 {
			t.q.signal()
		}
	} else {
		for _, id := range t.fresh {
			t.q.recent.forget(id)
		}
	}
	return func() {
		defer t.q.busy.Done()
		if stored {
			for _, do := range t.after {
				do()
			}
			_ = t.batch.Close()
		}
	}
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// addTrace puts events into a batch; first is the number of the first one.
func (t *txn) addTrace(id [idBytes]byte, first uint64, events ...Event) uint64 {
	for i, e := range events {
		t.set(traceKey(id, first+uint64(i)), encodeEvent(e))
	}
	return first + uint64(len(events))
}
