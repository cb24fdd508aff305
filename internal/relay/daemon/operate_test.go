package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// waitingLetters starts a relay whose provider is down, and hands in n letters.
func waitingLetters(t *testing.T, n int) (*world, *running, []string) {
	t.Helper()
	w := newWorld(t)
	w.provider.SetDown(true)
	w.schedule.Waits = []time.Duration{time.Hour}
	r := w.start()
	c := w.greeted(w.clientA)
	var ids []string
	for i := range n {
		c.send("<"+mailA+">", letterA("geheim"), "250", "<"+citizen+">")
		ids = append(ids, r.marks.await(t, "relayd.accepted", i+1).Fields["id"])
	}
	return w, r, ids
}

// eventually does an act until it has changed n messages: those that are being
// tried are left, as the answer says.
func eventually(t *testing.T, n int, act func() (manage.QueueActed, error)) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		out, err := act()
		if err != nil {
			t.Fatal(err)
		}
		if n -= out.Changed; n == 0 {
			return
		}
		if n < 0 || time.Now().After(end) {
			t.Fatalf("%d messages too few; %+v", n, out)
		}
	}
}

func states(t *testing.T, r *running, f manage.QueueFilter) map[string]int {
	t.Helper()
	page, err := r.d.list(t.Context(), localapi.Peer{}, f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, m := range page.Messages {
		out[m.State]++
	}
	return out
}

func TestHoldReleaseAndBounce(t *testing.T) {
	w, r, ids := waitingLetters(t, 3)
	ctx, me := t.Context(), localapi.Peer{}
	eventually(t, 1, func() (manage.QueueActed, error) {
		return r.d.hold(ctx, me, manage.QueueAct{IDs: []string{strings.ToLower(ids[0])}, Reason: "odd"})
	})
	if got := states(t, r, manage.QueueFilter{Reason: "ODD"}); got[manage.QueueHeld] != 1 || len(got) != 1 {
		t.Fatalf("held for a reason: %v", got)
	}
	eventually(t, 2, func() (manage.QueueActed, error) {
		return r.d.hold(ctx, me, manage.QueueAct{Match: &manage.QueueFilter{Tenant: "gemeinde-a"}})
	})
	if got := states(t, r, manage.QueueFilter{Tenant: "gemeinde-b"}); len(got) != 0 {
		t.Fatalf("another tenant has mail: %v", got)
	}

	w.provider.SetDown(false)
	eventually(t, 1, func() (manage.QueueActed, error) { return r.d.release(ctx, me, manage.QueueAct{IDs: ids[:1]}) })
	if m := r.marks.await(t, "relayd.delivered", 1); m.Fields["id"] != ids[0] {
		t.Fatalf("%s was delivered, %s released", m.Fields["id"], ids[0])
	}
	eventually(t, 1, func() (manage.QueueActed, error) {
		return r.d.bounce(ctx, me, manage.QueueAct{IDs: ids[1:2], Reason: "recalled by the office"})
	})
	report := w.serverA.await(t, 1)
	if !strings.Contains(string(report.raw), "recalled by the office") {
		t.Errorf("the report does not say why:\n%s", report.raw)
	}
	d, err := r.d.show(ctx, me, manage.QueueID{ID: ids[1]})
	if err != nil || d.Message.State != "" || d.Events[len(d.Events)-1].Kind != "finished" {
		t.Errorf("what was bounced: %+v, %v", d, err)
	}
	w.mustDrain(r) // the report has arrived before that is recorded
	if got := states(t, r, manage.QueueFilter{}); got[manage.QueueHeld] != 1 || len(got) != 1 {
		t.Errorf("left: %v", got)
	}
}

func TestRetryNow(t *testing.T) {
	w := newWorld(t)
	w.schedule.Waits = []time.Duration{time.Hour}
	r := w.start()
	w.greeted(w.clientA).send("<"+mailA+">", letterA("x"), "250", "<temperror@buerger.de-mail.example>")
	id := r.marks.await(t, "relayd.accepted", 1).Fields["id"]
	awaitAttempts(t, r, id, 1)
	eventually(t, 1, func() (manage.QueueActed, error) {
		return r.d.retry(t.Context(), localapi.Peer{}, manage.QueueAct{Match: &manage.QueueFilter{State: manage.QueueWaiting, Reason: "451"}})
	})
	awaitAttempts(t, r, id, 2)
}

// awaitAttempts waits until a message's recipient was tried n times and waits again.
func awaitAttempts(t *testing.T, r *running, id string, n int) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		m, err := r.d.show(t.Context(), localapi.Peer{}, manage.QueueID{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		if rc := m.Message.Recipients[0]; rc.Attempts == n && rc.NextTry.After(time.Now()) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not tried %d times: %+v", n, m.Message.Recipients[0])
		}
	}
}

func TestActsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for name, c := range map[string]struct {
		act  manage.QueueAct
		want error
	}{
		"nothing":      {manage.QueueAct{}, errNothingChosen},
		"empty filter": {manage.QueueAct{Match: &manage.QueueFilter{}}, errNothingChosen},
		"only a limit": {manage.QueueAct{Match: &manage.QueueFilter{Limit: 1, After: "01JZZZZZZZZZZZZZZZZZZZZZZZ"}}, errNothingChosen},
		"too many":     {manage.QueueAct{IDs: make([]string, manage.MaxQueueIDs+1)}, localapi.ErrBadRequest},
	} {
		if _, err := r.d.hold(t.Context(), localapi.Peer{}, c.act); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	out, err := r.d.hold(t.Context(), localapi.Peer{}, manage.QueueAct{IDs: []string{"01JZZZZZZZZZZZZZZZZZZZZZZZ"}})
	if err != nil || out.Changed != 0 || len(out.Left) != 1 {
		t.Errorf("a message that never was: %+v, %v", out, err)
	}
}
