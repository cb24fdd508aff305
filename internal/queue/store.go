package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// The index's size on an appliance with 1 to 2 GiB of memory: at most
// memTableStop memtables, the cache and a few open tables.
const (
	memTableSize  = 32 << 20
	memTableStop  = 3
	cacheSize     = 16 << 20
	maxOpenTables = 256
	// maxTable bounds a table, so that compaction needs little space at a time
	// (ballast.spare).
	maxTable = 16 << 20
	// l0Stop is so high that commits are never held up because compaction lags or
	// has no room; reading gets slower instead.
	l0Stop = 1000
	// walBytesPerSync 0 means that only commits sync the log.
	walBytesPerSync = 0
	// syncInterval is the least time from one fsync of the log to the next. Those that
	// come meanwhile share it; one that comes alone does not wait. On a fast disk fsyncs
	// would be so frequent that each carried little, and cost more CPU than the mail.
	syncInterval = 2 * time.Millisecond
	// indexFormat is pinned: a later Pebble must not raise it by itself, or the
	// release in the other slot could no longer open the index.
	indexFormat = pebble.FormatTableFormatV6
)

// store is the index: Pebble, made safe against the death of the disk. Every
// change is one batch, synced before commit returns; Pebble's commit pipeline
// lets those that wait at the same time share an fsync.
type store struct {
	db     *pebble.DB
	health *health
	reads  atomic.Int64 // values read and entries looked at
}

func openStore(dir string, opts *pebble.Options, h *health) (*store, error) {
	type result struct {
		db  *pebble.DB
		err error
	}
	opened := make(chan result, 1)
	go func() { // a disk that fails now leaves this goroutine standing (guard)
		db, err := pebble.Open(dir, opts)
		opened <- result{db, err}
	}()
	select {
	case r := <-opened:
		if r.err != nil {
			return nil, fmt.Errorf("open index: %w", r.err)
		}
		return &store{db: r.db, health: h}, nil
	case <-h.fell:
		return nil, fmt.Errorf("open index: %w", h.err())
	}
}

func indexOptions(fsys vfs.FS, h *health, log *slog.Logger) *pebble.Options {
	o := &pebble.Options{
		FS:                          fsys,
		FormatMajorVersion:          indexFormat,
		Merger:                      countsMerger(),
		CacheSize:                   cacheSize,
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: memTableStop,
		MaxOpenFiles:                maxOpenTables,
		L0StopWritesThreshold:       l0Stop,
		WALBytesPerSync:             walBytesPerSync,
		DisableWAL:                  false,
		Logger:                      pebbleLog{log, h},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				if isFull(err) {
					h.setReserve(true)
					return
				}
				h.background(fmt.Errorf("index could not be tidied: %w", err))
			},
			FlushEnd: func(info pebble.FlushInfo) {
				if info.Err == nil {
					h.background(nil)
				}
			},
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				h.fail(fmt.Errorf("index is corrupt: %w", info.Details))
			},
			WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
				log.Warn("queue index: writing is held up", "reason", info.Reason)
			},
		},
	}
	o.WALMinSyncInterval = func() time.Duration { return syncInterval }
	o.Experimental.FileCacheShards = 2
	for i := range o.TargetFileSizes {
		o.TargetFileSizes[i] = min(maxTable, int64(2<<20)<<i)
	}
	return o
}

// commit applies b and returns when it is durable. It calls done exactly once,
// with whether b is stored, before it returns nil, and what done returns after
// that. When ctx ends first, or the store falls sick meanwhile, it returns errUnsure:
// then done is called later, or, on a disk that died, never.
func (s *store) commit(ctx context.Context, b *pebble.Batch, done func(stored bool) (after func())) error {
	err := s.health.err()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		done(false)()
		return err
	}
	result := make(chan error, 1)
	go func() {
		err := b.Commit(pebble.Sync)
		if err != nil {
			s.health.fail(fmt.Errorf("commit: %w", err))
		}
		after := done(err == nil)
		result <- err
		after()
	}()
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("%w: %w", errUnsure, s.health.err())
		}
		return nil
	case <-s.health.fell:
		return fmt.Errorf("%w: %w", errUnsure, s.health.err())
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errUnsure, ctx.Err())
	}
}

// errUnsure marks errors after which a batch may be durable all the same.
var errUnsure = errors.New("outcome is not known")

// get returns a copy of the value at key, or ErrUnknown.
func (s *store) get(key []byte) ([]byte, error) {
	if err := s.health.dead(); err != nil {
		return nil, err
	}
	s.reads.Add(1)
	value, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, ErrUnknown
	}
	if err != nil {
		s.health.fail(fmt.Errorf("read index: %w", err))
		return nil, s.health.err()
	}
	out := append([]byte(nil), value...)
	return out, closer.Close()
}

// scan calls do with the entries from lower up to but not including upper,
// until do returns false. Key and value are only good during the call.
func (s *store) scan(lower, upper []byte, do func(key, value []byte) bool) error {
	return s.iterate(lower, upper, func(it *pebble.Iterator) error {
		for ok := it.First(); ok; ok = it.Next() {
			s.reads.Add(1)
			value, err := it.ValueAndErr()
			if err != nil || !do(it.Key(), value) {
				return nil // it.Error tells
			}
		}
		return nil
	})
}

// iterate lets do move freely among the entries from lower up to upper.
func (s *store) iterate(lower, upper []byte, do func(it *pebble.Iterator) error) error {
	if err := s.health.dead(); err != nil {
		return err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("read index: %w", err)
	}
	mine := do(it)
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		s.health.fail(fmt.Errorf("read index: %w", err))
		return s.health.err()
	}
	return mine
}

// close ends the index. A sick one is left as it is: its goroutines stand still
// and hold its locks until the process ends.
func (s *store) close() error {
	if s.health.dead() != nil {
		return nil
	}
	closed := make(chan error, 1)
	go func() { closed <- s.db.Close() }()
	select {
	case err := <-closed:
		return err
	case <-s.health.fell:
		return s.health.err()
	}
}

// pebbleLog carries Pebble's messages to slog. Pebble prints keys and errors,
// never values, and our keys hold names and IDs only.
type pebbleLog struct {
	log    *slog.Logger
	health *health
}

// maxLogText bounds one message.
const maxLogText = 512

// Infof implements pebble.Logger. Nobody reads these.
func (pebbleLog) Infof(string, ...any) {}

// Errorf implements pebble.Logger.
func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Error("queue index", "error", clipText(fmt.Sprintf(format, args...)))
}

// Fatalf implements pebble.Logger. It must not return: the caller has no plan
// for that. See guard for why it does not end the process either.
func (l pebbleLog) Fatalf(format string, args ...any) {
	l.health.fail(errors.New(clipText(fmt.Sprintf(format, args...))))
	select {}
}

func clipText(s string) string { return clip(s, maxLogText) }
