package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"

	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// crashPoints is how many power cuts TestPowerCuts makes; PFORTE_CRASH_POINTS in
// the environment overrides it.
const crashPoints = 10_000

func wantedCrashPoints(t *testing.T) int {
	n := crashPoints
	if underRace {
		n /= 20
	}
	if text := os.Getenv("PFORTE_CRASH_POINTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	if testing.Short() {
		n = min(n, 500)
	}
	return n
}

// crashOptions have a memtable so small that the workload makes Pebble flush,
// rotate its log and compact all the time.
func crashOptions() Options {
	o := testOptions()
	o.memTable = 256 << 10
	return o
}

// TestPowerCuts is the proof of "250 means durable". A random workload of several
// callers runs on a disk that takes a picture of itself before its writes, syncs,
// renames and removals, with 0, 50 or 100 % of the unsynced data kept. Each picture
// is opened as a queue and compared with what the callers knew at that moment. Some
// pictures become the disk of the next workload, and pictures are taken while they
// are being opened, so that recovery itself is cut off as well.
func TestPowerCuts(t *testing.T) {
	wanted := wantedCrashPoints(t)
	c := &cutter{pictures: make(chan picture, 16), failed: make(chan struct{})}
	var checkers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		checkers.Go(func() { c.checkAll(t) })
	}
	seed := uint64(0)
	for ; c.count() < wanted && !c.hasFailed(); seed++ {
		c.lifetime(t, seed)
	}
	close(c.pictures)
	checkers.Wait()
	t.Logf("%d power cuts in %d lifetimes, of these %d while recovering; %d messages acknowledged, 0 lost",
		c.taken, seed, c.recovering, c.acked)
}

type cutter struct {
	pictures chan picture
	failed   chan struct{}
	once     sync.Once

	mu         sync.Mutex
	taken      int
	recovering int
	acked      int
	inOpen     bool
	last       *picture
}

func (c *cutter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

func (c *cutter) hasFailed() bool {
	select {
	case <-c.failed:
		return true
	default:
		return false
	}
}

func (c *cutter) take(p picture) {
	c.mu.Lock()
	c.taken++
	if c.inOpen {
		c.recovering++
	}
	c.last = &picture{mem: p.mem.CrashClone(vfs.CrashCloneCfg{}), known: p.known} // checking p changes it
	c.mu.Unlock()
	select {
	case c.pictures <- p:
	case <-c.failed:
	}
}

func (c *cutter) setInOpen(in bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inOpen = in
}

// checkAll opens each picture and holds it against the ledger.
func (c *cutter) checkAll(t *testing.T) {
	for p := range c.pictures {
		if c.hasFailed() {
			continue
		}
		if err := checkPicture(p); err != nil {
			t.Errorf("power cut before step %d (%s), %d%% of unsynced data kept: %v", p.step, p.op, p.percent, err)
			c.once.Do(func() { close(c.failed) })
		}
	}
}

func checkPicture(p picture) error {
	q, err := Open(p.mem, "/queue", crashOptions())
	if err != nil {
		return err
	}
	<-q.checked
	if err := errors.Join(p.known.verify(q), q.Close()); err != nil {
		return err
	}
	if p.step%8 != 0 {
		return nil
	}
	if q, err = Open(p.mem, "/queue", crashOptions()); err != nil {
		return fmt.Errorf("second start: %w", err)
	}
	<-q.checked
	return errors.Join(p.known.verify(q), q.Close())
}

// lifetime is one box: workloads with power cuts between them.
func (c *cutter) lifetime(t *testing.T, seed uint64) {
	const generations = 4
	rng := rand.New(rand.NewPCG(seed, 2))
	book := newLedger()
	mem := vfs.NewCrashableMem()
	for generation := range generations {
		disk := newCrashDisk(mem, seed+uint64(generation), 1+rng.IntN(4), book, c.take)
		c.setInOpen(generation > 0)
		q, err := Open(disk, "/queue", crashOptions())
		c.setInOpen(false)
		if err == nil && generation > 0 {
			err = errors.Join(book.resolve(q))
		}
		if err != nil {
			t.Errorf("lifetime %d, generation %d: %v", seed, generation, err)
			c.once.Do(func() { close(c.failed) })
			return
		}
		if err := work(q, book, rng.Uint64(), 4, 10); err != nil {
			t.Errorf("workload: %v", err)
		}
		c.mu.Lock()
		last := c.last
		c.last = nil
		c.mu.Unlock()
		disk.off.Store(true)
		if err := verifyReach(q); err != nil {
			t.Errorf("lifetime %d, generation %d, still running: %v", seed, generation, err)
		}
		book.mu.Lock()
		for _, e := range book.msgs {
			if e.acked {
				c.acked++
			}
		}
		book.mu.Unlock()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if last == nil || c.hasFailed() {
			return
		}
		mem = last.mem
		book = last.known.copy()
	}
}
