// Package queue keeps accepted mail until it is delivered or has been reported
// undeliverable. It is the place where "250 means durable" is true.
//
// # What it promises
//
//   - When Commit returns nil, the message is on stable storage: body, envelope,
//     the state of each recipient, the due entry and the trace, all or nothing.
//     The order is: body file synced, its folder synced, then one synced batch in
//     the index, which alone makes it a message. Bodies up to InlineLimit stand in the batch itself.
//   - Begin is durable before it returns, so an attempt that a power cut interrupts
//     is known afterwards: it is counted as Uncertain and tried again. The
//     next hop may get such a message twice, which SMTP allows (RFC 5321 4.5.4.1, RFC 1047);
//     it never gets it less than once.
//   - Finish stores results and the messages born of them in one batch: a
//     failure and its report exist together or not at all.
//   - A message leaves the queue only by Finish with final states for all
//     recipients, or by Drop. What cannot be reported becomes a dead letter and stays.
//     What the operator or quarantine holds stays on hold, never expires, and is shown.
//   - The trace of a message outlives it until Expire. Events from outside join it
//     durably, alone (Annotate) or with the message that brought them (Note).
//   - A torn or foreign record is set aside (quarantine) with a Condition; it
//     never stops the others.
//   - After the first failed write or fsync nothing is accepted any more (ErrSick),
//     and no fsync is tried a second time. Only a new process, which reads
//     everything back, knows what is stored.
//   - Memory does not grow with the number of messages: they are found by scanning
//     the due index, from where the last scan ended. Some that have just come are kept
//     in it (recent.go), so that they need not be read back.
//
// It does not send, does not write reports and decides nothing about retries
// except by the pure Schedule: that is the relay's. It never looks into a body.
// It trusts its folder: whoever can write there can forge mail.
//
// # Fairness
//
// Messages wait in lanes, one for each tenant and next hop. Due serves tenants, and
// within a tenant its lanes, by a deficit round robin in bytes (fair.go), so 100,000
// letters delay another tenant's single one by a few of them. Within a tenant the
// lower Class goes first, whatever the lane, and within a lane the earlier due time.
//
// # On disk (format 1)
//
//	format         "pforte-queue 1\n"; present once the index exists
//	ballast        nothing; its space is given back when the disk is full
//	index/         Pebble, format major version pinned
//	spool/tmp/     what comes, until it has its name; emptied at start
//	spool/XX/ID    a body, whole or coming in, larger than InlineLimit; XX: last byte of the ID in hex
//
// Keys of the index (ID in its 16 byte form, integers big-endian):
//
//	c tenant                     sums, kept by a merge operator
//	m ID                         envelope; changes only when a hold ends or a dead letter is revived
//	s ID                         states of the recipients
//	b ID / f ID                  small body / mark that spool/XX/ID is its body
//	d tenant 0 hop 0 class ms ID waits for that time
//	p ID                         an attempt is in progress
//	h ID                         on hold, with the reason
//	x ID                         dead letter, with the reason
//	t ID n                       n-th event of the trace
//	t ID 0x80 ID                 event of the trace that came from outside (Note)
//	k bucket hash ID             lookup key of the trace; see lookup.go
//	z key                        record that was found corrupt under that key
//
// A message that is not quarantined has m, s, one of b and f, and exactly one of d, p,
// h and x. Values are records as record.go describes: self-delimiting, versioned, checked.
//
// # Why not
//
//   - one file per message: one fsync of file and folder each, where Pebble shares one
//     among all that wait;
//   - large bodies in Pebble: they would be written again by each compaction.
package queue

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

// formatText is the content of the format file.
const formatText = "pforte-queue 1\n"

// Options of Open. The zero value is right for the box.
type Options struct {
	// Logger gets faults, without content. Nil means none.
	Logger *slog.Logger
	// Ballast is how many bytes are set aside on disk for the moment it is full.
	// 0 means DefaultBallast, negative none.
	Ballast int64
	// DiskSlow is how long one write may take before the disk counts as slow.
	// 0 means DefaultDiskSlow, negative: it is not watched.
	DiskSlow time.Duration

	memTable uint64 // of the index, for tests; 0 means memTableSize
}

// DefaultDiskSlow is the default of Options.DiskSlow.
const DefaultDiskSlow = 5 * time.Second

// Queue is an open queue. All methods may be called concurrently.
type Queue struct {
	fs       vfs.FS // guarded, for everything but the index
	dir      string
	log      *slog.Logger
	health   *health
	ballast  *ballast
	store    *store
	spool    *spool
	watch    io.Closer // of the disk health check
	ids      idMaker
	buffers  sync.Pool // of *chunk
	wides    sync.Pool // of *wide
	recent   *recent
	reserved atomic.Int64 // bytes of open transactions
	meter    meter
	wake     chan struct{}

	gate   sync.RWMutex // held for reading by each call, for writing by Close
	closed bool
	busy   sync.WaitGroup // commits under way, also those whose caller has left

	stop    chan struct{} // closed to end the check of bodies
	stopNow func()
	checked chan struct{} // closed when the check has ended

	dueMu sync.Mutex // one scan at a time

	mu         sync.Mutex
	lanes      map[string]*lane
	tenants    ring[*tenant]
	byTenant   map[string]*tenant
	pruneAt    int // lanes in memory
	taken      map[[idBytes]byte]*taken
	totals     map[string]Counts
	quarantine int64
	corrupt    int64 // bodies that did not match their hash, since Open
	recovered  Recovery
}

// Recovery tells what Open found after the last end, planned or not.
type Recovery struct {
	Temporary   int // unfinished files deleted from spool/tmp
	Orphans     int // bodies deleted that no message refers to
	Uncertain   int // messages whose attempt was cut off
	Quarantined int // messages newly set aside

	// Checking: body files are still being compared with the index, so Orphans and
	// Quarantined may grow.
	Checking bool
}

// Open opens the queue in dir, or makes it. It deletes what was never
// acknowledged, finds the attempts that were cut off and sets aside what is
// damaged. It takes no longer for many messages than for few: body files are compared
// with the index afterwards, beside the traffic (Recovery.Checking). It fails if another process has the queue open, and if the index is
// gone while bodies are there.
func Open(fsys vfs.FS, dir string, opts Options) (_ *Queue, err error) {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := newHealth(func(err error) { log.Error("queue store is sick: refusing mail", "error", err) })
	q := &Queue{
		dir: dir, log: log, health: h,
		wake: make(chan struct{}, 1), lanes: map[string]*lane{}, byTenant: map[string]*tenant{},
		taken: map[[idBytes]byte]*taken{}, totals: map[string]Counts{}, pruneAt: minLanes,
		recent: newRecent(),
	}
	q.stop, q.checked = make(chan struct{}), make(chan struct{})
	q.stopNow = sync.OnceFunc(func() { close(q.stop) })
	q.buffers.New = func() any { return new(chunk) }
	q.wides.New = func() any { return new(wide) }
	q.ballast = newBallast(fsys, fsys.PathJoin(dir, "ballast"), opts.Ballast, h, log)
	q.fs = &guard{FS: fsys, health: h, synced: q.meter.fileSync}
	watched, watch := watchDisk(fsys, opts.DiskSlow, h, log)
	q.watch = watch
	defer func() {
		if err != nil {
			_ = watch.Close()
			err = fmt.Errorf("open queue %s: %w", dir, err)
		}
	}()
	index := &guard{
		FS: vfs.OnDiskFull(watched, q.ballast.release), plain: watched, tidy: q.ballast.spare,
		health: h, freeze: true, synced: q.meter.logSync,
	}
	if err := q.openFiles(index, opts.memTable); err != nil {
		return nil, err
	}
	if err := q.recover(); err != nil {
		_ = q.store.close()
		return nil, err
	}
	q.ballast.restore()
	q.startCheck()
	return q, nil
}

func watchDisk(fsys vfs.FS, slow time.Duration, h *health, log *slog.Logger) (vfs.FS, io.Closer) {
	if slow == 0 {
		slow = DefaultDiskSlow
	}
	return vfs.WithDiskHealthChecks(fsys, max(slow, 0), nil, func(info vfs.DiskSlowInfo) {
		h.sawSlow(time.Now())
		log.Warn("queue disk is slow", "operation", info.OpType.String(), "file", info.Path, "took", info.Duration)
	})
}

// openFiles opens spool and index, in the order that frees space first.
func (q *Queue) openFiles(index vfs.FS, memTable uint64) error {
	if err := q.fs.MkdirAll(q.dir, spoolMode); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	exists, err := q.readFormat()
	if err != nil {
		return err
	}
	if !exists {
		if err := syncFolder(q.fs, q.fs.PathDir(q.dir)); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	q.spool, err = openSpool(q.fs, q.fs.PathJoin(q.dir, "spool"), &q.recovered)
	if err != nil {
		return err
	}
	if !exists {
		err := q.spool.bodies(func(id ID) error {
			return fmt.Errorf("body %s is there but the index is not: put back the index, or move the spool folder away", id)
		})
		if err != nil {
			return err
		}
	}
	o := indexOptions(index, q.health, q.log)
	o.ErrorIfNotExists = exists
	if memTable > 0 {
		o.MemTableSize = memTable
	}
	q.store, err = openStore(q.fs.PathJoin(q.dir, "index"), o, q.health)
	if err != nil || exists {
		return err
	}
	if err = q.writeFormat(); err != nil {
		_ = q.store.close()
	}
	return err
}

// writeFormat says that the index exists; from then on it must not be missing.
func (q *Queue) writeFormat() error {
	w, err := durable.CreateAt(q.spool, q.fs.PathJoin(q.spool.tmp, "format"), q.fs.PathJoin(q.dir, "format"), 0o600)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write([]byte(formatText)); err != nil {
		return err
	}
	return w.Commit()
}

// readFormat reports whether the queue exists, and refuses a format it does not know.
func (q *Queue) readFormat() (bool, error) {
	f, err := q.fs.Open(q.fs.PathJoin(q.dir, "format"))
	if isNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read format: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, int64(len(formatText))+1))
	if err != nil {
		return false, fmt.Errorf("read format: %w", err)
	}
	if string(text) != formatText {
		return false, fmt.Errorf("format %q is not known: boot the release that wrote it", clipText(string(text)))
	}
	return true, nil
}

// Recovery tells what Open found, and the check of body files that follows it.
func (q *Queue) Recovery() Recovery {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.recovered
}

// Sick is nil while the queue takes mail; otherwise the relay answers 421.
// A failed disk write stays until a new process opens the queue.
func (q *Queue) Sick() error { return q.health.err() }

// Wake gets a value when a message may have become due earlier than NextDue said.
func (q *Queue) Wake() <-chan struct{} { return q.wake }

// Close waits for the commits under way and closes the index. Bodies that are
// still open can only be aborted. After sickness it leaves everything as it is.
func (q *Queue) Close() error {
	q.stopNow()
	<-q.checked
	q.gate.Lock()
	defer q.gate.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	idle := make(chan struct{})
	go func() { q.busy.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-q.health.fell:
	}
	return errors.Join(q.store.close(), q.watch.Close())
}

// enter begins a call; the caller defers leave.
func (q *Queue) enter() error {
	q.gate.RLock()
	if q.closed {
		q.gate.RUnlock()
		return ErrClosed
	}
	return nil
}

func (q *Queue) leave() { q.gate.RUnlock() }
