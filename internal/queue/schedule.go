package queue

import "time"

// Schedule says when a message is tried again. The zero value is the default
// one. It is pure: the same message always gets the same times.
type Schedule struct {
	// Waits are the pauses after the first, second, ... attempt; the last one
	// repeats. Empty means the default: 1, 2, 5, 10, 20, 30 minutes, 1 hour.
	Waits []time.Duration
	// GiveUp is how long after its receipt a message is tried at all. 0 means
	// DefaultGiveUp (design: 48 h; RFC 5321 4.5.4.1 asks for days on the open Internet,
	// TR-01201's provider limit is shorter).
	GiveUp time.Duration
}

// DefaultGiveUp bounds the life of a message that cannot be delivered.
const DefaultGiveUp = 48 * time.Hour

// Next is the time of the attempt after the given number of attempts, and
// whether there is one: false means give up now. It never lies before now, and
// the last attempt falls exactly on the give-up time, so that every message gets
// its full span.
func (s Schedule) Next(received, now time.Time, attempts int) (time.Time, bool) {
	giveUp := s.GiveUp
	if giveUp <= 0 {
		giveUp = DefaultGiveUp
	}
	end := received.Add(giveUp)
	if !now.Before(end) {
		return time.Time{}, false
	}
	next := now.Add(s.wait(attempts))
	if next.After(end) {
		next = end
	}
	return next, true
}

func (s Schedule) wait(attempts int) time.Duration {
	waits := s.Waits
	if len(waits) == 0 {
		waits = []time.Duration{
			time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
			20 * time.Minute, 30 * time.Minute, time.Hour,
		}
	}
	i := min(max(attempts-1, 0), len(waits)-1)
	return max(waits[i], 0)
}
