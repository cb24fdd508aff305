package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// ledger is what the callers of a queue know for certain, kept outside of it. It
// is the measure of every crash test.
type ledger struct {
	mu   sync.Mutex
	msgs map[ID]entry
}

// entry is what is known about one message.
type entry struct {
	sum      [sha256.Size]byte // of the body
	size     int64
	rcpts    int
	acked    bool // Commit returned nil, or Begin did
	begins   int  // Begin returned nil
	calling  bool // Begin has been called and has not returned
	open     bool // begun, and Finish has not returned
	leaving  end  // Finish has been called with this end and has not returned
	left     end  // Finish returned nil
	dropping bool // Drop has been called
	reviving int  // calls of Revive that have not returned
	revives  int  // Revive has been called
	child    ID   // report born by the Finish
	parent   ID   // whose Finish bears this one

	ops        int      // operations on holds called (Commit on hold is one)
	opsOpen    int      // of these: not returned
	hold       holding  // as far as it is known
	bounces    int      // Bounce has been called
	bounced    bool     // Bounce returned, and the message did not die since
	told       int      // notices of delay: Finish returned nil
	toldCalled int      // the same: Finish has been called
	notes      int      // Annotate returned nil
	noteCalls  int      // Annotate has been called
	noteTo     ID       // message whose trace got a note with this one's Commit
	retried    struct { // Retry returned nil, with begins as they are
		begins int
		at     time.Time
	}
}

// holding is what is known about a hold.
type holding uint8

const (
	maybe holding = iota // an operation has not returned
	free
	onHold
)

// end is how a Finish leaves a message.
type end uint8

const (
	stays end = iota // waits on, or no Finish yet
	gone
	dead
	later // Finish with a temporary failure is under way
)

func newLedger() *ledger { return &ledger{msgs: map[ID]entry{}} }

// copy is made with mu held.
func (l *ledger) copy() *ledger { return &ledger{msgs: maps.Clone(l.msgs)} }

func (l *ledger) note(id ID, change func(e *entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.msgs[id]
	change(&e)
	l.msgs[id] = e
}

// verify compares an opened queue with what is known. It reads every body.
func (l *ledger) verify(q *Queue) error {
	list, next, err := q.List(context.Background(), Filter{})
	if err != nil || next != "" {
		return fmt.Errorf("list: %d messages, next %q: %w", len(list), next, err)
	}
	found := map[ID]*Envelope{}
	for _, e := range list {
		if _, ok := l.msgs[e.ID]; !ok {
			return fmt.Errorf("%s is there, and nobody brought it", e.ID)
		}
		found[e.ID] = e
	}
	letters, err := q.DeadLetters("", MaxList)
	if err != nil {
		return err
	}
	letter := map[ID]bool{}
	for _, d := range letters {
		letter[d.Envelope.ID] = true
	}
	ids, err := q.Find("all", MaxFind)
	if err != nil || len(ids) == MaxFind || !slices.IsSortedFunc(ids, newestFirst) {
		return fmt.Errorf("found by the key of all: %d, newest first: %v, %w", len(ids), slices.IsSortedFunc(ids, newestFirst), err)
	}
	all := map[ID]bool{}
	for _, id := range ids {
		all[id] = true
	}
	for id, known := range l.msgs {
		err := known.verify(q, found[id], letter[id])
		if e := found[id]; err == nil && e != nil && !letter[id] {
			err = known.verifyStanding(e)
		}
		if err == nil {
			err = l.verifyTrace(q, id, known, found[id] != nil, all)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		if err := l.verifyBirth(known, found); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	return l.verifyWhole(q, found, letter)
}

// verify checks one message: what was acknowledged is there, with its hash, or
// finished; what is there is whole; each attempt that was begun is known.
func (k entry) verify(q *Queue, e *Envelope, letter bool) error {
	mayBeGone := !k.acked || k.left == gone || k.leaving == gone || k.dropping
	switch {
	case e == nil && !mayBeGone:
		return errors.New("acknowledged, and lost")
	case e == nil:
		return nil
	case k.left == gone:
		return errors.New("finished, and back again")
	case k.left == dead && !letter && k.reviving == 0:
		return errors.New("dead letter lost")
	case letter && k.left != dead && k.leaving != dead && k.reviving == 0:
		return errors.New("dead letter that nobody made")
	case e.Size != k.size || len(e.Recipients) != k.rcpts:
		return fmt.Errorf("envelope differs: %d bytes, %d recipients", e.Size, len(e.Recipients))
	}
	if err := verifyBody(q, e.ID, k); err != nil {
		return err
	}
	r := e.Recipients[0]
	most := k.begins
	if k.calling {
		most++
	}
	if r.Attempts < k.begins || r.Attempts > most {
		return fmt.Errorf("%d attempts are known, %d were begun", r.Attempts, k.begins)
	}
	if k.open && k.leaving == stays && !letter && r.Uncertain == 0 {
		return errors.New("an attempt was cut off and is not marked")
	}
	return nil
}

// verifyStanding checks what operations and delay notices did to a message.
func (k entry) verifyStanding(e *Envelope) error {
	r := e.Recipients[0]
	switch {
	case k.hold == onHold && !e.Hold:
		return errors.New("the hold is lost")
	case k.hold == free && e.Hold:
		return errors.New("on hold, and nobody holds it")
	case k.bounced && e.BounceReason == "":
		return errors.New("the operator's bounce is lost")
	case k.bounces == 0 && e.BounceReason != "":
		return errors.New("a bounce that nobody asked for")
	case r.DelaysTold < k.told || r.DelaysTold > k.toldCalled:
		return fmt.Errorf("%d notices of delay, want %d to %d", r.DelaysTold, k.told, k.toldCalled)
	case !k.retried.at.IsZero() && k.retried.begins == k.begins && !k.calling && r.NextTry.After(time.Now()):
		return fmt.Errorf("the operator's retry is lost: it waits for %v", r.NextTry)
	}
	return nil
}

// verifyTrace checks that a message that was ever there has its trace and is found by
// its keys, that the trace has the notes which were acknowledged, and that a note came
// together with the message that brought it.
func (l *ledger) verifyTrace(q *Queue, id ID, k entry, there bool, all map[ID]bool) error {
	_, events, err := q.Trace(id)
	traced := err == nil
	if err != nil && !errors.Is(err, ErrUnknown) {
		return err
	}
	if !traced && (k.acked || there) {
		return errors.New("the trace is lost")
	}
	ids, err := q.Find("one:"+string(id), 2)
	if err != nil || slices.Contains(ids, id) != traced || len(ids) > 1 || traced != all[id] {
		return fmt.Errorf("found by its own key: %v, %w; by that of all: %v; traced: %v", ids, err, all[id], traced)
	}
	notes := 0
	for _, event := range events {
		if event.Kind == Noted && event.Data["who"] == "outside" {
			notes++
		}
	}
	if notes < k.notes || notes > k.noteCalls {
		return fmt.Errorf("%d notes, want %d to %d", notes, k.notes, k.noteCalls)
	}
	if k.noteTo == "" {
		return nil
	}
	_, events, err = q.Trace(k.noteTo)
	noted := slices.ContainsFunc(events, func(e Event) bool { return e.Kind == Received && e.Other == id })
	if err != nil || noted != traced {
		return fmt.Errorf("note in the trace of %s: %v, want %v; %w", k.noteTo, noted, traced, err)
	}
	return nil
}

func newestFirst(a, b ID) int { return strings.Compare(string(b), string(a)) }

func verifyBody(q *Queue, id ID, k entry) error {
	r, err := q.Body(id)
	if err != nil {
		return err
	}
	defer r.Close()
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(bytes.TrimPrefix(content, []byte("X-Trace: 1\r\n"))); sum != k.sum {
		return fmt.Errorf("body has hash %x", sum)
	}
	return nil
}

// verifyBirth checks that a report and the end of its message go together.
func (l *ledger) verifyBirth(k entry, found map[ID]*Envelope) error {
	if k.parent == "" || k.left != stays || k.leaving != stays {
		return nil
	}
	parent := l.msgs[k.parent]
	if parent.left == gone || parent.leaving != gone {
		return nil
	}
	if _, there := found[k.parent]; there == (found[k.idIn(l)] != nil) {
		return fmt.Errorf("report and its message: both there or both gone (%v)", there)
	}
	return nil
}

func (k entry) idIn(l *ledger) ID { return l.msgs[k.parent].child }

// verifyWhole checks what holds for the queue as a whole: sums, no damage, and
// that Due reaches every waiting message.
func (l *ledger) verifyWhole(q *Queue, found map[ID]*Envelope, letter map[ID]bool) error {
	if err := verifyIndex(q); err != nil {
		return err
	}
	var sums Counts
	for id, e := range found {
		sums.Bytes += e.Size
		if letter[id] {
			sums.Dead++
			continue
		}
		if e.Hold {
			sums.Held++
			continue
		}
		sums.Messages++
		sums.Recipients += int64(len(e.Recipients))
	}
	s, err := q.Stats()
	if err != nil {
		return err
	}
	if s.Total != sums {
		return fmt.Errorf("sums say %+v, there is %+v", s.Total, sums)
	}
	if q.Recovery().Checking {
		return errors.New("the check of bodies broke off")
	}
	if s.Quarantined != 0 {
		return fmt.Errorf("%d records are in quarantine", s.Quarantined)
	}
	for _, c := range q.Conditions() {
		if c.Code != "queue.dead" && c.Code != "queue.held" {
			return fmt.Errorf("condition %+v", c)
		}
	}
	return verifyReach(q)
}

// verifyReach checks that Due, as far as this process remembers, comes to every
// waiting message, and takes them all.
func verifyReach(q *Queue) error {
	s, err := q.Stats()
	if err != nil {
		return err
	}
	reached := int64(s.Taken)
	for {
		due, err := q.Due(time.Now().Add(1000*time.Hour), 7)
		if err != nil {
			return err
		}
		if len(due) == 0 {
			break
		}
		reached += int64(len(due))
	}
	if reached != s.Total.Messages {
		return fmt.Errorf("Due reaches %d of %d messages", reached, s.Total.Messages)
	}
	return nil
}

// resolve makes an opened queue's view the certain one: what was under way is now
// decided.
func (l *ledger) resolve(q *Queue) error {
	list, _, err := q.List(context.Background(), Filter{})
	if err != nil {
		return err
	}
	letters, err := q.DeadLetters("", MaxList)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := map[ID]entry{}
	for _, e := range list {
		k := l.msgs[e.ID]
		n := entry{sum: k.sum, size: k.size, rcpts: k.rcpts, acked: true, begins: e.Recipients[0].Attempts, hold: free}
		if e.Hold {
			n.hold = onHold
		}
		n.told, n.toldCalled = e.Recipients[0].DelaysTold, e.Recipients[0].DelaysTold
		if n.bounced = e.BounceReason != ""; n.bounced {
			n.bounces = 1
		}
		_, events, err := q.Trace(e.ID)
		if err != nil {
			return err
		}
		for _, event := range events {
			if event.Kind == Noted && event.Data["who"] == "outside" {
				n.notes++
			}
		}
		n.noteCalls = n.notes
		next[e.ID] = n
	}
	for _, d := range letters {
		k := next[d.Envelope.ID]
		k.left = dead
		next[d.Envelope.ID] = k
	}
	l.msgs = next
	return nil
}

// verifyIndex checks what the package comment says about keys: each message has an
// envelope, a state, one body and stands in one place; nothing else is there.
func verifyIndex(q *Queue) error {
	has := map[[idBytes]byte]string{}
	err := q.store.scan([]byte{0}, []byte{255}, func(key, _ []byte) bool {
		id, ok := keyID(key)
		switch key[0] {
		case keyCounts, keyTrace, keyLookup:
			return true
		case keyDue:
			var e dueEntry
			e, ok = parseDue(key)
			id = e.id
		}
		if !ok {
			has[id] = "bad key"
			return false
		}
		has[id] += string(key[0])
		return true
	})
	if err != nil {
		return err
	}
	files := 0
	for id, kinds := range has {
		sorted := slices.Sorted(slices.Values(strings.Split(kinds, "")))
		switch text := strings.Join(sorted, ""); text {
		case "bdms", "bmps", "bmsx", "bhms":
		case "dfms", "fmps", "fmsx", "fhms":
			files++
		default:
			return fmt.Errorf("%s stands in the index as %q", idFrom(id), text)
		}
	}
	bodies := 0
	err = q.spool.bodies(func(ID) error { bodies++; return nil })
	if err == nil && bodies != files {
		err = fmt.Errorf("%d body files for %d messages that have one", bodies, files)
	}
	return err
}
