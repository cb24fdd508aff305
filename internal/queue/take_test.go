package queue

import (
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestTakeByID(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	now := time.Now().Truncate(time.Millisecond)
	later := commitTo(t, q, "a", "p", Normal, now.Add(time.Hour))
	held := commitTo(t, q, "a", "p", Normal, now)
	begun := commitTo(t, q, "a", "p", Urgent, now)
	dead := commitTo(t, q, "b", "p", Normal, now)
	if _, err := q.Hold([]ID{held}, "x"); err != nil {
		t.Fatal(err)
	}
	for _, e := range mustDue(t, q, 2) {
		switch e.ID {
		case begun:
			if err := q.Begin(begun); err != nil {
				t.Fatal(err)
			}
		case dead:
			if err := q.Finish(dead, Outcome{Dead: "x"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	unknown := commitTo(t, q, "c", "p", Normal, now)
	for _, e := range mustDue(t, q, 1) {
		if err := q.Finish(e.ID, Outcome{Results: []Result{{State: Delivered}}}); err != nil {
			t.Fatal(err)
		}
	}
	ids := []ID{later, held, begun, dead, unknown, later}
	got, err := q.Take(now, ids...)
	if err != nil || len(got) != 1 || got[0].ID != later {
		t.Fatalf("taken %v, %v; want only the one that waits for later", got, err)
	}
	if again, err := q.Take(now, ids...); err != nil || len(again) != 0 {
		t.Fatalf("taken twice: %v, %v", again, err)
	}
	q.Release(later)
	if got, err = q.Take(now, later); err != nil || len(got) != 1 {
		t.Fatalf("not taken after it was given back: %v, %v", got, err)
	}
	if err := q.Finish(later, Outcome{DelaysTold: map[int]int{0: 1}}); err != nil {
		t.Fatal(err)
	}
	if next, ok := q.NextDue(); !ok || next.Before(now.Add(time.Hour)) {
		t.Errorf("next due %v, %v: it must wait as before", next, ok)
	}
	if e, err := q.Show(later); err != nil || e.Recipients[0].DelaysTold != 1 || e.Recipients[0].Attempts != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestListEndsWhereNewMailBegins(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	first := commitTo(t, q, "a", "p", Normal, time.Now())
	time.Sleep(2 * time.Millisecond)
	second := commitTo(t, q, "a", "p", Normal, time.Now())
	list, _, err := q.List(t.Context(), Filter{Made: second.Time()})
	if err != nil || len(list) != 1 || list[0].ID != first {
		t.Errorf("%v, %v", list, err)
	}
}
