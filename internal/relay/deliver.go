package relay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// Bounds of delivery.
const (
	// maxAttempts is how many deliveries run at once in all, and maxPerLane how
	// many of them to one destination: TR-01201 says nothing, and a tenant's server
	// has few places.
	maxAttempts = 64
	maxPerLane  = 8
	// maxWaiting is how many messages of one destination may be held in memory
	// while its places are taken.
	maxWaiting = 2 * maxPerLane
	// batch is how many messages are taken from the queue at once.
	batch = 32
	// attemptLimit bounds one delivery; 64 MiB at 64 KiB/s take 17 minutes.
	attemptLimit = time.Hour
	// stopGrace is how long attempts may go on when the relay stops.
	stopGrace = 10 * time.Second
	// pollInterval is how often the queue is asked, and its health looked at, when it
	// said it had nothing.
	pollInterval = 2 * time.Second
	// sickLimit is how long the queue may be sick: some faults of the disk pass.
	sickLimit = 5 * time.Second
	// busyInterval is how often it is asked while all that was due had no place.
	busyInterval = 250 * time.Millisecond
	// retryQueue is the pause after the queue could not be read.
	retryQueue = time.Second
)

// Deliver delivers until ctx ends or the queue is sick for good, then waits for
// the attempts under way, for stopGrace at most before they are cut.
func (r *Relay) Deliver(ctx context.Context) error {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	d := &dispatcher{r: r, ctx: work, lanes: map[string]*lane{}, done: make(chan job, maxAttempts)}
	err := d.loop(ctx)
	d.stop(cut)
	r.routes.close()
	return err
}

// loop runs rounds until ctx ends or the queue has been sick for too long.
func (d *dispatcher) loop(ctx context.Context) error {
	var since time.Time
	for ctx.Err() == nil {
		if sick := d.r.o.Queue.Sick(); sick == nil {
			since = time.Time{}
		} else if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > sickLimit {
			return fmt.Errorf("deliver: %w", sick)
		}
		err := d.round(ctx)
		switch {
		case errors.Is(err, queue.ErrClosed):
			return fmt.Errorf("deliver: %w", err)
		case err != nil:
			d.r.o.Log.Error("queue cannot be read", "error", err)
			d.wait(ctx, retryQueue)
		}
	}
	return ctx.Err()
}

// dispatcher hands due messages to attempts. It runs on one goroutine.
type dispatcher struct {
	r       *Relay
	ctx     context.Context // of attempts
	lanes   map[string]*lane
	running int
	held    int // in lanes, waiting for a place
	done    chan job
}

// job is a message that was handed out, for the recipients due at that time.
type job struct {
	*queue.Envelope
	at time.Time
}

// lane is one destination: a tenant's way out or in.
type lane struct {
	running int
	waiting []job
}

func laneOf(e job) string { return e.Tenant + " " + e.Hop }

// round takes what is due, starts what has a place, and waits for something to
// happen.
func (d *dispatcher) round(ctx context.Context) error {
	if room := maxAttempts + batch - d.running - d.held; room > 0 {
		at := time.Now()
		list, err := d.r.o.Queue.Due(at, min(batch, room))
		if err != nil {
			return err
		}
		kept := 0
		for _, e := range list {
			if d.assign(job{e, at}) {
				kept++
			}
		}
		if kept > 0 {
			return nil // there may be more
		}
		if len(list) > 0 {
			// What is due has no place. Giving it back wakes the queue, so a wake says
			// nothing now; others are looked for at a steady pace.
			d.wait(ctx, busyInterval)
			return nil
		}
		d.idle(ctx)
		return nil
	}
	d.wait(ctx, pollInterval)
	return nil
}

// assign starts an attempt, or keeps the message for the next free place, or
// gives it back.
func (d *dispatcher) assign(e job) bool {
	l := d.lanes[laneOf(e)]
	if l == nil {
		l = &lane{}
		d.lanes[laneOf(e)] = l
	}
	switch {
	case l.running < maxPerLane && d.running < maxAttempts:
		d.start(l, e)
	case len(l.waiting) < maxWaiting:
		l.waiting = append(l.waiting, e)
		d.held++
	default:
		d.r.o.Queue.Release(e.ID)
		return false
	}
	return true
}

func (d *dispatcher) start(l *lane, e job) {
	l.running++
	d.running++
	go func() {
		defer func() {
			if p := recover(); p != nil {
				d.r.o.Log.Error("panic in a delivery", "id", e.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			}
			d.done <- e
		}()
		ctx, cancel := context.WithTimeout(d.ctx, attemptLimit)
		defer cancel()
		d.r.attempt(ctx, e.Envelope, e.DueAt(e.at))
	}()
}

// finished frees the place of an attempt and fills it again, first for the
// destination that has fewest.
func (d *dispatcher) finished(e job) {
	d.lanes[laneOf(e)].running--
	d.running--
	var next *lane
	for name, l := range d.lanes {
		switch {
		case l.running == 0 && len(l.waiting) == 0:
			delete(d.lanes, name)
		case len(l.waiting) > 0 && l.running < maxPerLane && (next == nil || l.running < next.running):
			next = l
		}
	}
	if next != nil {
		e, next.waiting = next.waiting[0], next.waiting[1:]
		d.held--
		d.start(next, e)
	}
}

// idle waits until the queue may have something.
func (d *dispatcher) idle(ctx context.Context) {
	wait := pollInterval
	if at, ok := d.r.o.Queue.NextDue(); ok {
		wait = max(0, min(wait, time.Until(at)))
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-d.r.o.Queue.Wake():
	case e := <-d.done:
		d.finished(e)
	}
}

// wait waits for a free place.
func (d *dispatcher) wait(ctx context.Context, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case e := <-d.done:
		d.finished(e)
	}
}

// stop gives back what waits and lets attempts end.
func (d *dispatcher) stop(cut context.CancelFunc) {
	for _, l := range d.lanes {
		for _, e := range l.waiting {
			d.r.o.Queue.Release(e.ID)
		}
		l.waiting = nil
	}
	timer := time.AfterFunc(stopGrace, cut)
	defer timer.Stop()
	for d.running > 0 {
		d.finished(<-d.done)
	}
}
