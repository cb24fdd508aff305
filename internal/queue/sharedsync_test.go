package queue

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Each caller must be covered by a run that began after its call, and far fewer
// runs than callers must do.
func TestSharedSyncCoversEveryCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var written, runs atomic.Int64
		var synced atomic.Int64
		s := &sharedSync{sync: func() error {
			runs.Add(1)
			seen := written.Load()
			time.Sleep(10 * time.Millisecond)
			synced.Store(seen)
			return nil
		}}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				for range 4 {
					mine := written.Add(1)
					if err := s.do(); err != nil {
						t.Error(err)
					}
					if synced.Load() < mine {
						t.Errorf("write %d is not covered: synced up to %d", mine, synced.Load())
					}
				}
			})
		}
		wg.Wait()
		if n := runs.Load(); n > 40 {
			t.Errorf("%d runs for 200 calls", n)
		}
	})
}

func TestSharedSyncReportsToAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fault := errors.New("fault")
		s := &sharedSync{sync: func() error { time.Sleep(time.Millisecond); return fault }}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := s.do(); !errors.Is(err, fault) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
	})
}
