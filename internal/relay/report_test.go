package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/dsn"
	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// reportBox is a box with tenants; its provider gives one answer to everything.
type reportBox struct {
	*box
	snap *tenants.Snapshot
}

func newReportBox(t *testing.T) *reportBox {
	t.Helper()
	w := newInWorld(t, nil)
	snap, err := tenants.New(w.doc)
	if err != nil {
		t.Fatal(err)
	}
	snap.Delay, snap.GiveUp = []time.Duration{time.Hour, 3 * time.Hour}, 48*time.Hour
	b := newBox(t)
	b.relay.o.Tenants = tenants.NewLive(snap)
	return &reportBox{b, snap}
}

var deferred = nexthop.Result{Server: "mx.provider", Reply: nexthop.Reply{Code: 451, Enhanced: "4.3.0", Text: "later"}}

// letter accepts a letter of amt-a.
func (b *reportBox) letter(change func(*queue.Envelope)) queue.ID {
	b.t.Helper()
	return b.commit("amt-a", "post@amt-a.de-mail.example", func(e *queue.Envelope) {
		e.Attributes = map[string]string{attrReturn: "post@amt-a.example"}
		if change != nil {
			change(e)
		}
	})
}

// try makes an attempt at a message that is due at that time, with this answer.
func (b *reportBox) try(id queue.ID, at time.Time, answer nexthop.Result) {
	b.t.Helper()
	b.hop.set(func(context.Context, *nexthop.Message) nexthop.Result { return answer })
	list, err := b.queue.Take(at, id)
	if err != nil || len(list) != 1 {
		b.t.Fatalf("taken %v, %v", list, err)
	}
	if err := b.queue.Begin(id); err != nil {
		b.t.Fatal(err)
	}
	b.relay.attempt(b.t.Context(), list[0], list[0].DueAt(at), func(feedback, string) {})
}

// report is what a second parser makes of a report that waits in the queue.
type report struct {
	*queue.Envelope
	subject, text, returned string
	status                  *dsn.Status
}

// reports takes the reports about a message out of the queue.
func (b *reportBox) reports(about queue.ID) (all []report) {
	b.t.Helper()
	list, _, err := b.queue.List(b.t.Context(), queue.Filter{Direction: queue.In})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range list {
		if e.ReportOf != about {
			continue
		}
		all = append(all, b.read(e))
		if taken, err := b.queue.Take(time.Now(), e.ID); err != nil || len(taken) != 1 {
			b.t.Fatalf("report not taken: %v", err)
		}
		if err := b.queue.Finish(e.ID, queue.Outcome{Results: []queue.Result{{State: queue.Delivered}}}); err != nil {
			b.t.Fatal(err)
		}
	}
	return all
}

func (b *reportBox) read(e *queue.Envelope) report {
	b.t.Helper()
	body, err := b.queue.Body(e.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	defer body.Close()
	m, err := mail.ReadMessage(body)
	if err != nil {
		b.t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" {
		b.t.Fatalf("%s, %v", kind, err)
	}
	var parts [][]byte
	for mr := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			b.t.Fatal(err)
		}
		raw, err := io.ReadAll(p)
		if err != nil {
			b.t.Fatal(err)
		}
		parts = append(parts, raw)
	}
	if len(parts) != 3 {
		b.t.Fatalf("%d parts", len(parts))
	}
	text, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(parts[0])))
	if err != nil {
		b.t.Fatal(err)
	}
	status, err := dsn.Parse(bytes.NewReader(parts[1]))
	if err != nil {
		b.t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		b.t.Fatal(err)
	}
	return report{e, subject, string(text), string(parts[2]), status}
}

// The sender hears of a delay after one hour and after three, once each, whether
// attempts are made or not.
func TestDelaysAreToldOnceEach(t *testing.T) {
	b := newReportBox(t)
	received := time.Now().Add(-61 * time.Minute)
	id := b.letter(func(e *queue.Envelope) {
		e.Received, e.ENVID = received, "AZ 1"
		e.Recipients = []queue.Recipient{{Address: "a@x.de-mail.example", Original: "rfc822;a+b@x.example"}, {Address: "b@x.de-mail.example", Notify: "NEVER"},
			{Address: "c@x.de-mail.example", Notify: "FAILURE,SUCCESS"}, {Address: "d@x.de-mail.example", Notify: "DELAY"}}
	})
	b.try(id, time.Now(), deferred)
	got := b.reports(id)
	if len(got) != 1 {
		t.Fatalf("%d reports after the first hour", len(got))
	}
	r := got[0]
	if r.Recipients[0].Address != "post@amt-a.example" || r.From != "" || r.subject != "De-Mail verzögert ("+string(id)+")" || !strings.Contains(r.text, "4 Stunden") {
		t.Errorf("%+v", r)
	}
	if len(r.status.Recipients) != 2 || r.status.ENVID != "AZ 1" {
		t.Fatalf("status %+v", r.status)
	}
	for i, want := range []string{"a@x.de-mail.example", "d@x.de-mail.example"} {
		one := r.status.Recipients[i]
		if one.Address != want || one.Action != dsn.Delayed || one.Status != "4.3.0" || one.RemoteMTA != "mx.provider" || !one.RetryUntil.Equal(received.Add(48*time.Hour).Truncate(time.Second)) {
			t.Errorf("%+v", one)
		}
	}
	if r.status.Recipients[0].Original != "rfc822;a+b@x.example" || strings.Contains(r.returned, "\r\n\r\nx") {
		t.Errorf("original %q, returned %q", r.status.Recipients[0].Original, r.returned)
	}
	b.try(id, time.Now().Add(time.Hour), deferred)
	if got := b.reports(id); len(got) != 0 {
		t.Errorf("told again: %+v", got)
	}
	for range 2 {
		if err := b.relay.overdue(t.Context(), time.Now().Add(118*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.reports(id); len(got) != 0 {
		t.Errorf("told before three hours: %+v", got)
	}
	for range 2 {
		if err := b.relay.overdue(t.Context(), time.Now().Add(120*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.reports(id); len(got) != 1 || got[0].status.Recipients[0].Action != dsn.Delayed {
		t.Errorf("%d reports after three hours", len(got))
	}
	e, err := b.queue.Show(id)
	if err != nil || e.Recipients[0].DelaysTold != 2 || e.Recipients[0].Attempts != 2 || e.Recipients[1].DelaysTold != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

// A message that was never tried, because its next hop is down, is told of all the
// same, with the reason; and given up in its time, which it is not while attempts
// can be made.
func TestWaitingAtADestinationThatIsDown(t *testing.T) {
	b := newReportBox(t)
	id := b.letter(nil)
	if err := b.relay.overdue(t.Context(), time.Now().Add(61*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if got := b.reports(id); len(got) != 1 || got[0].status.Recipients[0].Status != "4.4.1" || !got[0].status.Recipients[0].Last.IsZero() {
		t.Fatalf("%+v", got)
	}
	late := time.Now().Add(49 * time.Hour)
	if err := b.relay.overdue(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	for _, r := range b.reports(id) {
		if r.status.Recipients[0].Action != dsn.Delayed {
			t.Errorf("given up although the last attempt can be made: %+v", r.status)
		}
	}
	b.down()
	if err := b.relay.overdue(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	got := b.reports(id)
	if len(got) != 1 {
		t.Fatalf("%d reports", len(got))
	}
	if one := got[0].status.Recipients[0]; one.Action != dsn.Failed || one.Status != "5.4.7" || !strings.Contains(one.Diagnostic, "cannot connect: refused") {
		t.Errorf("%+v", one)
	}
	if _, err := b.queue.Show(id); !errors.Is(err, queue.ErrUnknown) {
		t.Errorf("the message is still there: %v", err)
	}
	if n := b.hop.count(); n != 0 {
		t.Errorf("%d attempts", n)
	}
}

// down lets the provider be down.
func (b *reportBox) down() *destination {
	d := b.relay.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	dest := d.dest(hopProvider)
	for range breakAfter {
		dest.learn(lost, time.Now(), false, "cannot connect: refused")
	}
	return dest
}

func (d *dispatcher) ready(dest *destination) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return dest.ready(time.Now())
}

// What the operator bounces goes back at once and is not tried, also while the
// next hop is down.
func TestOperatorBounces(t *testing.T) {
	b := newReportBox(t)
	down := b.letter(func(e *queue.Envelope) { e.Recipients[0].NextTry = time.Now().Add(time.Hour) })
	if n, err := b.queue.Bounce([]queue.ID{down}, "Irrläufer"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := b.relay.attend(t.Context(), time.Now(), down); err != nil {
		t.Fatal(err)
	}
	got := b.reports(down)
	if len(got) != 1 || got[0].status.Recipients[0].Status != "5.7.0" || got[0].status.Recipients[0].Action != dsn.Failed || !strings.Contains(got[0].status.Recipients[0].Diagnostic, "returned by the operator") {
		t.Fatalf("%+v", got)
	}
	due := b.letter(func(e *queue.Envelope) { e.Recipients[0].NextTry = time.Now().Add(time.Hour) })
	if n, err := b.queue.Bounce([]queue.ID{due}, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	b.run()
	provider := b.down()
	held := b.letter(func(e *queue.Envelope) { e.Recipients[0].NextTry = time.Now().Add(time.Hour) })
	if n, err := b.queue.Bounce([]queue.ID{held}, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	b.relay.Bounced(held)
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := b.queue.Show(held); errors.Is(err, queue.ErrUnknown) {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("not bounced while the provider is down")
		}
	}
	b.relay.Hasten()
	if !b.relay.dispatcher.ready(provider) {
		t.Error("the operator's word does not bring the next probe")
	}
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := b.queue.Show(due); errors.Is(err, queue.ErrUnknown) {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("not bounced")
		}
	}
	if err := b.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := b.hop.count(); n != 0 {
		t.Errorf("%d attempts", n)
	}
}

// A mass of bounced letters is worked off in bounds.
func TestManyBouncesAtOnce(t *testing.T) {
	const letters = 3000
	b := newBox(t)
	b.flood(letters, "a", "a@x")
	for after := queue.ID(""); ; {
		list, next, err := b.queue.List(t.Context(), queue.Filter{After: after})
		if err != nil {
			t.Fatal(err)
		}
		var ids []queue.ID
		for _, e := range list {
			ids = append(ids, e.ID)
		}
		if _, err := b.queue.Bounce(ids, "x"); err != nil {
			t.Fatal(err)
		}
		if after = next; next == "" {
			break
		}
	}
	b.run()
	most, d := 0, b.relay.dispatcher
	for limit := time.Now().Add(time.Minute); ; {
		d.mu.Lock()
		most = max(most, d.recording)
		d.mu.Unlock()
		if stats, err := b.queue.Stats(); err != nil || stats.Total.Messages == 0 {
			break
		}
		if time.Now().After(limit) {
			t.Fatal("not worked off")
		}
	}
	if most > maxRecording || b.hop.count() != 0 {
		t.Errorf("%d at once, want at most %d; %d attempts", most, maxRecording, b.hop.count())
	}
	b.close()
}

// RET, NOTIFY=SUCCESS and servers with and without DSN.
func TestWhatIsReportedAndReturned(t *testing.T) {
	b := newReportBox(t)
	whole := "From: x\r\nSubject: x\r\n\r\nx\r\n"
	failed := nexthop.Result{Outcome: nexthop.Permanent, Server: "mx", Reply: nexthop.Reply{Code: 550, Enhanced: "5.1.1", Text: "unknown"}}
	relayed := nexthop.Result{Outcome: nexthop.Delivered, Relayed: true, Server: "mx", Reply: nexthop.Reply{Code: 250, Enhanced: "2.0.0"}}
	final := nexthop.Result{Outcome: nexthop.Delivered, Server: "mx", Reply: nexthop.Reply{Code: 250, Enhanced: "2.0.0"}}
	for name, test := range map[string]struct {
		notify, ret string
		answer      nexthop.Result
		action      dsn.Action // "": no report
		whole       bool
	}{
		"failure":                         {"", "", failed, dsn.Failed, false},
		"failure, FULL":                   {"FAILURE", "FULL", failed, dsn.Failed, true},
		"failure, HDRS":                   {"FAILURE", "HDRS", failed, dsn.Failed, false},
		"failure, only success wanted":    {"SUCCESS", "FULL", failed, "", false},
		"failure, NEVER":                  {"NEVER", "FULL", failed, "", false},
		"relayed":                         {"SUCCESS", "FULL", relayed, dsn.Relayed, false},
		"relayed, not asked":              {"", "FULL", relayed, "", false},
		"handed to a server that reports": {"SUCCESS,FAILURE", "FULL", final, "", false},
	} {
		id := b.letter(func(e *queue.Envelope) { e.RET, e.Recipients[0].Notify = test.ret, test.notify })
		b.try(id, time.Now().Add(time.Second), test.answer)
		got := b.reports(id)
		if (len(got) == 1) != (test.action != "") {
			t.Errorf("%s: %d reports", name, len(got))
			continue
		}
		if test.action == "" {
			continue
		}
		if one := got[0].status.Recipients[0]; one.Action != test.action || !one.Remote {
			t.Errorf("%s: %+v", name, one)
		}
		if (strings.TrimSuffix(got[0].returned, "\r\n")+"\r\n" == whole) != test.whole {
			t.Errorf("%s: returned %q", name, got[0].returned)
		}
	}
}

// The postmaster's notice of a dead letter says how to see and deliver it.
func TestDeadLetterNoticeSaysHowToGoOn(t *testing.T) {
	b := newReportBox(t)
	id := b.letter(func(e *queue.Envelope) {
		e.Direction, e.Hop, e.From = queue.In, hopTenant, "erika@buerger.de-mail.example"
	})
	if n, err := b.queue.Bounce([]queue.ID{id}, "x"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if err := b.relay.attend(t.Context(), time.Now(), id); err != nil {
		t.Fatal(err)
	}
	got := b.reports(id)
	if len(got) != 1 || got[0].Recipients[0].Address != "postmaster@amt-a.example" {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{"pforte queue show " + string(id), "pforte queue release " + string(id), "nicht verloren", "not lost"} {
		if !strings.Contains(got[0].text, want) {
			t.Errorf("the notice lacks %q:\n%s", want, got[0].text)
		}
	}
	if dead, err := b.queue.DeadLetters("", 10); err != nil || len(dead) != 1 || dead[0].Envelope.ID != id {
		t.Errorf("%v, %v", dead, err)
	}
}
