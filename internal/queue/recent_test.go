package queue

import (
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What was accepted just now is handed out without reading more than its state, is as
// it was, and is gone when it is finished.
func TestRecentMessagesAreNotReadBack(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	e := testEnvelope("a", "one@x", "two@x")
	e.Prefix = []byte("Received: here\r\n")
	e.Attributes = map[string]string{"name": "value"}
	id := mustCommit(t, q, e, testBody(20_000, 1))
	before := q.store.reads.Load()
	got := mustDue(t, q, 1)[0]
	if body := readBody(t, q, id); len(body) != 20_000+len(e.Prefix) {
		t.Errorf("body of %d bytes", len(body))
	}
	if reads := q.store.reads.Load() - before; reads > 2 { // due entry and state
		t.Errorf("%d reads", reads)
	}
	got.Attributes["name"], got.Prefix[0] = "changed", 'X'
	q.Release(id)
	again := mustDue(t, q, 1)[0]
	if again.Attributes["name"] != "value" || again.Prefix[0] != 'R' || again.Recipients[1].Address != "two@x" {
		t.Errorf("changed by who got it before: %+v", again)
	}
	if err := q.Finish(id, Outcome{Results: []Result{{Recipient: 0, State: Delivered}, {Recipient: 1, State: Delivered}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Body(id); !errors.Is(err, ErrUnknown) {
		t.Errorf("body of a finished message: %v", err)
	}
	if n := len(q.recent.all); n != 0 || q.recent.bytes != 0 {
		t.Errorf("%d messages with %d bytes stay", n, q.recent.bytes)
	}
}

// A message that the operator lets begin anew counts from then.
func TestRecentEnvelopeThatChanges(t *testing.T) {
	q := openTest(t, vfs.NewMem())
	e := testEnvelope("a", "one@x")
	e.Hold, e.HoldReason = true, "quarantine"
	e.Received = time.Now().Add(-time.Hour)
	id := mustCommit(t, q, e, testBody(20, 1))
	start := time.Now()
	if _, err := q.Unhold([]ID{id}); err != nil {
		t.Fatal(err)
	}
	if got := mustDue(t, q, 1)[0]; got.Received.Before(start.Add(-time.Second)) {
		t.Errorf("received %v", got.Received)
	}
}

// Memory for recent messages is bounded, and whoever waits does not keep it.
func TestRecentBound(t *testing.T) {
	r := newRecent()
	now := time.Now()
	fill := func(from, n int) {
		for i := from; i < from+n; i++ {
			id := [idBytes]byte{byte(i >> 16), byte(i >> 8), byte(i)}
			r.add(id, &letter{envelope: &Envelope{}, body: []*chunk{nil}, size: 10_000, came: now})
			if i%3 == 0 {
				r.forget(id)
			}
			if r.bytes > maxRecent || len(r.order) > 2*len(r.all)+recentOrderSlack+1 {
				t.Fatalf("%d bytes of %d messages, %d remembered", r.bytes, len(r.all), len(r.order))
			}
		}
	}
	fill(0, 5000)
	if r.get([idBytes]byte{0, 0, 1}) == nil || r.bytes < maxRecent/2 {
		t.Error("the oldest is not kept")
	}
	now = now.Add(recentAge)
	fill(5000, 5000)
	if r.get([idBytes]byte{0, 0, 1}) != nil {
		t.Error("the oldest stays for ever")
	}
	if r.get([idBytes]byte{0, 5002 >> 8, 5002 & 0xff}) == nil {
		t.Error("newer ones are not kept")
	}
}
