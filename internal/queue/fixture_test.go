package queue

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/go-cmp/cmp"
)

// The folder testdata/v1 is a queue as the first release left it after a power
// cut, and testdata/v1.json what is in it; v2 is the same with what the second one
// added: holds, bounces, lookup keys, notes, delays; v3 has the check sums of today.
// Later code must open them. They are never made again; what is new gets a folder of
// its own. PFORTE_WRITE_FIXTURE=DIR writes one.
var fixtures = map[string]Recovery{
	"v1": {Temporary: 1, Orphans: 1, Uncertain: 1},
	"v2": {Temporary: 1, Orphans: 1, Uncertain: 1},
	"v3": {Orphans: 2, Uncertain: 1},
}

// fixtureLine is one message as the fixture's text tells it.
type fixtureLine struct {
	Envelope map[string]any
	Dead     string   `json:",omitempty"`
	Body     int      // bytes with prefix
	Trace    []string // kinds
	Keys     []string `json:",omitempty"` // of fixtureKeys, those that find it
}

// fixtureKeys are the lookup keys in the fixture.
var fixtureKeys = []string{"message-id:<held@gemeinde-a.example>", "address:one@x.de-mail.example"}

func TestOpensEarlierFormat(t *testing.T) {
	for name, recovery := range fixtures {
		t.Run(name, func(t *testing.T) { checkFixture(t, filepath.Join("testdata", name), recovery) })
	}
}

func checkFixture(t *testing.T, fixture string, recovery Recovery) {
	dir := filepath.Join(t.TempDir(), "queue")
	if err := os.CopyFS(dir, os.DirFS(fixture)); err != nil {
		t.Fatal(err)
	}
	for start := range 2 {
		q, err := Open(vfs.Default, dir, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		<-q.checked
		if start == 0 && q.Recovery() != recovery {
			t.Errorf("recovery %+v", q.Recovery())
		}
		got, err := json.MarshalIndent(fixtureLines(t, q), "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(fixture + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(bytes.TrimSpace(want)), string(got)); diff != "" {
			t.Errorf("start %d (-want +got):\n%s", start+1, diff)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A body that an earlier release put into a file, and that would stand in the index
// today, leaves nothing behind either.
func TestBodyOfEarlierLimit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "queue")
	if err := os.CopyFS(dir, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	q, err := Open(vfs.Default, dir, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	<-q.checked
	list, _, err := q.List(t.Context(), Filter{Recipient: "large@x.de-mail.example"})
	if err != nil || len(list) != 1 {
		t.Fatal(len(list), err)
	}
	id, size := list[0].ID, list[0].Size
	if _, err := os.Stat(q.spool.path(id)); err != nil || size <= firstInlineLimit || size > InlineLimit {
		t.Fatalf("the fixture has no such body: %d bytes, %v", size, err)
	}
	taken, err := q.Take(time.Now(), id)
	if err != nil || len(taken) != 1 {
		t.Fatal(len(taken), err)
	}
	if err := q.Finish(id, Outcome{Results: []Result{{State: Delivered}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(q.spool.path(id)); err == nil {
		t.Error("the file is left")
	}
	if some, err := q.bodyMarks("", q.ids.next(time.Now())); err != nil || len(some) != 0 {
		t.Errorf("marks are left: %v, %v", some, err)
	}
}

// fixtureLines lists a queue, but for times that recovery sets.
func fixtureLines(t *testing.T, q *Queue) []fixtureLine {
	t.Helper()
	list, _, err := q.List(t.Context(), Filter{})
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[ID]string{}
	letters, err := q.DeadLetters("", MaxList)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range letters {
		reasons[d.Envelope.ID] = d.Reason
	}
	var lines []fixtureLine
	for _, e := range list {
		for i := range e.Recipients {
			if e.Recipients[i].Uncertain > 0 {
				e.Recipients[i].NextTry = time.Time{}
			}
		}
		line := fixtureLine{Envelope: plain(t, e), Dead: reasons[e.ID], Body: len(readBody(t, q, e.ID))}
		_, events, err := q.Trace(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events {
			line.Trace = append(line.Trace, string(event.Kind))
		}
		for _, key := range fixtureKeys {
			ids, err := q.Find(key, MaxFind)
			if err != nil {
				t.Fatal(err)
			}
			if slices.Contains(ids, e.ID) {
				line.Keys = append(line.Keys, key)
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// plain is an envelope as JSON sees it, with the hash in hex.
func plain(t *testing.T, e *Envelope) map[string]any {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "Sum")
	name := "Sum"
	if len(e.Sum) == sha256.Size { // the first releases
		name = "SHA256"
	}
	m[name] = hex.EncodeToString([]byte(e.Sum))
	later := []string{"Keys", "Notes", "Hold", "HoldReason", "BounceReason", "DelaysTold"} // than the first release
	leaveOutZero(m, later)
	delete(m, "DeadReason") // the line has it
	for _, r := range m["Recipients"].([]any) {
		leaveOutZero(r.(map[string]any), later)
	}
	return m
}

// leaveOutZero leaves fields out that say nothing.
func leaveOutZero(m map[string]any, names []string) {
	for _, name := range names {
		switch m[name] {
		case nil, "", false, 0.0:
			delete(m, name)
		}
	}
}

func TestWriteFixture(t *testing.T) {
	dir := os.Getenv("PFORTE_WRITE_FIXTURE")
	if dir == "" {
		return // not a test but the way to make a fixture for a new format
	}
	mem := vfs.NewCrashableMem()
	q := openTest(t, mem)
	late := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	wait := func(tenant string, size int, recipients ...string) *Envelope {
		e := testEnvelope(tenant, recipients...)
		for i := range e.Recipients {
			e.Recipients[i].NextTry = late
		}
		mustCommit(t, q, e, bytes.Repeat([]byte("0123456789abcde\n"), size/16))
		return e
	}
	wait("gemeinde-a", 160, "one@x.de-mail.example")
	wait("gemeinde-b", InlineLimit+16, "large@x.de-mail.example")
	if err := q.store.db.Flush(); err != nil { // the fixture has a table and a log
		t.Fatal(err)
	}
	in := testEnvelope("gemeinde-a", "a@gemeinde-a.example", "b@gemeinde-a.example", "c@gemeinde-a.example")
	in.Direction, in.Hop, in.UTF8, in.Class, in.Prefix = In, "mail.gemeinde-a.example", true, Bulk, nil
	mustCommit(t, q, in, []byte("Subject: x\r\n\r\ny\r\n"))
	cut := testEnvelope("gemeinde-b", "cut@x.de-mail.example")
	mustCommit(t, q, cut, nil)
	lost := testEnvelope("gemeinde-b", "lost@x.de-mail.example")
	mustCommit(t, q, lost, []byte("nobody wants this"))
	mustDue(t, q, 10)
	if err := q.Begin(in.ID, cut.ID); err != nil {
		t.Fatal(err)
	}
	no := Reply{Code: 550, Enhanced: "5.1.1", Text: "no such user"}
	if err := q.Finish(in.ID, Outcome{Results: []Result{
		{0, Delivered, time.Time{}, Reply{Code: 250}}, {1, Failed, time.Time{}, no}, {2, Waiting, late, Reply{Code: 451, Text: "später"}},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := q.Finish(lost.ID, Outcome{Results: []Result{{0, Failed, time.Time{}, no}}, Dead: "no postmaster"}); err != nil {
		t.Fatal(err)
	}
	writeOperated(t, q, late)
	half := mustBody(t, q, make([]byte, InlineLimit+1))
	orphan := mustBody(t, q, make([]byte, InlineLimit+1))
	if err := orphan.seal(); err != nil {
		t.Fatal(err)
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	half.Abort()
	orphan.Abort()
	exportFS(t, clone, "/queue", filepath.Join(dir, "v3"))
	q = openTest(t, clone)
	text, err := json.MarshalIndent(fixtureLines(t, q), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "v3.json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeOperated adds what the second release brought.
func writeOperated(t *testing.T, q *Queue, late time.Time) {
	held := testEnvelope("gemeinde-a", "one@x.de-mail.example")
	held.Hold, held.HoldReason, held.Keys = true, "Prüfwert falsch", fixtureKeys
	mustCommit(t, q, held, []byte("Subject: h\r\n\r\nh\r\n"))
	bounced := testEnvelope("gemeinde-b", "one@x.de-mail.example", "two@x.de-mail.example")
	bounced.Keys = fixtureKeys[1:]
	mustCommit(t, q, bounced, nil)
	late = late.Add(time.Hour)
	mustDue(t, q, 1)
	err := q.Finish(bounced.ID, Outcome{
		Results:    []Result{{0, Waiting, late, Reply{Code: 451}}, {1, Delivered, time.Time{}, Reply{Code: 250}}},
		DelaysTold: map[int]int{0: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Bounce([]ID{bounced.ID}, "account is closed"); err != nil {
		t.Fatal(err)
	}
	note := testEnvelope("gemeinde-a", "later@x.de-mail.example")
	note.Recipients[0].NextTry = late
	note.Notes = []Note{{held.ID, Event{Kind: Dispatched, Recipient: 0, Data: map[string]string{"code": "ok"}}}}
	mustCommit(t, q, note, nil)
	if err := q.Annotate(bounced.ID, Event{Kind: Retrieved, Recipient: 1}); err != nil {
		t.Fatal(err)
	}
}

// exportFS copies a folder of mem to disk, leaving out empty folders.
func exportFS(t *testing.T, mem *vfs.MemFS, from, to string) {
	t.Helper()
	names, err := mem.List(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := mem.PathJoin(from, name)
		info, err := mem.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			exportFS(t, mem, path, filepath.Join(to, name))
			continue
		}
		data, err := mem.UnsafeGetFileDataBuffer(path)
		if err == nil {
			err = os.MkdirAll(to, fs.ModePerm)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
