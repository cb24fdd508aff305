package queue

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestRestartDoesNotReadTheQueue: what Open reads, and what the first letter afterwards
// costs, does not grow with the mail that waits. (TestMillion has the times.)
func TestRestartDoesNotReadTheQueue(t *testing.T) {
	many := 50_000
	if testing.Short() {
		many = 10_000
	}
	var opened, taken [2]int64
	for i, recipients := range []int{many / 10, many} {
		mem := vfs.NewMem()
		q := openTest(t, mem)
		to := make([]string, 20)
		for k := range to {
			to[k] = fmt.Sprintf("empfaenger-%d@gemeinde.de-mail.example", k)
		}
		fill(t, q, recipients/len(to), lettersOf("a", "provider", Normal, to...), testBody(100, 1))
		fill(t, q, 3, lettersOf("b", "provider", Normal, "x@y"), testBody(InlineLimit+1, 1))
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		q, err := Open(mem, "/queue", testOptions())
		if err != nil {
			t.Fatal(err)
		}
		<-q.checked
		opened[i] = q.store.reads.Load()
		mustDue(t, q, 10)
		taken[i] = q.store.reads.Load() - opened[i]
		commitTo(t, q, "b", "provider", Normal, time.Time{})
		if s, err := q.Stats(); err != nil || s.Total.Recipients != int64(recipients)+4 {
			t.Errorf("stats %+v, %v", s.Total, err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	const most = 50 // counts, lanes and the three files
	if opened[0] != opened[1] || opened[1] > most {
		t.Errorf("Open read %v entries, want the same few", opened)
	}
	if taken[0] != taken[1] || taken[1] > most {
		t.Errorf("taking 10 messages read %v entries, want the same few", taken)
	}
}

// TestMillion is the real thing, in two processes: the first fills a queue on disk
// with PFORTE_MILLION=DIR and ends without closing it, the second opens it and
// prints how long it took until a message was accepted, and the memory used.
// PFORTE_MILLION_RECIPIENTS is how many recipients each message has (1).
func TestMillion(t *testing.T) {
	base := os.Getenv("PFORTE_MILLION")
	if base == "" {
		return // a measurement, with gigabytes of disk
	}
	each := 1
	if text := os.Getenv("PFORTE_MILLION_RECIPIENTS"); text != "" {
		if _, err := fmt.Sscan(text, &each); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(base, fmt.Sprint("queue-", each))
	_, err := os.Stat(filepath.Join(dir, "format"))
	if there := err == nil; !there {
		millionFill(t, dir, each)
		return
	}
	start := time.Now()
	q, err := Open(vfs.Default, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	opened := time.Since(start)
	mustCommit(t, q, lettersOf("new", "provider", Normal, "x@y")(0), testBody(10<<10, 1))
	accepted := time.Since(start)
	n := len(mustDue(t, q, 100))
	due := time.Since(start)
	s, err := q.Stats()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d recipients of %d messages wait: opened in %v, first message accepted after %v, %d taken after %v; %s",
		s.Total.Recipients, s.Total.Messages, opened, accepted, n, due, memoryUse(t))
	for total := n; total < 20_000; {
		total += len(mustDue(t, q, 1000))
		for i := range 1000 {
			mustCommit(t, q, lettersOf(fmt.Sprint("new-", i%50), "provider", Normal, "x@y")(0), testBody(10<<10, 1))
		}
	}
	t.Logf("after work on 20,000 messages: %s", memoryUse(t))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

func millionFill(t *testing.T, dir string, each int) {
	q, err := Open(vfs.Default, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	fill(t, q, 1_000_000/each, func(i int) *Envelope {
		to := make([]string, each)
		for k := range to {
			to[k] = fmt.Sprintf("buerger-%d.%d@gemeinde.de-mail.example", i, k)
		}
		e := lettersOf(fmt.Sprint("gemeinde-", i%200), "provider", Class(i%int(classes)), to...)(i)
		e.Keys = []string{fmt.Sprintf("message-id:<%d@gemeinde.example>", i), "address:" + to[0]}
		return e
	}, testBody(2<<10, 1))
	t.Logf("filled in %v; %s. Run it again to open it.", time.Since(start), memoryUse(t))
}

// memoryUse is what the kernel says about this process.
func memoryUse(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "VmHWM") {
			out = append(out, strings.Join(strings.Fields(line), " "))
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return fmt.Sprintf("%s, Go heap %d MiB", strings.Join(out, ", "), m.HeapAlloc>>20)
}

// IDs go on rising after a restart, also when the clock stepped back, but not after
// one that was far ahead.
func TestIDsFollowThoseOfBefore(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  bool
	}{{30 * time.Minute, true}, {2 * time.Hour, false}} {
		mem := vfs.NewMem()
		q := openTest(t, mem)
		q.ids.last = firstIDAt(time.Now().Add(c.ahead))
		id := commitTo(t, q, "a", "p", Normal, time.Time{})
		q = reopen(t, q, mem)
		if b := mustBody(t, q, nil); (b.ID() > id) != c.want {
			t.Errorf("clock %v ahead: %s after %s", c.ahead, b.ID(), id)
		}
	}
}

// A body that was never acknowledged goes at the next start, also when the clock has
// stepped back since it came, so that its ID is newer than those of today.
func TestOrphanFromTheFuture(t *testing.T) {
	for _, ahead := range []time.Duration{time.Second, 24 * time.Hour} {
		mem := vfs.NewMem()
		q := openTest(t, mem)
		q.ids.last = firstIDAt(time.Now().Add(ahead))
		b := mustBody(t, q, make([]byte, InlineLimit+1))
		if err := b.seal(); err != nil {
			t.Fatal(err)
		}
		path := q.spool.path(b.ID()) // and then the process ends
		q = reopen(t, q, mem)
		if _, err := mem.Stat(path); !isNotExist(err) || q.Recovery().Orphans != 1 {
			t.Errorf("clock %v ahead: file of the body: %v; %+v", ahead, err, q.Recovery())
		}
	}
}

// The check of bodies leaves those alone that are on their way into the index.
func TestCheckLeavesBodiesThatCome(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	there := func(id ID) bool {
		if err := q.checkBodies(q.ids.next(time.Now())); err != nil {
			t.Fatal(err)
		}
		_, err := q.fs.Stat(q.spool.path(id))
		return err == nil
	}
	large := make([]byte, InlineLimit+1)
	b := mustBody(t, q, large)
	if err := b.seal(); err != nil {
		t.Fatal(err)
	}
	if !there(b.ID()) {
		t.Error("a sealed body was removed before its batch came")
	}
	b.Abort()
	stored := mustCommit(t, q, testEnvelope("a", "x@y"), large)
	if !there(stored) {
		t.Error("the body of a stored message was removed")
	}
	if len(q.spool.incoming) != 0 {
		t.Errorf("incoming: %v", q.spool.incoming)
	}
}
