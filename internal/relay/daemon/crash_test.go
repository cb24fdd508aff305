package daemon

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// TestPowerCuts lets mail flow both ways, takes what a disk would hold after a
// power cut at that instant, and goes on from there: every message that got 250
// before the cut is delivered, before it or after.
func TestPowerCuts(t *testing.T) {
	seed := time.Now().UnixNano()
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	t.Logf("seed %d", seed)
	duplicates := 0
	for round := range 20 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			w := newWorld(t)
			disk := vfs.NewCrashableMem()
			makeDurable(t, disk, w.dir)
			w.fs = disk
			first := w.start()
			down := round%2 == 0 // in half of the rounds nothing is handed over before the cut
			w.provider.SetDown(down)
			l := &ledger{acked: map[string]bool{}}
			senders := l.send(w, first, 4)
			l.await(t, 5+rng.IntN(40))

			l.mu.Lock() // no answer is read between these two
			acked := l.all()
			image := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[round%3], RNG: rng})
			l.mu.Unlock()
			before := len(w.provider.Ledger())
			arrivedBefore := w.serverA.count()
			l.stop()
			senders.Wait()
			first.end(t)
			strays := len(w.provider.Ledger())
			straysIn := w.serverA.count()

			w.provider.SetDown(false)
			w.fs = image
			second := w.start()
			w.mustDrain(second)
			seen := map[string]int{}
			for i, r := range w.provider.Ledger() {
				if i < before || i >= strays {
					seen[strings.Trim(r.MessageID, "<>")]++
				}
			}
			for i := range w.serverA.count() {
				if i < arrivedBefore || i >= straysIn {
					seen[messageID(w.serverA.await(t, i+1).raw)]++
				}
			}
			for _, id := range acked {
				if seen[id] == 0 {
					t.Errorf("%s got 250 and is lost", id)
				}
				duplicates += max(0, seen[id]-1)
			}
			t.Logf("%d messages got 250 before the cut", len(acked))
		})
	}
	t.Logf("%d duplicates", duplicates)
}

func messageID(raw []byte) string {
	_, rest, _ := bytes.Cut(bytes.ToLower(raw), []byte("\r\nmessage-id: <"))
	id, _, _ := bytes.Cut(rest, []byte(">"))
	return string(id)
}

// ledger notes the messages that got 250.
type ledger struct {
	mu    sync.Mutex
	acked map[string]bool
	ended bool
	more  chan struct{}
}

func (l *ledger) all() (ids []string) {
	for id := range l.acked {
		ids = append(ids, id)
	}
	return ids
}

// ack notes a 250 as it is read; false ends the sender.
func (l *ledger) ack(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[id] = true
	select {
	case l.more <- struct{}{}:
	default:
	}
	return !l.ended
}

func (l *ledger) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

func (l *ledger) await(t *testing.T, n int) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		l.mu.Lock()
		got := len(l.acked)
		l.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-l.more:
		case <-limit.C:
			t.Fatalf("%d messages accepted, want %d", got, n)
		}
	}
}

// send starts n senders of each direction.
func (l *ledger) send(w *world, r *running, n int) *sync.WaitGroup {
	l.more = make(chan struct{}, 1)
	var group sync.WaitGroup
	for s := range n {
		c := w.greeted(w.clientA)
		group.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("out-%d-%d@gemeinde-a.example", s, i)
				size := []int{10, 3000, 100_000}[i%3]
				body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72+1)
				if !transact(c, compose(body, "From: "+mailA, "To: "+citizen, "Subject: x", "Message-ID: <"+id+">")) || !l.ack(id) {
					return
				}
			}
		})
	}
	for range 2 {
		group.Go(func() {
			for {
				c, err := w.provider.Push(w.t.Context(), r.push, dmdatest.DeMail{From: citizen, To: []string{officeA}})
				if err != nil || !l.ack(strings.ToLower(strings.Trim(c.MessageID, "<>"))) {
					return
				}
			}
		})
	}
	return &group
}

// transact sends one message and reports whether it got 250.
func transact(c *talk, message []byte) bool {
	tp := textproto.NewConn(c.Conn)
	for _, step := range []struct {
		line string
		code int
	}{{"MAIL FROM:<" + mailA + ">", 250}, {"RCPT TO:<" + citizen + ">", 250}, {"DATA", 354}} {
		if err := tp.PrintfLine("%s", step.line); err != nil {
			return false
		}
		if _, _, err := tp.ReadResponse(step.code); err != nil {
			return false
		}
	}
	if _, err := c.Write(stuffed(message)); err != nil {
		return false
	}
	_, _, err := tp.ReadResponse(250)
	return err == nil
}
