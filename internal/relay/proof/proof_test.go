package proof

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

var start = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

// ev is an event, given as "kind[recipient][@proof's minute][+delivered's minute]".
func ev(minute int, text string) queue.Event {
	e := queue.Event{Time: start.Add(time.Duration(minute) * time.Minute), Recipient: 0, Data: map[string]string{}}
	if rest, at, ok := strings.Cut(text, "+"); ok {
		text, e.Data[DataDelivered] = rest, stamp(at)
	}
	if rest, at, ok := strings.Cut(text, "@"); ok {
		text, e.Data[DataTime] = rest, stamp(at)
	}
	switch {
	case strings.HasSuffix(text, "*"):
		e.Recipient = -1
	case strings.HasSuffix(text, "1"):
		e.Recipient = 1
	}
	e.Kind = queue.EventKind(strings.Trim(text, "*1"))
	return e
}

func stamp(minute string) string {
	var n int
	if _, err := fmt.Sscan(minute, &n); err != nil {
		panic(err)
	}
	return start.Add(time.Duration(n) * time.Minute).Format(time.RFC3339Nano)
}

func TestOf(t *testing.T) {
	for _, test := range []struct {
		name, events string // one each minute
		state        State
		since        int    // minute
		steps        string // state@minute
		odd          string
	}{
		{"nothing but its acceptance", "accepted*", Accepted, 0, "accepted@0", ""},
		{"tried in vain", "accepted* attempt deferred", Accepted, 0, "accepted@0", ""},
		{"another recipient's", "accepted* delivered1 dispatched1@3", Accepted, 0, "accepted@0", ""},
		{"handed over", "accepted* attempt delivered finished*", HandedOver, 2, "accepted@0 handed over@2", ""},
		{"the whole way", "accepted* delivered dispatched@2 received@3 retrieved@9", Retrieved, 9, "accepted@0 handed over@1 dispatched@2 received@3 retrieved@9", ""},
		{"received before dispatched", "accepted* delivered received@3 dispatched@2", Received, 3, "accepted@0 handed over@1 dispatched@2 received@3", ""},
		{"retrieved before all", "accepted* retrieved@9 received@3 dispatched@2 delivered", Retrieved, 9, "accepted@0 handed over@4 dispatched@2 received@3 retrieved@9", ""},
		{"dispatched for all", "accepted* delivered dispatched*@2", Dispatched, 2, "accepted@0 handed over@1 dispatched@2", ""},
		{"retrieved, which tells of the receipt", "accepted* delivered retrieved@9+4", Retrieved, 9, "accepted@0 handed over@1 received@4 retrieved@9", ""},
		{"and the receipt itself later", "accepted* delivered retrieved@9+4 received@3", Retrieved, 9, "accepted@0 handed over@1 received@3 retrieved@9", ""},
		{"a proof without a time", "accepted* delivered dispatched", Dispatched, 2, "accepted@0 handed over@1 dispatched@2", ""},
		{"the same proof twice", "accepted* delivered received@3 received@3", Received, 3, "accepted@0 handed over@1 received@3", ""},
		{"two proofs of one thing", "accepted* delivered received@3 received@5", Received, 3, "accepted@0 handed over@1 received@3", "two proofs of received differ in their time"},
		{"given up", "accepted* attempt failed", Failed, 2, "accepted@0 failed@2", ""},
		{"a dead letter", "accepted* attempt dead*", Failed, 2, "accepted@0 failed@2", ""},
		{"a dead letter because of others", "accepted* delivered dead*", HandedOver, 1, "accepted@0 handed over@1", ""},
		{"revived", "accepted* failed dead* revived*", Accepted, 0, "accepted@0", ""},
		{"revived and handed over", "accepted* failed dead* revived* delivered", HandedOver, 4, "accepted@0 handed over@4", ""},
		{"refused by a notification", "accepted* delivered refused@4", Failed, 4, "accepted@0 handed over@1 failed@4", ""},
		{"dispatched, then refused", "accepted* delivered dispatched@2 refused@4", Failed, 4, "accepted@0 handed over@1 dispatched@2 failed@4", ""},
		{"refused, then dispatched", "accepted* delivered refused@4 dispatched@2", Failed, 4, "accepted@0 handed over@1 dispatched@2 failed@4", ""},
		{"received, then refused", "accepted* delivered received@3 refused@4", Received, 3, "accepted@0 handed over@1 received@3 failed@4", "failed by a notification, and received"},
		{"refused, then retrieved", "accepted* delivered refused@4 retrieved@9", Retrieved, 9, "accepted@0 handed over@1 retrieved@9 failed@4", "failed by a notification, and retrieved"},
		{"given up, yet dispatched", "accepted* attempt failed dispatched@2", Dispatched, 2, "accepted@0 dispatched@2 failed@2", "given up here, and dispatched"},
		{"given up, yet received", "accepted* attempt failed received@3", Received, 3, "accepted@0 received@3 failed@2", "given up here, and received"},
		{"held and released", "accepted* held* released* delivered", HandedOver, 3, "accepted@0 handed over@3", ""},
		{"without a trace", "", Accepted, -1, "", ""},
	} {
		var events []queue.Event
		for i, text := range strings.Fields(test.events) {
			events = append(events, ev(i, text))
		}
		e := &queue.Envelope{Recipients: []queue.Recipient{{Address: "a@b.example"}, {Address: "c@d.example"}}}
		got := Of(e, events)[0]
		steps := []string{}
		for _, s := range got.Steps {
			steps = append(steps, fmt.Sprintf("%s@%.0f", s.State, s.Time.Sub(start).Minutes()))
		}
		since := start.Add(time.Duration(test.since) * time.Minute)
		if test.since < 0 {
			since = time.Time{}
		}
		if got.Address != "a@b.example" || got.State != test.state || !got.Since.Equal(since) || strings.Join(steps, " ") != test.steps ||
			strings.Join(got.Contradictions, "; ") != test.odd {
			t.Errorf("%s: %s since %v, steps %q, odd %q", test.name, got.State, got.Since, steps, got.Contradictions)
		}
	}
}

// Proofs mean the same in whatever order they come.
func TestOrderOfProofsDoesNotCount(t *testing.T) {
	e := &queue.Envelope{Recipients: []queue.Recipient{{Address: "a@b.example"}}}
	proofs := []string{"dispatched@2", "received@3", "retrieved@9+3", "refused@5"}
	want := ""
	var permute func(rest, chosen []string)
	permute = func(rest, chosen []string) {
		if len(rest) == 0 {
			events := []queue.Event{ev(0, "accepted*"), ev(1, "delivered")}
			for i, text := range chosen {
				events = append(events, ev(10+i, text))
			}
			r := Of(e, events)[0]
			for i := range r.Steps {
				r.Steps[i].Noted = time.Time{}
			}
			if got := fmt.Sprintf("%+v", r); want == "" {
				want = got
			} else if got != want {
				t.Errorf("%v:\n%s\nwant\n%s", chosen, got, want)
			}
			return
		}
		for i := range rest {
			permute(append(slices.Clone(rest[:i]), rest[i+1:]...), append(slices.Clone(chosen), rest[i]))
		}
	}
	permute(proofs, nil)
}
