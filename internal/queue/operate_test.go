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

// reopen closes q and opens it again, as a restart does.
func reopen(t testing.TB, q *Queue, mem *vfs.MemFS) *Queue {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return openTest(t, mem)
}

// operated checks what an operation says that it changed.
func operated(t testing.TB, want int) func(n int, err error) {
	t.Helper()
	return func(n int, err error) {
		t.Helper()
		if n != want || err != nil {
			t.Fatalf("changed %d, %v; want %d", n, err, want)
		}
	}
}

// A held message never expires silently: it is not handed out, however late, it is
// shown, survives a restart, and goes on when it is released.
func TestHoldAndRelease(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	received := time.Now().Add(-72 * time.Hour)
	e := testEnvelope("a", "one@x", "two@x")
	e.Received = received
	id := mustCommit(t, q, e, testBody(100, 1))
	other := mustCommit(t, q, testEnvelope("a", "one@x"), nil)

	operated(t, 1)(q.Hold([]ID{id}, "operator looks at it"))
	operated(t, 0)(q.Hold([]ID{id}, "again"))
	q = reopen(t, q, mem)
	list, err := q.Due(time.Now().Add(10_000*time.Hour), 10)
	if err != nil || len(list) != 1 || list[0].ID != other {
		t.Fatalf("due with a held message: %v, %v", list, err)
	}
	shown, err := q.Show(id)
	if err != nil || !shown.Hold || shown.HoldReason != "operator looks at it" {
		t.Fatalf("shown as %+v, %v", shown, err)
	}
	checkCondition(t, q, "queue.held", true)
	if s, err := q.Stats(); err != nil || s.Total != (Counts{Messages: 1, Recipients: 1, Bytes: 100, Held: 1}) {
		t.Errorf("stats %+v, %v", s.Total, err)
	}
	if n, err := q.Retry([]ID{id}, time.Now()); n != 0 || !errors.Is(err, ErrUnknown) {
		t.Errorf("retry of a held message: %d, %v", n, err)
	}
	operated(t, 1)(q.Unhold([]ID{id, id}))
	operated(t, 0)(q.Unhold([]ID{id}))
	<-q.Wake()
	checkCondition(t, q, "queue.held", false)
	list = mustDue(t, q, 10)
	if len(list) != 1 || list[0].ID != id || list[0].Hold || list[0].HoldReason != "" {
		t.Fatalf("due after the release: %+v", list)
	}
	if !list[0].Received.After(received.Add(71 * time.Hour)) {
		t.Error("the time on hold is taken from its retries")
	}
	checkTrace(t, q, id, "accepted held released")
}

// Quarantine: a message that is accepted on hold.
func TestCommitOnHold(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	e := testEnvelope("a", "one@x")
	e.Hold = true
	id := mustCommit(t, q, e, testBody(200_000, 1))
	if next, ok := q.NextDue(); ok {
		t.Errorf("something is due at %v", next)
	}
	q = reopen(t, q, mem)
	if list := mustDue(t, q, 1); len(list) != 0 {
		t.Fatal("a message on hold was handed out")
	}
	if e, err := q.Show(id); err != nil || e.HoldReason != noHoldReason {
		t.Errorf("shown as %+v, %v", e, err)
	}
	operated(t, 1)(q.Bounce([]ID{id}, "not wanted"))
	operated(t, 0)(q.Bounce([]ID{id}, "twice"))
	operated(t, 1)(q.Hold([]ID{id}, "wait"))
	operated(t, 1)(q.Bounce([]ID{id}, "not wanted after all"))
	q = reopen(t, q, mem)
	list := mustDue(t, q, 1)
	if len(list) != 1 || list[0].BounceReason != "not wanted after all" || list[0].Hold {
		t.Fatalf("to be bounced: %+v", list)
	}
	if err := q.Finish(id, Outcome{Results: []Result{{Recipient: 0, State: Failed}}}); err != nil {
		t.Fatal(err)
	}
	checkTrace(t, q, id, "accepted held released noted held released noted failed:1 finished")
	if s, err := q.Stats(); err != nil || s.Total != (Counts{}) {
		t.Errorf("stats %+v, %v", s.Total, err)
	}
}

func TestRetryAndBounce(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	late := time.Now().Add(5 * time.Hour)
	ids := []ID{commitTo(t, q, "a", "p", Normal, late), commitTo(t, q, "a", "p", Normal, late), commitTo(t, q, "b", "p", Bulk, late)}
	dead := commitTo(t, q, "b", "p", Normal, time.Time{})
	mustDue(t, q, 1)
	for _, do := range []func() (int, error){
		func() (int, error) { return q.Hold([]ID{dead}, "") },
		func() (int, error) { return q.Retry([]ID{dead}, time.Now()) },
		func() (int, error) { return q.Bounce([]ID{dead}, "") },
	} {
		if n, err := do(); n != 0 || !errors.Is(err, ErrBusy) {
			t.Errorf("a message that is taken: %d, %v", n, err)
		}
	}
	if err := q.Finish(dead, Outcome{Dead: "x"}); err != nil {
		t.Fatal(err)
	}
	n, err := q.Retry(append(ids[:2:2], dead, "nonsense", q.ids.next(time.Now())), time.Now())
	if n != 2 || !errors.Is(err, ErrUnknown) || !errors.Is(err, errID) || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("retry: %d, %v", n, err)
	}
	operated(t, 0)(q.Retry(ids[:2], time.Now()))
	operated(t, 2)(q.Bounce(ids[1:], "closed"))
	q = reopen(t, q, mem)
	got := map[ID]string{}
	for _, e := range mustDue(t, q, 10) {
		got[e.ID] = e.BounceReason
	}
	if diff := cmp.Diff(map[ID]string{ids[0]: "", ids[1]: "closed", ids[2]: "closed"}, got); diff != "" {
		t.Errorf("due (-want +got):\n%s", diff)
	}
	checkTrace(t, q, ids[1], "accepted noted noted")
}

// Finding out that there is nothing to do must not hide a message from Due.
func TestOperationsDoNotHide(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	id := commitTo(t, q, "a", "p", Normal, time.Time{})
	operated(t, 0)(q.Unhold([]ID{id}))
	operated(t, 0)(q.Retry([]ID{id}, time.Now()))
	m, err := q.stand(id)
	if err != nil {
		t.Fatal(err)
	}
	if list := mustDue(t, q, 1); len(list) != 0 {
		t.Fatal("handed out while the operator has it")
	}
	q.giveUp([]*standing{m})
	if list := mustDue(t, q, 1); len(list) != 1 {
		t.Error("not handed out after the operator had it")
	}
}

func TestFindAndNotes(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	var ids []ID
	for i := range 5 {
		e := testEnvelope("a", "one@x")
		e.Keys = []string{"message-id:same", fmt.Sprint("message-id:", i)}
		ids = append(ids, mustCommit(t, q, e, nil))
	}
	q = reopen(t, q, mem)
	find := func(key string, limit int) []ID {
		t.Helper()
		found, err := q.Find(key, limit)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	slices.Reverse(ids)
	if got := find("message-id:same", 10); !slices.Equal(got, ids) {
		t.Errorf("found %v, want %v", got, ids)
	}
	if got := find("message-id:same", 2); !slices.Equal(got, ids[:2]) {
		t.Errorf("found %v, want the newest two", got)
	}
	if got := find("message-id:3", 10); !slices.Equal(got, ids[1:2]) {
		t.Errorf("found %v, want %v", got, ids[1])
	}
	if got := find("message-id:", 10); len(got) != 0 {
		t.Errorf("found %v by the start of a key", got)
	}

	at := time.Now().Add(-time.Minute).UTC()
	read := Event{Kind: Retrieved, Time: at, Recipient: 0, Data: map[string]string{"code": "R 1", "who": "one@x"}}
	if err := q.Annotate(ids[0], read, Event{Kind: Refused, Recipient: -1}); err != nil {
		t.Fatal(err)
	}
	if err := q.Annotate(q.ids.next(at), read); !errors.Is(err, ErrUnknown) {
		t.Errorf("note for an unknown message: %v", err)
	}
	confirmation := testEnvelope("a", "one@a")
	confirmation.Notes = []Note{{ids[0], Event{Kind: Received, Recipient: 0}}, {q.ids.next(at), read}, {"nonsense", read}}
	mustCommit(t, q, confirmation, nil)
	q = reopen(t, q, mem)
	checkTrace(t, q, ids[0], "accepted retrieved:1 refused received:1")
	_, events, err := q.Trace(ids[0])
	if diff := cmp.Diff(read, events[1], cmp.AllowUnexported(Event{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}

	// The notes are read alone, whatever else happened to the message.
	if _, err := q.Hold(ids[:1], "odd"); err != nil {
		t.Fatal(err)
	}
	var kinds []EventKind
	e, err := q.Notes(ids[0], func(e Event) { kinds = append(kinds, e.Kind) })
	if err != nil || e.ID != ids[0] || len(e.Recipients) == 0 || !slices.Equal(kinds, []EventKind{Retrieved, Refused, Received}) {
		t.Errorf("notes %v of %+v, %v", kinds, e, err)
	}
	if _, err := q.Notes(q.ids.next(at), nil); !errors.Is(err, ErrUnknown) {
		t.Errorf("notes of an unknown message: %v", err)
	}

	// When the trace expires, the keys are as if they were gone at once.
	if err := q.Expire(ids[0].Time().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if got := find("message-id:same", 10); len(got) != 0 {
		t.Errorf("found %v after the trace expired", got)
	}
}

func TestNoteLimits(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	id := commitTo(t, q, "a", "p", Normal, time.Time{})
	many := map[string]string{}
	for i := range MaxEventData + 1 {
		many[fmt.Sprint(i)] = "x"
	}
	long := strings.Repeat("x", MaxText+1)
	for name, e := range map[string]Event{
		"no kind": {}, "long kind": {Kind: EventKind(long)}, "much data": {Kind: Noted, Data: many},
		"long data": {Kind: Noted, Data: map[string]string{"a": long}}, "other": {Kind: Noted, Other: "x"},
		"recipient": {Kind: Noted, Recipient: -2}, "time": {Kind: Noted, Time: time.Unix(-5, 0)},
	} {
		if err := q.Annotate(id, e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := q.Annotate(id, make([]Event, MaxNotes+1)...); !errors.Is(err, ErrInvalid) {
		t.Errorf("too many: %v", err)
	}
	checkTrace(t, q, id, "accepted")
	for name, keys := range map[string][]string{"empty": {""}, "long": {long}, "many": slices.Repeat([]string{"k"}, MaxKeys+1)} {
		e := testEnvelope("a", "x@y")
		e.Keys = keys
		if err := q.Commit(t.Context(), e, mustBody(t, q, nil)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s key: %v", name, err)
		}
	}
}

func TestLookupKeysByAge(t *testing.T) {
	var m idMaker
	first, _ := m.next(time.UnixMilli(1 << bucketBits)).binary()
	last, _ := m.next(time.UnixMilli(2<<bucketBits - 1)).binary()
	next, _ := m.next(time.UnixMilli(2 << bucketBits)).binary()
	if bucketOf(first) != 1 || bucketOf(last) != 1 || bucketOf(next) != 2 {
		t.Errorf("buckets %d, %d, %d; want 1, 1, 2", bucketOf(first), bucketOf(last), bucketOf(next))
	}
	key := append(lookupKey(2, "text"), next[:]...)
	if bucket, id, ok := parseLookup(key); bucket != 2 || id != next || !ok {
		t.Errorf("parsed as %d, %s, %v", bucket, idFrom(id), ok)
	}
	if slices.Compare(append(lookupKey(1, "text"), next[:]...), bucketKey(2)) >= 0 || slices.Compare(bucketKey(2), key) >= 0 {
		t.Error("buckets do not sort by age")
	}
}

func TestDelaysTold(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	id := mustCommit(t, q, testEnvelope("a", "one@x", "two@x"), nil)
	mustDue(t, q, 1)
	notice := testEnvelope("a", "sender@a")
	notice.ReportOf = id
	bad := Outcome{DelaysTold: map[int]int{2: 1}}
	if err := q.Finish(id, bad); !errors.Is(err, ErrInvalid) {
		t.Errorf("notice for a third recipient: %v", err)
	}
	err := q.Finish(id, Outcome{
		Results:    []Result{{Recipient: 1, State: Waiting, NextTry: time.Now().Add(-time.Second)}},
		DelaysTold: map[int]int{1: 2},
		Births:     []Birth{{notice, mustBody(t, q, nil)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	q = reopen(t, q, mem)
	e, err := q.Show(id)
	if err != nil || e.Recipients[0].DelaysTold != 0 || e.Recipients[1].DelaysTold != 2 {
		t.Errorf("told %+v, %v", e, err)
	}
	checkTrace(t, q, id, "accepted deferred:2 delay-told:2 reported")
}

func TestFilters(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	in := testEnvelope("a", "one@x", "Two@X")
	in.Direction, in.From = In, "Sender@provider"
	waits := mustCommit(t, q, in, nil)
	mustDue(t, q, 1)
	err := q.Finish(waits, Outcome{Results: []Result{
		{1, Waiting, time.Now().Add(time.Hour), Reply{451, "4.7.1", "Greylisted"}},
		{0, Waiting, time.Now().Add(time.Hour), Reply{}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	held := commitTo(t, q, "a", "p", Normal, time.Now().Add(time.Hour))
	operated(t, 1)(q.Hold([]ID{held}, "Integrity is wrong"))
	dead := commitTo(t, q, "b", "p", Normal, time.Time{})
	mustDue(t, q, 1)
	if err := q.Finish(dead, Outcome{Dead: "nobody to tell"}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		f    Filter
		want []ID
	}{
		"all":       {Filter{}, []ID{waits, held, dead}},
		"tenant":    {Filter{Tenant: "b"}, []ID{dead}},
		"direction": {Filter{Direction: In}, []ID{waits}},
		"sender":    {Filter{Sender: "sender@PROVIDER"}, []ID{waits}},
		"recipient": {Filter{Recipient: "two@x"}, []ID{waits}},
		"nobody":    {Filter{Recipient: "two"}, nil},
		"waiting":   {Filter{State: InQueue}, []ID{waits}},
		"held":      {Filter{State: OnHold}, []ID{held}},
		"dead":      {Filter{State: DeadEnded}, []ID{dead}},
		"reply":     {Filter{Reason: "451 4.7.1 grey"}, []ID{waits}},
		"hold":      {Filter{Reason: "integrity"}, []ID{held}},
		"death":     {Filter{Reason: "Nobody"}, []ID{dead}},
		"both":      {Filter{Reason: "Nobody", State: OnHold}, nil},
	} {
		list, next, err := q.List(t.Context(), c.f)
		var got []ID
		for _, e := range list {
			got = append(got, e.ID)
		}
		if err != nil || next != "" || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, next %q, %v; want %v", name, got, next, err, c.want)
		}
	}
}

func TestReserve(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 500 << 20, TotalBytes: 10_000 << 20}) // 200 are the reserve
	var releases []func()
	for range 3 { // 96 each
		release, err := q.Reserve(64 << 20)
		if err != nil {
			t.Fatal(err)
		}
		releases = append(releases, release)
	}
	if _, err := q.Reserve(64 << 20); !errors.Is(err, ErrFull) {
		t.Fatalf("fourth: %v", err)
	}
	if small, err := q.Reserve(1 << 20); err != nil {
		t.Errorf("a small one fits, and got %v", err)
	} else {
		small()
	}
	releases[0]()
	releases[0]()
	if got := q.Metrics().Reserved; got != 2*96<<20 {
		t.Errorf("%d bytes are reserved, want %d", got, 2*96<<20)
	}
	if _, err := q.Reserve(64 << 20); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	before := q.Metrics()
	held := testEnvelope("b", "x@y")
	held.Hold = true
	mustCommit(t, q, held, testBody(5, 1))
	id := mustCommit(t, q, testEnvelope("a", "x@y"), testBody(200_000, 1))
	mustDue(t, q, 1)
	if err := q.Begin(id); err != nil {
		t.Fatal(err)
	}
	if m := q.Metrics(); m.Taken != 1 || m.Held != 1 || m.Tenants["a"].Messages != 1 {
		t.Errorf("%+v", m)
	}
	if err := q.Finish(id, Outcome{Results: []Result{{Recipient: 0, State: Delivered}}}); err != nil {
		t.Fatal(err)
	}
	m := q.Metrics()
	if m.Commits != 2 || m.Begins != 1 || m.Finishes != 1 || m.Bytes != 200_005 || m.Batches != 4 || m.Taken != 0 {
		t.Errorf("%+v", m)
	}
	if syncs := m.Syncs - before.Syncs; syncs < 1 || syncs > 4 || m.SyncTime.Count != m.Syncs {
		t.Errorf("%d syncs of %d batches", syncs, m.Batches)
	}
	if m.FileTime.Count == before.FileTime.Count || m.FileTime.Sum <= 0 {
		t.Errorf("syncs of body files: %+v", m.FileTime)
	}
	if got := (Metrics{Batches: 10, Syncs: 4}).GroupSize(); got != 2.5 || (Metrics{}).GroupSize() != 0 {
		t.Errorf("group size %v", got)
	}
	if len(HistogramBounds()) != histogramBuckets-1 || !slices.IsSorted(HistogramBounds()) {
		t.Errorf("bounds %v", HistogramBounds())
	}
}

// What an attempt brings to light becomes durable with its result, or not at all.
func TestKeysAndNotesOfAnAttempt(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	id := mustCommit(t, q, testEnvelope("a", "one@x"), []byte("x"))
	mustDue(t, q, 1)
	done := []Result{{State: Delivered}}
	learned := []Note{{id, Event{Kind: Noted, Recipient: -1, Data: map[string]string{"body": "hash"}}}}
	for _, bad := range []Outcome{
		{Results: done, Keys: []string{"body:hash", ""}, Notes: learned},
		{Results: done, Keys: []string{"body:hash"}, Notes: []Note{{id, Event{}}}},
		{Results: done, Keys: make([]string, MaxKeys+1)},
	} {
		if err := q.Finish(id, bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d keys, %d notes: %v", len(bad.Keys), len(bad.Notes), err)
		}
	}
	if ids, err := q.Find("body:hash", 10); err != nil || len(ids) != 0 {
		t.Errorf("a refused outcome left keys: %v, %v", ids, err)
	}
	if err := q.Finish(id, Outcome{Results: done, Keys: []string{"body:hash"}, Notes: learned}); err != nil {
		t.Fatal(err)
	}
	q = reopen(t, q, mem)
	if ids, err := q.Find("body:hash", 10); err != nil || !slices.Equal(ids, []ID{id}) {
		t.Errorf("found %v, %v", ids, err)
	}
	checkTrace(t, q, id, "accepted delivered:1 finished noted")
}
