package relay

import (
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// quantum is how many bytes a tenant may hand over at a destination before the
// next one's turn.
const quantum = 256 << 10

// job is a message that was handed out, for the recipients due at that time.
type job struct {
	*queue.Envelope
	at   time.Time
	dest *destination
}

// destination is one next hop as the dispatcher sees it: the provider for all
// tenants, or one tenant's servers. Messages wait in it by tenant, are begun (the
// attempt is recorded) up to one per place ahead, and are sent.
type destination struct {
	name string
	pace
	lanes   map[string]*lane // by tenant
	ring    []*lane          // those with waiting messages, in turn
	ahead   int              // chosen, and being begun
	begun   []job            // begun, waiting for a place
	sending int
	waiting int
}

// lane is a tenant's share of a destination.
type lane struct {
	tenant  string
	waiting []job // by class, then as they came
	bytes   int64 // that it may still hand over in this turn
	active  int   // chosen, begun or being sent
	sending int   // of these: being sent
	full    bool  // takes no more until half of it is gone
}

func newDestination(name string) *destination {
	return &destination{name: name, pace: newPace(), lanes: map[string]*lane{}}
}

// destinationOf names a lane's destination.
func destinationOf(tenant, hop string) string {
	if hop == hopProvider {
		return hopProvider
	}
	return hop + " " + tenant
}

// add keeps a message until it has its place.
func (d *destination) add(j job) {
	l := d.lanes[j.Tenant]
	if l == nil {
		l = &lane{tenant: j.Tenant}
		d.lanes[j.Tenant] = l
	}
	if len(l.waiting) == 0 {
		d.ring = append(d.ring, l)
	}
	at := len(l.waiting)
	for at > 0 && l.waiting[at-1].Class > j.Class {
		at--
	}
	l.waiting = slices.Insert(l.waiting, at, j)
	d.waiting++
	l.full = l.full || len(l.waiting) >= d.most()
}

// most is how many messages of one tenant are kept here at once.
func (d *destination) most() int { return 2 * d.places() }

// hungry reports whether a tenant's lane takes more messages.
func (d *destination) hungry(tenant string) bool {
	l := d.lanes[tenant]
	return l == nil || !l.full
}

// room is how many more messages may be begun: one ahead for each place, so that
// a connection does not wait for the disk; none ahead of a probe.
func (d *destination) room() int {
	ahead := d.places()
	if d.failures > 0 || d.open {
		ahead = 0
	}
	return d.places() + ahead - d.sending - len(d.begun) - d.ahead
}

// choose takes the next message to be begun: the tenants in turn, by bytes. When
// there is no room, a tenant that has nothing under way here still gets one of the
// spare places.
func (d *destination) choose(now time.Time) (job, bool) {
	room := d.room()
	switch {
	case d.waiting == 0 || !d.ready(now):
	case room > 0:
		return d.pop(d.turn()), true
	case room > -sparePlaces && !d.open:
		if i := slices.IndexFunc(d.ring, func(l *lane) bool { return l.active == 0 }); i >= 0 {
			return d.pop(d.ring[i]), true
		}
	}
	return job{}, false
}

// turn finds the lane whose turn it is (deficit round robin).
func (d *destination) turn() *lane {
	for {
		l := d.ring[0]
		if len(d.ring) == 1 || l.bytes >= l.waiting[0].Size {
			return l
		}
		l.bytes += quantum
		d.ring = append(d.ring[1:], l)
	}
}

// pop takes a lane's first message.
func (d *destination) pop(l *lane) job {
	j := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	l.bytes = max(0, l.bytes-j.Size)
	if len(l.waiting) == 0 {
		l.bytes = 0
		d.ring = slices.DeleteFunc(d.ring, func(o *lane) bool { return o == l })
	}
	l.full = l.full && len(l.waiting) > d.most()/2
	l.active++
	d.waiting--
	d.ahead++
	d.begin()
	return j
}

// next takes a begun message for a free place, or for a spare one.
func (d *destination) next() (job, bool) {
	i := 0
	if d.sending >= d.places() {
		i = slices.IndexFunc(d.begun, func(j job) bool { return d.lanes[j.Tenant].sending == 0 })
		if i >= 0 && d.sending >= d.places()+sparePlaces {
			i = -1
		}
	}
	if i < 0 || i >= len(d.begun) {
		return job{}, false
	}
	j := d.begun[i]
	d.begun = slices.Delete(d.begun, i, i+1)
	d.sending++
	d.lanes[j.Tenant].sending++
	return j, true
}

// sent gives a place back.
func (d *destination) sent(j job) {
	l := d.lanes[j.Tenant]
	d.sending--
	l.sending--
	d.ended(l)
}

// ended is for a message that was chosen and is not under way any more.
func (d *destination) ended(l *lane) {
	if l.active--; l.active == 0 && len(l.waiting) == 0 {
		delete(d.lanes, l.tenant)
	}
}

// empty takes everything that waits and was not begun.
func (d *destination) empty() (ids []queue.ID) {
	for name, l := range d.lanes {
		for _, j := range l.waiting {
			ids = append(ids, j.ID)
		}
		l.waiting, l.bytes, l.full = nil, 0, false
		if l.active == 0 {
			delete(d.lanes, name)
		}
	}
	d.ring, d.waiting = nil, 0
	return ids
}

// forgettable reports whether nothing is known here that a new destination would
// not know.
func (d *destination) forgettable(now time.Time) bool {
	return len(d.lanes) == 0 && d.sending == 0 && (d.failures == 0 && d.limit <= startPlaces || now.Sub(d.last) > forgetAfter)
}

// forgetAfter is how long a destination that nobody writes to is remembered as
// down: longer than any pause between two attempts of a message.
const forgetAfter = 3 * time.Hour
