package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
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
	<-q.checked
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

// sumOf is the check sum that a body of today must have.
func sumOf(body []byte) Sum { return Sum(binary.BigEndian.AppendUint64(nil, xxhash.Sum64(body))) }

var bodySizes = []int{0, 1, 10_000, InlineLimit - 1, InlineLimit, InlineLimit + 1, 3 * InlineLimit, 1_000_000}

func TestCommitKeepsEverything(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	sent := map[ID]*Envelope{}
	for i, size := range bodySizes {
		e := testEnvelope("gemeinde-a", "a@x.de-mail.example", "b@x.de-mail.example")
		mustCommit(t, q, e, testBody(size, byte(i)))
		if e.Size != int64(size) || e.Sum != sumOf(testBody(size, byte(i))) {
			t.Fatalf("size %d: Commit set Size %d, Sum %x", size, e.Size, e.Sum)
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
