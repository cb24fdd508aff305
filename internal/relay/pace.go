package relay

import "time"

// Bounds of how hard one destination is pressed.
const (
	// startPlaces is how many attempts run at once at a destination that nothing is
	// known of, maxPlaces how many at one that takes everything.
	startPlaces = 4
	maxPlaces   = 32
	// sparePlaces may be used beyond the limit, each by a tenant that has no attempt
	// there at all: so another tenant's mail that hangs never keeps it waiting.
	sparePlaces = 4
	// breakAfter failed connections in a row a destination counts as down. Then one
	// message at a time tries it, after a pause that doubles from firstPause to
	// longestPause.
	breakAfter   = 5
	firstPause   = 5 * time.Second
	longestPause = 2 * time.Minute
)

// feedback is what an attempt says about its destination.
type feedback int

const (
	noFeedback feedback = iota // it did not come to that
	served                     // the server gave verdicts
	busy                       // the server put the whole message off (4xx)
	hung                       // the connection was lost after the message's end
	lost                       // no connection, or it was lost before
)

// pace is how many attempts a destination gets at once, and the breaker that
// stops them while it cannot be reached. It grows by one for each limit of
// successes that needed all places, falls by one for an answer that puts off, and
// by half for a lost connection.
//
// A connection lost after the message's end does not count for the breaker: it
// may be this message that the server cannot digest.
type pace struct {
	limit    int
	credit   int       // successes since the limit last changed
	failures int       // lost connections in a row
	since    time.Time // of the first of these
	reason   string    // of the last
	last     time.Time // when the last one was lost

	open    bool
	pause   time.Duration
	retry   time.Time // when the next probe may go, while open
	probing bool
}

func newPace() pace { return pace{limit: startPlaces} }

// ready reports whether an attempt may begin now, if there is a place. While the
// breaker is open, that is the probe.
func (p *pace) ready(now time.Time) bool {
	return !p.open || !p.probing && !now.Before(p.retry)
}

// places is how many attempts may run at once.
func (p *pace) places() int {
	if p.open {
		return 1
	}
	return p.limit
}

// begin notes that an attempt begins.
func (p *pace) begin() { p.probing = p.open }

// learn takes the feedback of an attempt that ended. full says that more would
// have run if there had been places.
func (p *pace) learn(f feedback, now time.Time, full bool, reason string) {
	switch f {
	case served:
		p.close()
		if p.credit++; !full || p.limit >= maxPlaces {
			p.credit = min(p.credit, p.limit)
		} else if p.credit >= p.limit {
			p.set(p.limit + 1)
		}
	case busy:
		p.close()
		p.set(p.limit - 1)
	case hung:
		p.set(p.limit / 2)
		if p.open {
			p.close()
		}
	case lost:
		p.fail(now, reason)
	case noFeedback:
		p.probing = false
	}
}

func (p *pace) set(limit int) { p.limit, p.credit = max(1, min(limit, maxPlaces)), 0 }

func (p *pace) fail(now time.Time, reason string) {
	p.set(p.limit / 2)
	if p.failures++; p.failures == 1 {
		p.since = now
	}
	p.reason, p.last = reason, now
	switch {
	case p.open && p.probing:
		p.pause = min(2*p.pause, longestPause)
	case !p.open && p.failures >= breakAfter:
		p.open, p.pause = true, firstPause
	default:
		return // begun before the breaker opened
	}
	p.probing = false
	p.retry = now.Add(p.pause)
}

// close ends a row of failures: the server answers.
func (p *pace) close() {
	if p.open {
		p.set(min(p.limit, startPlaces))
	}
	p.open, p.probing, p.failures, p.pause, p.reason = false, false, 0, 0, ""
}

// hasten lets the next probe go at once: something has changed.
func (p *pace) hasten(now time.Time) {
	if p.open {
		p.retry, p.pause = now, firstPause
	}
}
