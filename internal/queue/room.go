package queue

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// DefaultBallast is the space set aside for the moment the disk is full: enough
// to log more than all memtables hold, while nothing else can be written.
const DefaultBallast = 128 << 20

// reserveShare is the part of the disk (1/50 = 2 %) that new mail may not use, so
// that states and reports still fit.
const reserveShare = 50

// Room reports whether the disk has space for the mail of that many sessions, each
// with a message of at most maxSize bytes, above the reserve: ErrFull if not,
// ErrSick if the store is. The relay asks at MAIL; reports of failure are not asked for.
func (q *Queue) Room(maxSize int64, sessions int) error {
	return q.roomFor(uint64(maxSize) / 2 * 3 * uint64(max(sessions, 1)))
}

// roomFor reports whether that many bytes fit above the reserve.
func (q *Queue) roomFor(bytes uint64) error {
	if err := q.Sick(); err != nil {
		return err
	}
	usage, err := q.fs.GetDiskUsage(q.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("queue disk usage: %w", err)
	}
	need := usage.TotalBytes/reserveShare + q.ballast.forCompaction() + bytes
	if usage.AvailBytes < need {
		return fmt.Errorf("%w: %d MiB free, %d MiB wanted", ErrFull, usage.AvailBytes>>20, need>>20)
	}
	q.ballast.restore()
	if q.health.usesReserve() {
		return fmt.Errorf("%w: the reserve is in use", ErrFull)
	}
	return nil
}

// Reserve keeps room for one open transaction, of size bytes as declared or allowed:
// what is reserved counts as used until release is called. ErrFull if it does not fit
// above the reserve, ErrSick if the store is sick. The relay asks at MAIL and releases
// at the end of the transaction; release may be called more than once.
func (q *Queue) Reserve(size int64) (release func(), err error) {
	need := max(size, 0) / 2 * 3
	if err := q.roomFor(uint64(q.reserved.Add(need))); err != nil {
		q.reserved.Add(-need)
		return nil, err
	}
	return sync.OnceFunc(func() { q.reserved.Add(-need) }), nil
}

// ballast is a file that takes space while the disk has some, and is deleted when
// the index cannot be written for want of it; that write is then tried once more. A
// body file that finds no room is refused instead, and from the moment the
// reserve is in use Room refuses all, so that it is left to states and reports.
type ballast struct {
	fs     vfs.FS
	path   string
	size   int64
	health *health
	log    *slog.Logger

	mu   sync.Mutex
	gone bool
}

func newBallast(fsys vfs.FS, path string, size int64, h *health, log *slog.Logger) *ballast {
	if size == 0 {
		size = DefaultBallast
	}
	return &ballast{fs: fsys, path: path, size: size, health: h, log: log, gone: true}
}

// release gives the space back.
func (b *ballast) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fs.Remove(b.path) == nil {
		b.log.Error("queue disk is full: the reserve is given back")
	}
	b.gone = true
	b.health.setReserve(true)
}

// forCompaction is the free space below which compaction stops: half a ballast.
func (b *ballast) forCompaction() uint64 { return uint64(max(b.size, 0)) / 2 }

// spare reports whether compaction may go on.
func (b *ballast) spare() bool {
	usage, err := b.fs.GetDiskUsage(b.fs.PathDir(b.path))
	return err != nil || usage.AvailBytes >= b.forCompaction()
}

// ballastFactor: the ballast is made only where this many times its size is free.
const ballastFactor = 4

// restore makes the ballast, also in place of one that an earlier process left, if
// the disk has plenty of space. It is called when the disk has room for new mail.
// Without it the queue works all the same, so no fault here is more than a condition.
func (b *ballast) restore() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size <= 0 || !b.gone {
		b.health.setReserve(false)
		return
	}
	usage, err := b.fs.GetDiskUsage(b.fs.PathDir(b.path))
	if err != nil || usage.AvailBytes < ballastFactor*uint64(b.size) {
		return
	}
	_ = b.fs.Remove(b.path)
	f, err := b.fs.Create(b.path, "ballast")
	if err == nil {
		err = errors.Join(f.Preallocate(0, b.size), f.Sync(), f.Close())
	}
	if err != nil {
		b.log.Warn("queue reserve could not be made", "error", err)
		_ = b.fs.Remove(b.path)
		return
	}
	b.gone = false
	b.health.setReserve(false)
}
