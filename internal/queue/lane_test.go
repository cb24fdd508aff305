package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func commitTo(t testing.TB, q *Queue, tenant, hop string, class Class, due time.Time) ID {
	t.Helper()
	e := testEnvelope(tenant, "x@y")
	e.Hop, e.Class, e.Recipients[0].NextTry = hop, class, due
	return mustCommit(t, q, e, nil)
}

func TestClassThenTime(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	now := time.Now().Truncate(time.Millisecond)
	bulk := commitTo(t, q, "a", "p", Bulk, now.Add(-3*time.Hour))
	late := commitTo(t, q, "a", "p", Normal, now.Add(-time.Minute))
	early := commitTo(t, q, "a", "p", Normal, now.Add(-time.Hour))
	urgent := commitTo(t, q, "a", "p", Urgent, now)
	commitTo(t, q, "a", "p", Urgent, now.Add(time.Hour))
	var got []ID
	for range 10 {
		for _, e := range mustDue(t, q, 1) {
			got = append(got, e.ID)
		}
	}
	if want := []ID{urgent, early, late, bulk}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

// Lanes whose next hop is known to take nothing cost nothing and hide nothing.
func TestSkippedLanesAreLeftAlone(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	now := time.Now().Truncate(time.Millisecond)
	commitTo(t, q, "a", "provider", Urgent, now)
	commitTo(t, q, "b", "provider", Urgent, now)
	inbound := commitTo(t, q, "a", "tenant", Bulk, now)
	later := now.Add(time.Hour)
	commitTo(t, q, "b", "tenant", Bulk, later)
	noProvider := func(_, hop string) bool { return hop == "provider" }
	list, err := q.Due(now, 10, noProvider)
	if err != nil || len(list) != 1 || list[0].ID != inbound {
		t.Fatalf("due %v, %v; want only %s", list, err, inbound)
	}
	if next, ok := q.NextDue(noProvider); !ok || !next.Equal(later) {
		t.Errorf("next due %v, %v; want %v", next, ok, later)
	}
	if list, err = q.Due(now, 10, noProvider, func(tenant, _ string) bool { return tenant == "b" }); err != nil || len(list) != 0 {
		t.Errorf("due %v, %v; want nothing", list, err)
	}
	if list, err = q.Due(now, 10); err != nil || len(list) != 2 {
		t.Errorf("due %v, %v; want both that were skipped", list, err)
	}
}

func TestReleaseIsDueAgain(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	now := time.Now().Truncate(time.Millisecond)
	id := commitTo(t, q, "a", "p", Normal, now)
	for range 3 {
		if list := mustDue(t, q, 5); len(list) != 1 || list[0].ID != id {
			t.Fatalf("due %v", list)
		}
		<-q.Wake()
		q.Release(id, "nonsense", q.ids.next(now))
	}
	if _, ok := q.NextDue(); !ok {
		t.Error("NextDue says that nothing waits")
	}
}

// TestDueAgainstModel compares Due with a plain list, through random commits,
// attempts, releases and restarts, at times that go forward and sometimes back.
func TestDueAgainstModel(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 5))
		m := &dueModel{mem: vfs.NewMem(), now: time.UnixMilli(1_800_000_000_000), waiting: map[ID]time.Time{}, taken: map[ID]bool{}}
		m.q = openTest(t, m.mem)
		for step := range 120 {
			if err := m.step(t, rng); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
		}
	}
}

type dueModel struct {
	mem     *vfs.MemFS
	q       *Queue
	now     time.Time
	waiting map[ID]time.Time
	taken   map[ID]bool
}

func (m *dueModel) step(t *testing.T, rng *rand.Rand) error {
	at := m.now.Add(time.Duration(rng.IntN(40_000)-20_000) * time.Millisecond)
	switch rng.IntN(12) {
	case 0, 1, 2, 3:
		class := Class(rng.IntN(int(classes)))
		id := commitTo(t, m.q, fmt.Sprint("t", rng.IntN(3)), fmt.Sprint("h", rng.IntN(2)), class, at)
		m.waiting[id] = at
	case 4, 5, 6:
		return m.due(rng.IntN(5))
	case 7, 8:
		if len(m.taken) == 0 {
			return nil
		}
		id := slices.Min(slices.Collect(maps.Keys(m.taken)))
		delete(m.taken, id)
		m.waiting[id] = at
		return m.q.Finish(id, Outcome{Results: []Result{{Recipient: 0, State: Waiting, NextTry: at}}})
	case 9:
		for id := range m.taken {
			delete(m.taken, id)
			m.q.Release(id)
		}
	case 10:
		m.now = m.now.Add(time.Duration(rng.IntN(20_000)-5_000) * time.Millisecond)
	case 11:
		if rng.IntN(4) == 0 {
			if err := m.q.Close(); err != nil {
				return err
			}
			m.q = openTest(t, m.mem)
			clear(m.taken)
		}
	}
	return nil
}

// due takes everything that is due, limit by limit, and compares.
func (m *dueModel) due(limit int) error {
	want := map[ID]bool{}
	next := time.Time{}
	for id, at := range m.waiting {
		if m.taken[id] {
			continue
		}
		if !at.After(m.now) {
			want[id] = true
		}
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	if got, ok := m.q.NextDue(); !next.IsZero() && (!ok || got.After(next)) {
		return fmt.Errorf("NextDue %v %v, a message is due at %v", got, ok, next)
	}
	for len(want) > 0 {
		list, err := m.q.Due(m.now, limit+1)
		if err != nil {
			return err
		}
		if len(list) != min(limit+1, len(want)) {
			return fmt.Errorf("%d messages of at most %d, %d are due", len(list), limit+1, len(want))
		}
		for _, e := range list {
			if !want[e.ID] {
				return fmt.Errorf("%s is not due, or taken", e.ID)
			}
			delete(want, e.ID)
			m.taken[e.ID] = true
		}
	}
	if list, err := m.q.Due(m.now, 10); err != nil || len(list) != 0 {
		return fmt.Errorf("%d messages more than are due, %w", len(list), err)
	}
	return nil
}

// A message must not slip through between Revive and a Due that runs meanwhile.
func TestReviveIsFound(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	id := commitTo(t, q, "a", "p", Normal, time.Time{})
	mustDue(t, q, 1)
	found := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	poller := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			list, err := q.Due(time.Now(), 1)
			if err != nil {
				poller <- err
				return
			}
			if len(list) > 0 {
				found <- struct{}{}
			}
		}
		poller <- nil
	}()
	for range 3000 {
		if err := errors.Join(q.Finish(id, Outcome{Dead: "x"}), q.Revive(id, time.Now())); err != nil {
			t.Fatal(err)
		}
		select {
		case <-found:
		case <-time.After(10 * time.Second):
			t.Fatal("a revived message is never due")
		}
	}
	cancel()
	if err := <-poller; err != nil {
		t.Error(err)
	}
}
