package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
)

func TestAttemptsAndResults(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	content := testBody(200_000, 3)
	id := mustCommit(t, q, testEnvelope("a", "one@x", "two@x", "three@x"), content)

	e := mustDue(t, q, 10)
	if len(e) != 1 || e[0].ID != id || len(e[0].DueAt(time.Now())) != 3 {
		t.Fatalf("due: %+v", e)
	}
	if again := mustDue(t, q, 10); len(again) != 0 {
		t.Fatal("a taken message was handed out again")
	}
	if err := q.Begin(id); err != nil {
		t.Fatal(err)
	}
	if err := q.Begin(id); !errors.Is(err, ErrNotTaken) {
		t.Fatalf("second Begin: %v", err)
	}
	later := time.Now().Add(time.Hour).UTC()
	busy := Reply{Code: 451, Enhanced: "4.7.1", Text: "later"}
	err := q.Finish(id, Outcome{Results: []Result{
		{Recipient: 0, State: Delivered, Reply: Reply{Code: 250}},
		{Recipient: 1, State: Waiting, NextTry: later, Reply: busy},
		{Recipient: 2, State: Waiting, NextTry: later.Add(time.Minute), Reply: busy},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if list := mustDue(t, q, 10); len(list) != 0 {
		t.Fatalf("due before its time: %+v", list[0])
	}
	next, ok := q.NextDue()
	if !ok || next.Before(later) || next.Sub(later) > time.Millisecond {
		t.Fatalf("NextDue %v, %v; want %v", next, ok, later)
	}
	list, err := q.Due(next, 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("due at its time: %v, %v", list, err)
	}
	if got := list[0].DueAt(next); !slices.Equal(got, []int{1}) {
		t.Fatalf("recipients due: %v, want only the second", got)
	}
	want := Recipient{Address: "two@x", Original: "rfc822;two@x", Notify: "FAILURE", Attempts: 1, NextTry: later, Last: busy}
	if diff := cmp.Diff(want, list[0].Recipients[1]); diff != "" {
		t.Errorf("second recipient (-want +got):\n%s", diff)
	}
	err = q.Finish(id, Outcome{Results: []Result{{Recipient: 1, State: Failed}, {Recipient: 2, State: Delivered}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Show(id); !errors.Is(err, ErrUnknown) {
		t.Errorf("a finished message is still there: %v", err)
	}
	if err := q.Close(); err != nil { // waits for the file's removal
		t.Fatal(err)
	}
	q = openTest(t, mem)
	if n := countBodies(t, q); n != 0 {
		t.Errorf("%d body files are left", n)
	}
	checkTrace(t, q, id, "accepted attempt:1 attempt:2 attempt:3 delivered:1 deferred:2 deferred:3 failed:2 delivered:3 finished")
	if s, err := q.Stats(); err != nil || s.Total != (Counts{}) || !s.Oldest.IsZero() {
		t.Errorf("stats of an empty queue: %+v, %v", s, err)
	}
}

func checkTrace(t testing.TB, q *Queue, id ID, want string) {
	t.Helper()
	e, events, err := q.Trace(id)
	if err != nil {
		t.Fatal(err)
	}
	if e == nil || e.ID != id || e.Prefix != nil {
		t.Errorf("trace envelope: %+v", e)
	}
	var got []string
	for _, event := range events {
		text := string(event.Kind)
		if event.Recipient >= 0 {
			text += fmt.Sprintf(":%d", event.Recipient+1)
		}
		got = append(got, text)
	}
	if s := strings.Join(got, " "); s != want {
		t.Errorf("trace\n got %s\nwant %s", s, want)
	}
}

func TestFinishRefusesNonsense(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	id := mustCommit(t, q, testEnvelope("a", "one@x", "two@x"), nil)
	if err := q.Finish(id, Outcome{}); !errors.Is(err, ErrNotTaken) {
		t.Errorf("Finish before Due: %v", err)
	}
	mustDue(t, q, 1)
	for name, results := range map[string][]Result{
		"no such recipient": {{Recipient: 2, State: Delivered}},
		"negative":          {{Recipient: -1, State: Delivered}},
		"no time":           {{Recipient: 0, State: Waiting}},
		"unknown state":     {{Recipient: 0, State: 9}},
		"twice final":       {{Recipient: 0, State: Delivered}, {Recipient: 0, State: Failed}},
	} {
		if err := q.Finish(id, Outcome{Results: results}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := q.Finish(id, Outcome{Results: []Result{{0, Delivered, time.Time{}, Reply{}}, {1, Delivered, time.Time{}, Reply{}}}}); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

func TestReportIsBornWithTheFailure(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	id := mustCommit(t, q, testEnvelope("a", "one@x"), testBody(140_000, 1))
	mustDue(t, q, 1)
	if err := q.Begin(id); err != nil {
		t.Fatal(err)
	}
	report := testEnvelope("a", "sender@a")
	report.From, report.ReportOf, report.Hop, report.Class = "", id, "a", Urgent
	body := mustBody(t, q, testBody(180_000, 2))
	err := q.Finish(id, Outcome{
		Results: []Result{{Recipient: 0, State: Failed, Reply: Reply{Code: 550}}},
		Births:  []Birth{{report, body}},
	})
	if err != nil {
		t.Fatal(err)
	}
	list := mustDue(t, q, 10)
	if len(list) != 1 || list[0].ID != body.ID() || list[0].ReportOf != id {
		t.Fatalf("due after the failure: %+v", list)
	}
	if got := readBody(t, q, body.ID()); len(got) != 180_000+len(report.Prefix) {
		t.Errorf("report of %d bytes", len(got))
	}
	checkTrace(t, q, id, "accepted attempt:1 failed:1 reported finished")

	// The report itself fails: it stays as a dead letter, across a restart.
	if err := q.Finish(report.ID, Outcome{Results: []Result{{Recipient: 0, State: Failed}}, Dead: "report cannot be delivered"}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = openTest(t, mem)
	dead, err := q.DeadLetters("", 10)
	if err != nil || len(dead) != 1 || dead[0].Envelope.ID != report.ID || dead[0].Reason != "report cannot be delivered" {
		t.Fatalf("dead letters %+v, %v", dead, err)
	}
	s, err := q.Stats()
	if err != nil || s.Total != (Counts{Dead: 1, Bytes: 180_000}) {
		t.Errorf("stats %+v, %v", s.Total, err)
	}
	testReviveAndDrop(t, q, report.ID)
}

func testReviveAndDrop(t *testing.T, q *Queue, id ID) {
	t.Helper()
	if err := q.Revive(id, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := q.Drop(id, "not dead"); !errors.Is(err, ErrUnknown) {
		t.Errorf("dropped a living message: %v", err)
	}
	list := mustDue(t, q, 10)
	if len(list) != 1 || list[0].ID != id {
		t.Fatalf("revived: %+v", list)
	}
	if err := q.Finish(id, Outcome{Dead: "still"}); err != nil {
		t.Fatal(err)
	}
	if err := q.Drop(id, "by the operator"); err != nil {
		t.Fatal(err)
	}
	if err := q.Drop(id, "again"); !errors.Is(err, ErrUnknown) {
		t.Errorf("second Drop: %v", err)
	}
	checkTrace(t, q, id, "accepted failed:1 dead revived dead dropped")
	if s, err := q.Stats(); err != nil || s.Total != (Counts{}) {
		t.Errorf("stats %+v, %v", s.Total, err)
	}
	if err := q.Expire(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := q.Trace(id); !errors.Is(err, ErrUnknown) {
		t.Errorf("trace after Expire: %v", err)
	}
}
