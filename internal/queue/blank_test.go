package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// The log in use is one whose blocks are all written, soon after the start and when
// memtables are full, and Open deletes the blank that is left over.
func TestLogsAreWrittenAhead(t *testing.T) {
	mem := vfs.NewMem()
	o := testOptions()
	o.memTable, o.blank = 512<<10, 1<<20
	open := func() *Queue {
		q, err := Open(mem, "/queue", o)
		if err != nil {
			t.Fatal(err)
		}
		<-q.checked
		return q
	}
	whole := func() (n int) {
		names, err := mem.List("/queue/index")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			info, err := mem.Stat("/queue/index/" + name)
			if err == nil && strings.HasSuffix(name, ".log") && info.Size() == o.blank {
				n++
			}
		}
		return n
	}
	q := open()
	for deadline := time.Now().Add(time.Minute); whole() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no log was written ahead")
		}
	}
	used := func() int {
		q.blanks.mu.Lock()
		defer q.blanks.mu.Unlock()
		return len(q.blanks.whole)
	}
	sent := int64(0)
	for ; used() < 2; sent++ { // memtables get full
		if sent == 5000 {
			t.Fatal("only the first log was written ahead")
		}
		mustCommit(t, q, testEnvelope("a", "x@y"), testBody(20_000, 1))
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	o.blank = -1
	q = open()
	defer q.Close()
	if _, err := mem.Stat("/queue/blank"); err == nil {
		t.Error("the blank of an earlier process is left")
	}
	if s, err := q.Stats(); err != nil || s.Total.Messages != sent {
		t.Errorf("%+v, %v", s.Total, err)
	}
}
