package queue

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestDamageIsSetAside damages one message of three in every way that the format
// allows. The others must still be delivered, the damaged one must neither be
// handed out nor vanish, and the operator must be told.
func TestDamageIsSetAside(t *testing.T) {
	flip := func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 4; return b }
	torn := func(b []byte) []byte { return b[:len(b)-3] }
	cases := map[string]struct {
		large  bool
		damage func(t *testing.T, d *damager)
	}{
		"envelope flipped": {false, func(t *testing.T, d *damager) { d.change(t, keyMessage, flip) }},
		"envelope torn":    {false, func(t *testing.T, d *damager) { d.change(t, keyMessage, torn) }},
		"envelope gone":    {false, func(t *testing.T, d *damager) { d.change(t, keyMessage, nil) }},
		"state flipped":    {false, func(t *testing.T, d *damager) { d.change(t, keyState, flip) }},
		"state torn":       {true, func(t *testing.T, d *damager) { d.change(t, keyState, torn) }},
		"state gone":       {false, func(t *testing.T, d *damager) { d.change(t, keyState, nil) }},
		"state of another": {false, func(t *testing.T, d *damager) {
			d.change(t, keyState, func([]byte) []byte { return encodeState(state{due: 1}, make([]Recipient, 2)) })
		}},
		"due entry at the wrong time": {false, func(t *testing.T, d *damager) {
			d.set(t, dueKey(laneKey("b", "provider"), Normal, 7, d.key), nil)
			d.change(t, keyState, nil)
		}},
		"body file gone":           {true, func(t *testing.T, d *damager) { d.file(t, -1) }},
		"body file too short":      {true, func(t *testing.T, d *damager) { d.file(t, 199_999) }},
		"body file empty":          {true, func(t *testing.T, d *damager) { d.file(t, 0) }},
		"body file's mark flipped": {true, func(t *testing.T, d *damager) { d.change(t, keyFile, flip) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			q := openTest(t, mem)
			size := 100
			if c.large {
				size = 200_000
			}
			var ids []ID
			for i := range 3 {
				ids = append(ids, mustCommit(t, q, testEnvelope(string(rune('a'+i)), "x@y"), testBody(size, byte(i))))
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			c.damage(t, newDamager(t, mem, ids[1]))
			checkDamage(t, mem, ids)
		})
	}
}

func checkDamage(t *testing.T, mem *vfs.MemFS, ids []ID) {
	q := openTest(t, mem)
	got := map[ID]bool{}
	for _, e := range mustDue(t, q, 10) {
		got[e.ID] = true
		readBody(t, q, e.ID)
	}
	if len(got) != 2 || !got[ids[0]] || !got[ids[2]] {
		t.Errorf("handed out %v, want the first and the last", got)
	}
	checkCondition(t, q, "queue.quarantine", true)
	if err := q.Sick(); err != nil {
		t.Errorf("one damaged message made the store sick: %v", err)
	}
	if _, err := q.Show(ids[1]); !errors.Is(err, ErrUnknown) {
		t.Errorf("Show of the damaged message: %v", err)
	}
	if next, ok := q.NextDue(); ok {
		if list, err := q.Due(next.Add(time.Hour), 10); err != nil || len(list) != 0 {
			t.Errorf("and again: %v, %v", list, err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = openTest(t, mem)
	if q.Recovery().Quarantined != 0 {
		t.Errorf("set aside once more: %+v", q.Recovery())
	}
	checkCondition(t, q, "queue.quarantine", true)
	if list := mustDue(t, q, 10); len(list) != 2 {
		t.Errorf("%d messages after the second start, want 2", len(list))
	}
}

// damager changes a closed queue.
type damager struct {
	mem *vfs.MemFS
	id  ID
	key [idBytes]byte
}

func newDamager(t *testing.T, mem *vfs.MemFS, id ID) *damager {
	t.Helper()
	key, err := id.binary()
	if err != nil {
		t.Fatal(err)
	}
	return &damager{mem: mem, id: id, key: key}
}

// open opens the index as the queue does, for one change.
func (d *damager) open(t *testing.T, do func(db *pebble.DB) error) {
	t.Helper()
	q := openTest(t, vfs.NewMem())
	db, err := pebble.Open("/queue/index", indexOptions(d.mem, q.health, q.log))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(do(db), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func (d *damager) set(t *testing.T, key, value []byte) {
	t.Helper()
	d.open(t, func(db *pebble.DB) error { return db.Set(key, value, pebble.Sync) })
}

// change replaces a record, or deletes it.
func (d *damager) change(t *testing.T, kind byte, how func([]byte) []byte) {
	t.Helper()
	key := idKey(kind, d.key)
	d.open(t, func(db *pebble.DB) error {
		value, closer, err := db.Get(key)
		if err != nil {
			return err
		}
		defer closer.Close()
		if how == nil {
			return db.Delete(key, pebble.Sync)
		}
		return db.Set(key, how(bytes.Clone(value)), pebble.Sync)
	})
}

// file cuts the body file to n bytes, or deletes it.
func (d *damager) file(t *testing.T, n int) {
	t.Helper()
	s := &spool{fs: d.mem, dir: "/queue/spool"}
	f, err := d.mem.Open(s.path(d.id))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close(), d.mem.Remove(s.path(d.id))); err != nil {
		t.Fatal(err)
	}
	if n >= 0 {
		writeFile(t, d.mem, s.path(d.id), string(content[:n]))
	}
}

// A due key that cannot even be read must not stop the lanes behind it.
func TestUnreadableDueKey(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	for _, tenant := range []string{"a", "c"} {
		mustCommit(t, q, testEnvelope(tenant, "x@y"), nil)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	d := newDamager(t, mem, q.ids.next(time.Now()))
	for _, key := range []string{"d", "db", "db\x00h\x00", "db\x00h\x00\x09" + string(make([]byte, 24)), "dz"} {
		d.set(t, []byte(key), nil)
	}
	q = openTest(t, mem)
	if list := mustDue(t, q, 10); len(list) != 2 {
		t.Errorf("%d messages, want 2", len(list))
	}
	if n := q.Recovery().Quarantined; n != 5 {
		t.Errorf("%d keys set aside, want 5", n)
	}
}

// A body that changed on disk must never be sent to its end.
func TestChangedBodyIsNoticed(t *testing.T) {
	mem := vfs.NewMem()
	q := openTest(t, mem)
	large := mustCommit(t, q, testEnvelope("a", "x@y"), testBody(200_000, 1))
	small := mustCommit(t, q, testEnvelope("a", "x@y"), testBody(100, 1))
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	s := &spool{fs: mem, dir: "/queue/spool"}
	changed := testBody(200_000, 1)
	changed[50_000] ^= 1
	writeFile(t, mem, s.path(large), string(changed))
	newDamager(t, mem, small).change(t, keyInline, func([]byte) []byte { return encodeInline(testBody(100, 2)) })
	q = openTest(t, mem)
	for _, id := range []ID{large, small} {
		r, err := q.Body(id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", id, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	checkCondition(t, q, "queue.corrupt", true)
	// The relay keeps such a message as a dead letter.
	mustDue(t, q, 10)
	if err := q.Finish(small, Outcome{Dead: "body is damaged"}); err != nil {
		t.Fatal(err)
	}
	checkCondition(t, q, "queue.dead", true)
}

// A message whose attempt was cut off, and whose records are damaged.
func TestDamagedAttempt(t *testing.T) {
	mem := vfs.NewCrashableMem()
	q := openTest(t, mem)
	ids := []ID{mustCommit(t, q, testEnvelope("a", "x@y"), nil), mustCommit(t, q, testEnvelope("a", "x@y"), nil)}
	mustDue(t, q, 2)
	if err := q.Begin(ids...); err != nil {
		t.Fatal(err)
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	newDamager(t, clone, ids[0]).change(t, keyMessage, func(b []byte) []byte { return b[1:] })
	q = openTest(t, clone)
	if r := q.Recovery(); r.Uncertain != 1 || r.Quarantined != 1 {
		t.Errorf("recovery %+v", r)
	}
	list := mustDue(t, q, 2)
	if len(list) != 1 || list[0].ID != ids[1] || list[0].Recipients[0].Uncertain != 1 {
		t.Errorf("due %+v", list)
	}
	checkTrace(t, q, ids[1], "accepted attempt:1 uncertain:1")
}
