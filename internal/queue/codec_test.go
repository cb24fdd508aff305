package queue

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestIDs(t *testing.T) {
	var m idMaker
	now := time.UnixMilli(1_772_600_000_123)
	last := ID("")
	for i := range 1000 {
		at := now
		if i%3 == 2 {
			at = now.Add(-time.Hour) // the clock steps back
		}
		id := m.next(at)
		b, err := id.binary()
		if err != nil || idFrom(b) != id || id <= last {
			t.Fatalf("id %s after %s: %v", id, last, err)
		}
		if i == 0 && !id.Time().Equal(now) {
			t.Fatalf("time %v, want %v", id.Time(), now)
		}
		last = id
	}
	for _, bad := range []string{"", "x", strings.Repeat("0", 25), strings.Repeat("0", 27), "8" + strings.Repeat("0", 25),
		strings.ToLower(string(last)), "0000000000000000000000000U", "../../../../../etc/passwd0"} {
		if id, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %q", bad, id)
		}
	}
	for _, good := range []string{strings.Repeat("0", 26), "7" + strings.Repeat("Z", 25)} {
		if _, err := ParseID(good); err != nil {
			t.Errorf("ParseID(%q): %v", good, err)
		}
	}
}

func TestSchedule(t *testing.T) {
	received := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	var got []time.Duration
	now := received
	for attempts := 1; ; attempts++ {
		next, ok := Schedule{}.Next(received, now, attempts)
		if !ok {
			break
		}
		got = append(got, next.Sub(now))
		now = next
	}
	want := []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 30 * time.Minute}
	if len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("pauses %v", got)
	}
	if now != received.Add(DefaultGiveUp) {
		t.Errorf("last attempt %v after receipt, want exactly %v", now.Sub(received), DefaultGiveUp)
	}
	own := Schedule{Waits: []time.Duration{time.Second, -time.Hour}, GiveUp: time.Minute}
	for _, c := range []struct {
		now      time.Duration
		attempts int
		want     time.Duration
		ok       bool
	}{
		{0, -1, time.Second, true},
		{0, 1, time.Second, true},
		{time.Second, 2, time.Second, true}, // a wrong pause is none, never one into the past
		{59*time.Second + 500*time.Millisecond, 1, time.Minute, true},
		{time.Minute, 1, 0, false},
		{math.MaxInt64 / 2, 1, 0, false},
	} {
		next, ok := own.Next(received, received.Add(c.now), c.attempts)
		if ok != c.ok || (ok && next.Sub(received) != c.want) {
			t.Errorf("after %v, attempt %d: %v %v, want %v %v", c.now, c.attempts, next.Sub(received), ok, c.want, c.ok)
		}
	}
}

func fullEnvelope(t testing.TB) *Envelope {
	t.Helper()
	var m idMaker
	e := testEnvelope("gemeinde-a", "a@x", "b@x")
	e.ID, e.ReportOf = m.next(e.Received), m.next(e.Received)
	e.Size, e.Sum, e.UTF8, e.Class = 1<<40, "\x00\xff check", true, Bulk
	e.Recipients[1].NextTry = e.Received
	return e
}

func TestRecordsRoundTrip(t *testing.T) {
	e := fullEnvelope(t)
	got, err := decodeEnvelope(keyMessage, e.ID, encodeEnvelope(keyMessage, e))
	if err != nil {
		t.Fatal(err)
	}
	e.Recipients[0] = Recipient{Address: "a@x", Original: "rfc822;a@x", Notify: "FAILURE", State: Failed, Attempts: 7,
		Uncertain: 2, NextTry: e.Received.Add(time.Hour), Last: Reply{550, "5.1.1", "kein solcher Empfänger"}}
	st, err := decodeState(got, encodeState(state{due: 5, events: 9}, e.Recipients))
	if err != nil || st != (state{due: 5, events: 9}) {
		t.Fatalf("state %+v, %v", st, err)
	}
	if diff := cmp.Diff(e, got); diff != "" {
		t.Errorf("envelope (-want +got):\n%s", diff)
	}
	m, err := decodeMark(keyDead, encodeMark(keyDead, mark{e.Received, "why"}))
	if err != nil || !m.since.Equal(e.Received) || m.reason != "why" {
		t.Errorf("mark %+v, %v", m, err)
	}
	size, err := decodeFile(encodeFile(1 << 33))
	if err != nil || size != 1<<33 {
		t.Errorf("file %d, %v", size, err)
	}
	event := Event{Kind: Deferred, Time: e.Received, Recipient: 1, Reply: Reply{421, "4.3.0", "x"}, Other: e.ReportOf, envelope: []byte("e")}
	gotEvent, err := decodeEvent(encodeEvent(event))
	if diff := cmp.Diff(event, gotEvent, cmp.AllowUnexported(Event{})); err != nil || diff != "" {
		t.Errorf("event %v (-want +got):\n%s", err, diff)
	}
	body, err := decodeInline(encodeInline([]byte("body")))
	if err != nil || string(body) != "body" {
		t.Errorf("inline %q, %v", body, err)
	}
}

// Every torn record and every flipped bit must be noticed.
func TestDamagedRecords(t *testing.T) {
	e := fullEnvelope(t)
	whole := encodeEnvelope(keyMessage, e)
	for n := range whole {
		if _, err := decodeEnvelope(keyMessage, e.ID, whole[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("torn after %d of %d bytes: %v", n, len(whole), err)
		}
	}
	for i := range len(whole) * 8 {
		bad := bytes.Clone(whole)
		bad[i/8] ^= 1 << (i % 8)
		if _, err := decodeEnvelope(keyMessage, e.ID, bad); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	if _, err := decodeEnvelope(keyMessage, e.ID, append(bytes.Clone(whole), 0)); !errors.Is(err, ErrCorrupt) {
		t.Error("a byte too many passed")
	}
	if _, err := decodeInline(whole); !errors.Is(err, ErrCorrupt) {
		t.Error("a record of another kind passed")
	}
}

// A later release may add fields; this one must pass over them, because it may
// be booted again after a failed update.
func TestUnknownFieldsArePassedOver(t *testing.T) {
	e := fullEnvelope(t)
	raw := encodeEnvelope(keyMessage, e)
	r := &encoder{buf: bytes.Clone(raw[:len(raw)-4])}
	r.text(200, "of the future")
	got, err := decodeEnvelope(keyMessage, e.ID, r.seal())
	if err != nil {
		t.Fatal(err)
	}
	if got.From != e.From || len(got.Recipients) != 2 || got.Sum != e.Sum {
		t.Errorf("got %+v", got)
	}
	r = &encoder{buf: bytes.Clone(raw[:len(raw)-4])}
	r.buf[1] = recordVersion + 1
	if _, err := decodeEnvelope(keyMessage, e.ID, r.seal()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a later version: %v", err)
	}
}

// FuzzRecords feeds payloads behind a good checksum: decoders must neither panic
// nor give back what cannot be stored again.
func FuzzRecords(f *testing.F) {
	e := fullEnvelope(f)
	for _, raw := range [][]byte{
		encodeEnvelope(keyMessage, e), encodeState(state{due: 5, events: 6}, e.Recipients), encodeMark(keyDead, mark{e.Received, "r"}),
		encodeEvent(acceptedEvent(e, encodeEnvelope(keyMessage, e), e.Received)), encodeFile(3),
	} {
		f.Add(raw[recordHead : len(raw)-4])
	}
	f.Add([]byte{6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		frame := func(kind byte) []byte {
			r := newRecord(kind)
			r.buf = append(r.buf, payload...)
			return r.seal()
		}
		if got, err := decodeEnvelope(keyMessage, e.ID, frame(keyMessage)); err == nil {
			again, err := decodeEnvelope(keyMessage, e.ID, encodeEnvelope(keyMessage, got))
			if diff := cmp.Diff(got, again); err != nil || diff != "" {
				t.Errorf("not stable: %v\n%s", err, diff)
			}
		}
		if _, err := decodeState(e.clone(), frame(keyState)); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Error(err)
		}
		_, _ = decodeMark(keyDead, frame(keyDead))
		_, _ = decodeEvent(frame(keyTrace))
		_, _ = decodeFile(frame(keyFile))
		_, _ = decodeCounts(payload)
		if e, ok := parseDue(payload); ok && !bytes.Equal(dueKey(e.lane, e.class, e.due, e.id), payload) && e.due >= 0 {
			t.Errorf("due key %x is not stable", payload)
		}
	})
}

func TestDueKeysSort(t *testing.T) {
	id := [idBytes]byte{1}
	keys := [][]byte{
		dueKey(laneKey("a", "h"), 0, 1, id), dueKey(laneKey("a", "h"), 0, 256, id), dueKey(laneKey("a", "h"), 1, 0, id),
		laneEnd(laneKey("a", "h")), dueKey(laneKey("a", "h2"), 0, 0, id), dueKey(laneKey("a-b", "h"), 0, 0, id),
		dueKey(laneKey("ab", "h"), 0, never, id), prefixEnd(keyDue),
	}
	if !slices.IsSortedFunc(keys, bytes.Compare) {
		t.Errorf("not sorted: %x", keys)
	}
}

// encodeInline is a record of a small body.
func encodeInline(body []byte) []byte {
	record := make([]byte, len(body)+recordExtra)
	copy(record[recordHead:], body)
	frameInline(record)
	return record
}
