package relay

import (
	"testing"
	"time"
)

func TestPaceGrowsOnSuccessOnly(t *testing.T) {
	now := time.Now()
	p := newPace()
	for range 1000 {
		p.learn(served, now, false, "")
	}
	if p.places() != startPlaces {
		t.Errorf("grew to %d although the places were never full", p.places())
	}
	p.learn(served, now, true, "")
	if p.places() != startPlaces+1 {
		t.Errorf("%d places", p.places())
	}
	for range 10_000 {
		p.learn(served, now, true, "")
	}
	if p.places() != maxPlaces {
		t.Errorf("%d places, want the bound", p.places())
	}
	p.learn(busy, now, true, "")
	if p.places() != maxPlaces-1 {
		t.Errorf("%d places after 4xx", p.places())
	}
	p.learn(lost, now, true, "gone")
	if p.places() != (maxPlaces-1)/2 {
		t.Errorf("%d places after a lost connection", p.places())
	}
	for range 10 * maxPlaces {
		p.learn(busy, now, true, "")
		p.learn(hung, now, true, "")
	}
	if p.places() != 1 || !p.ready(now) {
		t.Errorf("%d places, ready %v: one is always left", p.places(), p.ready(now))
	}
}

func TestBreaker(t *testing.T) {
	now := time.Now()
	p := newPace()
	for range breakAfter - 1 {
		p.learn(lost, now, true, "refused")
	}
	p.learn(served, now, true, "") // the row ends
	for range breakAfter - 1 {
		p.learn(lost, now, true, "refused")
	}
	if p.open || !p.ready(now) {
		t.Fatal("open before its time")
	}
	p.learn(lost, now, true, "refused")
	if !p.open || p.ready(now) || p.reason != "refused" {
		t.Fatalf("not open: %+v", p)
	}
	p.learn(lost, now, true, "refused") // began before
	if p.pause != firstPause {
		t.Errorf("pause %v: grew without a probe", p.pause)
	}
	for _, want := range []time.Duration{firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause, 16 * firstPause, longestPause, longestPause} {
		if p.ready(now.Add(want - time.Millisecond)) {
			t.Fatalf("ready before %v", want)
		}
		now = now.Add(want)
		if !p.ready(now) || p.places() != 1 {
			t.Fatalf("not ready for its probe after %v", want)
		}
		p.begin()
		if p.ready(now.Add(time.Hour)) {
			t.Fatal("ready for a second probe")
		}
		p.learn(lost, now, true, "refused")
	}
	p.hasten(now)
	if !p.ready(now) {
		t.Error("not ready after a change")
	}
	p.begin()
	p.learn(noFeedback, now, false, "")
	if !p.ready(now) {
		t.Error("a probe that never went out counts")
	}
	p.begin()
	p.learn(busy, now, false, "")
	if p.open || p.failures != 0 || !p.ready(now) {
		t.Errorf("still open although the server answers: %+v", p)
	}
}

// A message that makes the server hang must not stop everybody's mail.
func TestHangingAfterTheEndDoesNotOpenTheBreaker(t *testing.T) {
	p := newPace()
	for range 10 * breakAfter {
		p.learn(hung, time.Now(), true, "")
	}
	if p.open || p.places() != 1 {
		t.Errorf("%+v", p)
	}
}
