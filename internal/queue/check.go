package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// checkBatch bounds how many body files are in memory while they are compared.
const checkBatch = 1000

// errStopped: the queue is being closed.
var errStopped = errors.New("stopped")

// checkBodies compares the body files with the index, after Open and beside the
// traffic. A file that nothing refers to was never acknowledged, or its message is
// finished. A message without its file is set aside. Messages newer than the ID before,
// which came after Open, it need not look at.
func (q *Queue) checkBodies(before ID) error {
	for b := range shards {
		if err := q.removeOrphans(byte(b)); err != nil {
			return err
		}
	}
	var after ID
	for {
		some, err := q.bodyMarks(after, before)
		if err != nil || len(some) == 0 {
			return err
		}
		for _, m := range some {
			if err := q.checkBody(m); err != nil {
				return err
			}
		}
		after = some[len(some)-1].id
	}
}

// maxClockStep is how far the clock may have stepped back at a restart for new IDs to
// follow the old ones all the same.
const maxClockStep = time.Hour

// followIDs lets new IDs sort behind those of the messages that are there, so that the
// check can tell old from new.
func (q *Queue) followIDs() error {
	return q.store.iterate([]byte{keyMessage}, prefixEnd(keyMessage), func(it *pebble.Iterator) error {
		if !it.Last() {
			return nil
		}
		if id, ok := keyID(it.Key()); ok && time.Until(idFrom(id).Time()) < maxClockStep {
			q.ids.last = id // nobody else is here yet
		}
		return nil
	})
}

// startCheck runs checkBodies in the background; Close stops it.
func (q *Queue) startCheck() {
	before := q.ids.next(time.Now())
	q.recovered.Checking = true
	go func() {
		defer close(q.checked)
		err := q.checkBodies(before)
		if err != nil && !errors.Is(err, errStopped) {
			q.log.Error("queue bodies could not be compared with the index", "error", err)
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.recovered.Checking = err != nil
		if r := q.recovered; r != (Recovery{}) {
			q.log.Info("queue recovered", "temporary", r.Temporary, "orphans", r.Orphans,
				"uncertain", r.Uncertain, "quarantined", r.Quarantined)
		}
	}()
}

// stopped reports whether the check must end.
func (q *Queue) stopped() error {
	select {
	case <-q.stop:
		return errStopped
	default:
		return q.health.dead()
	}
}

// removeOrphans deletes the files of one folder that the index does not know. A
// message that ends just now is gone from the index before that is durable; until then
// its file must stay.
func (q *Queue) removeOrphans(shard byte) error {
	var orphans []ID
	err := q.spool.shardBodies(shard, func(id ID) error {
		if err := q.stopped(); err != nil {
			return err
		}
		if q.spool.isIncoming(id) {
			return nil
		}
		key, err := id.binary()
		if err != nil {
			return err
		}
		_, err = q.store.get(idKey(keyFile, key))
		if errors.Is(err, ErrUnknown) {
			orphans, err = append(orphans, id), nil
		}
		return err
	})
	if err != nil || len(orphans) == 0 {
		return err
	}
	if err := q.barrier(); err != nil {
		return err
	}
	for _, id := range orphans {
		if err := q.spool.remove(id); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.recovered.Orphans += len(orphans)
	return nil
}

// barrier returns when all that could be read before is durable.
func (q *Queue) barrier() error {
	t := q.newTxn()
	if err := t.batch.LogData([]byte{keyFile}, nil); err != nil {
		return fmt.Errorf("queue barrier: %w", err)
	}
	return t.commit(context.Background())
}

// bodyMark says that a message has a body file.
type bodyMark struct {
	id   ID
	size int64
	err  error // the mark cannot be read
}

// bodyMarks lists some of the messages that have a body file.
func (q *Queue) bodyMarks(after, before ID) (some []bodyMark, err error) {
	lower, err := listFrom(keyFile, after)
	if err != nil {
		return nil, err
	}
	key, err := before.binary()
	if err != nil {
		return nil, err
	}
	err = q.store.scan(lower, idKey(keyFile, key), func(key, value []byte) bool {
		if id, ok := keyID(key); ok {
			size, err := decodeFile(value)
			some = append(some, bodyMark{idFrom(id), size, err})
		}
		return len(some) < checkBatch
	})
	return some, err
}

// checkBody sets a message aside whose body file is not as the index says. If somebody
// has taken the message, reading the body will tell.
func (q *Queue) checkBody(m bodyMark) error {
	if err := q.stopped(); err != nil {
		return err
	}
	info, err := q.fs.Stat(q.spool.path(m.id))
	if err != nil && !isNotExist(err) {
		return err
	}
	if err == nil && m.err == nil && info.Size() == m.size {
		return nil
	}
	key, err := m.id.binary()
	if err != nil {
		return err
	}
	held := q.claim(key)
	if held == nil {
		return nil
	}
	defer q.unclaim(key, held)
	for _, kind := range []byte{keyFile, keyMessage} {
		// It may have ended just now, or been set aside before: then the mark is alone.
		if _, err := q.store.get(idKey(kind, key)); errors.Is(err, ErrUnknown) {
			return nil
		}
	}
	return q.setAside(key, nil, fmt.Errorf("%w: body file is missing or has the wrong size", ErrCorrupt))
}
