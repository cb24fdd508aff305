package queue

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// blanks keeps a file of zeros ready that becomes Pebble's next log. An fsync of a log
// whose blocks are all written takes half as long as one of a log that grows, since
// the file system need not commit its journal; and for the same reason it does not
// wait for what others have written. Pebble uses its logs again later, but not
// those of an earlier process, and at first it has none.
//
// Zeros end a log for Pebble, as the rest of a log does that is used again. A blank
// that was left over is deleted at Open, and never used: after a power cut its name may
// be that of a log still.
type blanks struct {
	fs   vfs.FS // guarded
	path string
	size int64       // of each; 0: none are made
	room func() bool // whether the disk has space to spare

	mu    sync.Mutex
	ready bool
	whole map[string]bool // logs in use whose blocks are all written
	want  chan struct{}
}

// blankPiece is how much of a blank is written at a time.
const blankPiece = 1 << 20

// blankPause lets mail go before the next piece.
const blankPause = 10 * time.Millisecond

func newBlanks(fsys vfs.FS, path string, room func() bool) *blanks {
	return &blanks{fs: fsys, path: path, room: room, whole: map[string]bool{}, want: make(chan struct{}, 1)}
}

// tidy deletes what an earlier process left.
func (b *blanks) tidy() error {
	if err := b.fs.Remove(b.path); err != nil && !isNotExist(err) {
		return fmt.Errorf("remove %s: %w", b.path, err)
	}
	return nil
}

// make writes a blank, unless there is one, or the disk has too little space. It
// stops when stop says so.
func (b *blanks) make(stop func() error) error {
	b.mu.Lock()
	ready := b.ready
	b.mu.Unlock()
	if ready || !b.room() {
		return nil
	}
	err := b.write(stop)
	if err != nil {
		return errors.Join(err, b.tidy())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ready = true
	return nil
}

func (b *blanks) write(stop func() error) error {
	f, err := b.fs.Create(b.path, "blank")
	if err != nil {
		return err
	}
	piece := make([]byte, min(b.size, blankPiece))
	for left := b.size; left > 0 && err == nil; left -= int64(len(piece)) {
		if err = stop(); err == nil {
			_, err = f.Write(piece[:min(left, int64(len(piece)))])
		}
		if err == nil {
			_, err = f.SyncTo(b.size - left)
			time.Sleep(blankPause)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// become gives the blank away: rename makes it the log of that name. Only then may the
// next one be written under the blank's name. ok is false if there is none.
func (b *blanks) become(log string, rename func() (vfs.File, error)) (f vfs.File, ok bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ready {
		return nil, false, nil
	}
	f, err = rename()
	b.ready, b.whole[log] = false, true
	select {
	case b.want <- struct{}{}:
	default:
	}
	return f, true, err
}

// renamed reports whether a log is whole that gets a new name.
func (b *blanks) renamed(from, to string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole[from] {
		return false
	}
	delete(b.whole, from)
	b.whole[to] = true
	return true
}

func (b *blanks) removed(log string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.whole, log)
}

// createLog makes a log, of a blank if there is one.
func (g *guard) createLog(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if g.blanks != nil {
		f, ok, err := g.blanks.become(name, func() (vfs.File, error) { return g.FS.ReuseForWrite(g.blanks.path, name, c) })
		if ok {
			return f, err
		}
	}
	return g.FS.Create(name, c)
}

// reuseLog makes a log of an old one that is not needed any more. If that is not whole,
// a blank is better.
func (g *guard) reuseLog(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if g.blanks != nil && !g.blanks.renamed(oldname, newname) {
		f, ok, err := g.blanks.become(newname, func() (vfs.File, error) {
			if err := g.FS.Remove(oldname); err != nil {
				return nil, err
			}
			return g.FS.ReuseForWrite(g.blanks.path, newname, c)
		})
		if ok {
			return f, err
		}
	}
	return g.FS.ReuseForWrite(oldname, newname, c)
}

// startBlanks makes blanks in the background until Close, as they are used up.
func (q *Queue) startBlanks(memTable uint64) {
	go func() {
		defer close(q.blanked)
		if q.blanks.size <= 0 {
			return
		}
		for first := true; ; first = false {
			if err := q.blanks.make(q.stopped); err != nil {
				if !errors.Is(err, errStopped) {
					q.log.Warn("queue log could not be prepared: fsyncs take longer", "error", err)
				}
				return
			}
			if first && q.store.ripen(memTable, q.stopped) != nil {
				return
			}
			select {
			case <-q.blanks.want:
			case <-q.stop:
				return
			case <-q.health.fell:
				return
			}
		}
	}()
}
