package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
)

// testOptions keep background goroutines out of the tests.
func testOptions() Options { return Options{Ballast: -1, DiskSlow: -1} }

func openTest(t testing.TB, fsys vfs.FS) *Queue {
	t.Helper()
	q, err := Open(fsys, "/queue", testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func testEnvelope(tenant string, recipients ...string) *Envelope {
	e := &Envelope{
		Tenant: tenant, Direction: Out, Hop: "provider", Class: Normal,
		From: "poststelle@" + tenant + ".de-mail.example", ENVID: "env+2B1", RET: "HDRS", EightBit: true,
		Received: time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC), Prefix: []byte("X-Trace: 1\r\n"),
		Attributes: map[string]string{"message-id": "<1@example>", "private-id": "7"},
	}
	for _, address := range recipients {
		e.Recipients = append(e.Recipients, Recipient{Address: address, Original: "rfc822;" + address, Notify: "FAILURE"})
	}
	return e
}

// testBody is size bytes that differ from one seed to the next.
func testBody(size int, seed byte) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ seed
	}
	return b
}

func mustBody(t testing.TB, q *Queue, content []byte) *Body {
	t.Helper()
	b, err := q.NewBody(int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := range slices.Chunk(content, 10_000) {
		if _, err := b.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func mustCommit(t testing.TB, q *Queue, e *Envelope, content []byte) ID {
	t.Helper()
	if err := q.Commit(context.Background(), e, mustBody(t, q, content)); err != nil {
		t.Fatal(err)
	}
	return e.ID
}

func mustDue(t testing.TB, q *Queue, limit int) []*Envelope {
	t.Helper()
	list, err := q.Due(time.Now(), limit)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func readBody(t testing.TB, q *Queue, id ID) []byte {
	t.Helper()
	r, err := q.Body(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(got)) != r.Size() {
		t.Fatalf("read %d bytes, Size said %d", len(got), r.Size())
	}
	return got
}

var bodySizes = []int{0, 1, 10_000, InlineLimit - 1, InlineLimit, InlineLimit + 1, 3 * InlineLimit, 1_000_000}

func TestCommitKeepsEverything(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	sent := map[ID]*Envelope{}
	for i, size := range bodySizes {
		e := testEnvelope("gemeinde-a", "a@x.de-mail.example", "b@x.de-mail.example")
		mustCommit(t, q, e, testBody(size, byte(i)))
		if e.Size != int64(size) || e.SHA256 != sha256.Sum256(testBody(size, byte(i))) {
			t.Fatalf("size %d: Commit set Size %d, SHA256 %x", size, e.Size, e.SHA256)
		}
		sent[e.ID] = e.clone()
	}
	check := func(q *Queue) {
		t.Helper()
		list, next, err := q.List(context.Background(), Filter{})
		if err != nil || next != "" || len(list) != len(bodySizes) {
			t.Fatalf("List: %d messages, next %q, %v", len(list), next, err)
		}
		for i, e := range list {
			want := sent[e.ID].clone()
			want.Prefix = nil
			if diff := cmp.Diff(want, e); diff != "" {
				t.Errorf("message %d (-want +got):\n%s", i, diff)
			}
			if got := readBody(t, q, e.ID); !bytes.Equal(got, append([]byte("X-Trace: 1\r\n"), testBody(bodySizes[i], byte(i))...)) {
				t.Errorf("body %d: %d bytes differ", i, len(got))
			}
		}
	}
	check(q)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = openTest(t, mem)
	check(q)
	if r := q.Recovery(); r != (Recovery{}) {
		t.Errorf("a clean end left %+v to recover", r)
	}
}

func TestBodyLimit(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	for _, limit := range []int{0, 10, InlineLimit, 2*InlineLimit + 5} {
		b, err := q.NewBody(int64(limit))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Write(make([]byte, limit)); err != nil {
			t.Errorf("limit %d: %v", limit, err)
		}
		if _, err := b.Write([]byte{1}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("limit %d: one more byte: %v", limit, err)
		}
		if err := q.Commit(context.Background(), testEnvelope("a", "x@y"), b); !errors.Is(err, ErrTooLarge) {
			t.Errorf("limit %d: Commit: %v", limit, err)
		}
	}
	if n := countBodies(t, q); n != 0 {
		t.Errorf("%d body files are left", n)
	}
}

func TestAbortRemoves(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	b := mustBody(t, q, testBody(200_000, 1))
	if n := countBodies(t, q); n != 1 {
		t.Fatalf("%d body files while writing, want 1", n)
	}
	b.Abort()
	b.Abort()
	if n := countBodies(t, q); n != 0 {
		t.Errorf("%d body files after Abort", n)
	}
	if err := q.Commit(context.Background(), testEnvelope("a", "x@y"), b); err == nil {
		t.Error("Commit took an aborted body")
	}
}

// countBodies counts files in the whole spool.
func countBodies(t testing.TB, q *Queue) int {
	t.Helper()
	n := 0
	for dir := range q.spool.dirs {
		names, err := q.fs.List(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if len(name) == idText {
				n++
			}
		}
	}
	return n
}

func TestCommitRefusesBrokenEnvelopes(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	cases := map[string]func(*Envelope){
		"no tenant":           func(e *Envelope) { e.Tenant = "" },
		"no hop":              func(e *Envelope) { e.Hop = "" },
		"zero byte in tenant": func(e *Envelope) { e.Tenant = "a\x00b" },
		"no direction":        func(e *Envelope) { e.Direction = "" },
		"class":               func(e *Envelope) { e.Class = classes },
		"no recipients":       func(e *Envelope) { e.Recipients = nil },
		"many recipients":     func(e *Envelope) { e.Recipients = make([]Recipient, MaxRecipients+1) },
		"empty recipient":     func(e *Envelope) { e.Recipients[0].Address = "" },
		"long recipient":      func(e *Envelope) { e.Recipients[0].Address = strings.Repeat("a", MaxAddress+1) },
		"long sender":         func(e *Envelope) { e.From = strings.Repeat("a", MaxAddress+1) },
		"long prefix":         func(e *Envelope) { e.Prefix = make([]byte, MaxPrefix+1) },
		"no time":             func(e *Envelope) { e.Received = time.Time{} },
		"report of nothing":   func(e *Envelope) { e.ReportOf = "x" },
		"long attribute":      func(e *Envelope) { e.Attributes["a"] = strings.Repeat("a", MaxText+1) },
		"many attributes": func(e *Envelope) {
			for i := range MaxAttributes + 1 {
				e.Attributes[fmt.Sprint(i)] = ""
			}
		},
	}
	for name, breakIt := range cases {
		t.Run(name, func(t *testing.T) {
			e := testEnvelope("a", "x@y")
			breakIt(e)
			if err := q.Commit(context.Background(), e, mustBody(t, q, nil)); !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
	if s, err := q.Stats(); err != nil || s.Total != (Counts{}) {
		t.Errorf("after refusals: %+v, %v", s.Total, err)
	}
}

func TestAttemptsAndResults(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	content := testBody(100_000, 3)
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
	id := mustCommit(t, q, testEnvelope("a", "one@x"), testBody(70_000, 1))
	mustDue(t, q, 1)
	if err := q.Begin(id); err != nil {
		t.Fatal(err)
	}
	report := testEnvelope("a", "sender@a")
	report.From, report.ReportOf, report.Hop, report.Class = "", id, "a", Urgent
	body := mustBody(t, q, testBody(80_000, 2))
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
	if got := readBody(t, q, body.ID()); len(got) != 80_000+len(report.Prefix) {
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
	if err != nil || s.Total != (Counts{Dead: 1, Bytes: 80_000}) {
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

func TestClosedQueue(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	b := mustBody(t, q, nil)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := q.Commit(context.Background(), testEnvelope("a", "x@y"), b); !errors.Is(err, ErrClosed) {
		t.Errorf("Commit: %v", err)
	}
	if _, err := q.Due(time.Now(), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Due: %v", err)
	}
}
