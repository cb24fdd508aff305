package relay

import (
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

func held(d *destination, tenant string, class queue.Class, size int64, n int) {
	for range n {
		d.add(job{&queue.Envelope{ID: "x", Tenant: tenant, Class: class, Size: size}, time.Now(), d})
	}
}

// finish lets everything that was chosen end well.
func finish(d *destination, j job) {
	d.ahead--
	d.begun = append(d.begun, j)
	for {
		j, ok := d.next()
		if !ok {
			return
		}
		d.sent(j)
	}
}

// Tenants share a destination by bytes, whatever the sizes of their messages.
func TestTenantsShareByBytes(t *testing.T) {
	d := newDestination("provider")
	held(d, "large", queue.Normal, 1<<20, 100)
	held(d, "small", queue.Normal, 10<<10, 10_000)
	bytes := map[string]int64{}
	for range 2000 {
		j, ok := d.choose(time.Now())
		if !ok {
			t.Fatal("nothing to choose")
		}
		bytes[j.Tenant] += j.Size
		finish(d, j)
	}
	if ratio := float64(bytes["large"]) / float64(bytes["small"]); ratio < 0.8 || ratio > 1.25 {
		t.Errorf("%v: want about the same", bytes)
	}
}

func TestClassesWithinATenant(t *testing.T) {
	d := newDestination("provider")
	held(d, "a", queue.Bulk, 1, 1)
	held(d, "a", queue.Normal, 2, 2)
	held(d, "a", queue.Urgent, 3, 1)
	held(d, "a", queue.Normal, 4, 1)
	for _, want := range []int64{3, 2, 2, 4, 1} {
		j, ok := d.choose(time.Now())
		if !ok || j.Size != want {
			t.Fatalf("%v of size %d, want %d", ok, j.Size, want)
		}
		finish(d, j)
	}
}

// One message is begun ahead for each place, none while there are failures; a lane
// takes no more than it can use soon.
func TestRoomOfADestination(t *testing.T) {
	d := newDestination("provider")
	held(d, "a", queue.Normal, 1, d.most())
	if d.hungry("a") || !d.hungry("b") {
		t.Error("a lane that is full takes more, or another does not")
	}
	chosen := 0
	for {
		if _, ok := d.choose(time.Now()); !ok {
			break
		}
		chosen++
	}
	if chosen != 2*startPlaces {
		t.Errorf("%d begun, want %d", chosen, 2*startPlaces)
	}
	if !d.hungry("a") {
		t.Error("an empty lane takes no more")
	}
	held(d, "a", queue.Normal, 1, 1)
	held(d, "b", queue.Normal, 1, 2)
	if j, ok := d.choose(time.Now()); !ok || j.Tenant != "b" {
		t.Error("a tenant without anything under way gets no place")
	}
	if j, ok := d.choose(time.Now()); ok {
		t.Errorf("%s gets a second one", j.Tenant)
	}
	failing := newDestination("provider")
	failing.learn(lost, time.Now(), false, "x")
	held(failing, "a", queue.Normal, 1, 3)
	for chosen = 0; ; chosen++ {
		if _, ok := failing.choose(time.Now()); !ok {
			break
		}
	}
	if chosen != failing.places() {
		t.Errorf("%d begun at a destination that fails, want %d", chosen, failing.places())
	}
}

func TestForgettingADestination(t *testing.T) {
	d := newDestination("provider")
	if !d.forgettable(time.Now()) {
		t.Error("a new one is kept")
	}
	for range breakAfter {
		d.learn(lost, time.Now(), false, "x")
	}
	if d.forgettable(time.Now()) || !d.forgettable(time.Now().Add(forgetAfter+time.Second)) {
		t.Error("what is down must be remembered, but not for ever")
	}
}
