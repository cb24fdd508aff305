package relay

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// Bounds of delivery. See pace.go for those of one destination.
const (
	// maxAttempts is how many deliveries run at once in all.
	maxAttempts = 256
	// maxHeld is how many messages may be held in memory before they are begun.
	maxHeld = 1024
	// maxRecording is how many ended attempts may wait for the disk.
	maxRecording = 256
	// batch is how many messages are taken from the queue at once, and begun in one
	// batch.
	batch = 64
	// attemptLimit bounds one delivery; 64 MiB at 64 KiB/s take 17 minutes.
	attemptLimit = time.Hour
	// stopGrace is how long attempts may go on when the relay stops: what is left of
	// the 10 s that it may take in all is for recording what became of them.
	stopGrace = 8 * time.Second
	// pollInterval is how often the queue is asked, and its health looked at, when it
	// said it had nothing.
	pollInterval = 2 * time.Second
	// sickLimit is how long the queue may be sick: some faults of the disk pass.
	sickLimit = 5 * time.Second
	// retryQueue is the pause after the queue could not be read.
	retryQueue = time.Second
)

// Deliver delivers until ctx ends or the queue is sick for good, then waits for
// the attempts under way, for stopGrace at most before they are cut.
func (r *Relay) Deliver(ctx context.Context) error {
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	d := r.dispatcher
	d.ctx = work
	var watch sync.WaitGroup
	watching, unwatch := context.WithCancel(ctx)
	watch.Go(func() { r.watch(watching) })
	err := d.loop(ctx)
	unwatch()
	d.stop(cut)
	watch.Wait()
	r.routes.close()
	return err
}

// dispatcher hands due messages to attempts. One goroutine works on it; others
// only look.
//
// A message goes: taken from the queue (held) → chosen in turn, begun together
// with others in one synced batch → sent, when a place at its destination is free
// → recorded. Only sending needs a place, so no connection waits for the disk.
type dispatcher struct {
	r      *Relay
	ctx    context.Context // of attempts
	events chan event      // never blocks: it has room for everything under way

	snapshot *tenants.Snapshot // when destinations that are down were last hastened

	// mu is held while the dispatcher changes what is below. The queue asks skip under
	// its own lock: nothing but this goroutine may ask the queue with mu held.
	mu        sync.Mutex
	dests     map[string]*destination
	held      int
	sending   int
	recording int
	chosen    []job // wait for the Begin under way to end
	beginning int
}

// event is something that came to its end.
type event struct {
	kind     eventKind
	job      job
	jobs     []job // begun
	feedback feedback
	reason   string
}

type eventKind int

const (
	evBegun eventKind = iota
	evSent
	evRecorded
	evRefused // job could not be begun
)

func newDispatcher(r *Relay) *dispatcher {
	return &dispatcher{r: r, ctx: context.Background(), dests: map[string]*destination{}, events: make(chan event, 4*maxAttempts+maxHeld)}
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
			d.wait(ctx, retryQueue, nil)
		}
	}
	return ctx.Err()
}

// round takes what is due, starts what has a place, and waits for something to
// happen.
func (d *dispatcher) round(ctx context.Context) error {
	d.hasten()
	for {
		n, err := d.fill()
		if err != nil {
			return err
		}
		d.start()
		if n == 0 {
			break
		}
	}
	d.wait(ctx, d.patience(), d.r.o.Queue.Wake())
	return nil
}

// fill takes messages from the queue for the lanes that have room.
func (d *dispatcher) fill() (int, error) {
	d.mu.Lock()
	room := min(batch, maxHeld-d.held, maxRecording-d.recording)
	d.mu.Unlock()
	if room <= 0 {
		return 0, nil
	}
	at := time.Now()
	list, err := d.r.o.Queue.Due(at, room, d.skips()...)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range list {
		if e.BounceReason != "" {
			d.decide(e, at)
			continue
		}
		dest := d.dest(destinationOf(e.Tenant, e.Hop))
		dest.add(job{e, at, dest})
		d.held++
	}
	return len(list), nil
}

// skips is what to give to queue.Due: nothing, if no lane is to be skipped; the
// queue then knows when it has nothing left.
func (d *dispatcher) skips() []queue.Skip {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := time.Now()
	for _, dest := range d.dests {
		if !dest.ready(at) {
			return []queue.Skip{d.skip}
		}
		for _, l := range dest.lanes {
			if l.full {
				return []queue.Skip{d.skip}
			}
		}
	}
	return nil
}

// skip is for queue.Due: lanes that have enough here, or whose destination is
// down.
func (d *dispatcher) skip(tenant, hop string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	dest := d.dests[destinationOf(tenant, hop)]
	return dest != nil && (!dest.ready(time.Now()) || !dest.hungry(tenant))
}

// down reports whether a lane's destination cannot be reached now.
func (d *dispatcher) down(tenant, hop string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	dest := d.dests[destinationOf(tenant, hop)]
	return dest != nil && dest.open
}

// reason says why a lane's destination cannot be reached.
func (d *dispatcher) reason(tenant, hop string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dest := d.dests[destinationOf(tenant, hop)]; dest != nil && dest.reason != "" {
		return dest.reason
	}
	return "next hop cannot be reached"
}

// decide lets a message go back that the operator does not want tried.
func (d *dispatcher) decide(e *queue.Envelope, at time.Time) {
	d.recording++
	go func() {
		defer func() { d.events <- event{kind: evRecorded} }()
		d.r.decide(e, at)
	}()
}

func (d *dispatcher) dest(name string) *destination {
	dest := d.dests[name]
	if dest == nil {
		dest = newDestination(name)
		d.dests[name] = dest
	}
	return dest
}

// start begins what has its turn, and sends what is begun and has a place.
func (d *dispatcher) start() {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := time.Now()
	for name, dest := range d.dests {
		for d.sending < maxAttempts && d.recording < maxRecording {
			j, ok := dest.next()
			if !ok {
				break
			}
			d.sending++
			go d.send(j)
		}
		for len(d.chosen) < maxAttempts {
			j, ok := dest.choose(at)
			if !ok {
				break
			}
			d.held--
			d.chosen = append(d.chosen, j)
		}
		if dest.forgettable(at) {
			delete(d.dests, name)
		}
	}
	if d.beginning == 0 && len(d.chosen) > 0 {
		n := min(len(d.chosen), batch)
		jobs := d.chosen[:n:n]
		d.chosen, d.beginning = d.chosen[n:], n
		go d.begin(jobs)
	}
}

// begin records the attempts at several messages in one batch. If that fails, it
// tries them one by one: one message must not stop the others.
func (d *dispatcher) begin(jobs []job) {
	ids := make([]queue.ID, len(jobs))
	for i, j := range jobs {
		ids[i] = j.ID
	}
	err := d.r.o.Queue.Begin(ids...)
	if err == nil {
		d.events <- event{kind: evBegun, jobs: jobs}
		return
	}
	var good []job
	for _, j := range jobs {
		if err := d.r.o.Queue.Begin(j.ID); err != nil {
			d.r.o.Log.Warn("attempt not begun", "id", j.ID, "error", err)
			d.r.o.Queue.Release(j.ID)
			d.events <- event{kind: evRefused, job: j}
			continue
		}
		good = append(good, j)
	}
	d.events <- event{kind: evBegun, jobs: good}
}

// send runs an attempt: its place is free again before the outcome is recorded.
func (d *dispatcher) send(j job) {
	placed := true
	defer func() {
		if p := recover(); p != nil {
			d.r.o.Log.Error("panic in a delivery", "id", j.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if placed {
				d.events <- event{kind: evSent, job: j}
			}
		}
		d.events <- event{kind: evRecorded, job: j}
	}()
	ctx, cancel := context.WithTimeout(d.ctx, attemptLimit)
	defer cancel()
	d.r.attempt(ctx, j.Envelope, j.DueAt(j.at), func(f feedback, reason string) {
		placed = false
		d.events <- event{kind: evSent, job: j, feedback: f, reason: reason}
	})
}

// wait waits for events, at most as long as limit, and takes all that are there.
func (d *dispatcher) wait(ctx context.Context, limit time.Duration, wake <-chan struct{}) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-wake:
	case e := <-d.events:
		d.take(e)
	}
	for {
		select {
		case e := <-d.events:
			d.take(e)
		default:
			return
		}
	}
}

// patience is how long nothing can become due, if no event comes.
func (d *dispatcher) patience() time.Duration {
	wait := pollInterval
	if at, ok := d.r.o.Queue.NextDue(d.skips()...); ok && !d.laden() {
		wait = max(0, min(wait, time.Until(at)))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, dest := range d.dests {
		if dest.open && !dest.probing {
			wait = max(0, min(wait, time.Until(dest.retry)))
		}
	}
	return wait
}

// laden reports whether no more messages can be taken: an event will come.
func (d *dispatcher) laden() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held >= maxHeld || d.recording >= maxRecording
}

// take draws the conclusions from an event.
func (d *dispatcher) take(e event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e.kind {
	case evBegun:
		d.beginning = 0
		for _, j := range e.jobs {
			j.dest.ahead--
			j.dest.begun = append(j.dest.begun, j)
		}
		for _, j := range e.jobs {
			d.putBackIfDown(j.dest)
		}
	case evRefused:
		j := e.job
		j.dest.ahead--
		j.dest.ended(j.dest.lanes[j.Tenant])
		j.dest.learn(noFeedback, time.Now(), false, "")
	case evSent:
		d.sending--
		d.recording++
		d.learn(e)
	case evRecorded:
		d.recording--
	}
}

// learn gives a place back and tells the destination how it went.
func (d *dispatcher) learn(e event) {
	dest, was := e.job.dest, e.job.dest.open
	dest.sent(e.job)
	dest.learn(e.feedback, time.Now(), len(dest.begun) > 0 || dest.waiting > 0, e.reason)
	switch {
	case dest.open && !was:
		d.r.o.Log.Warn("destination is down", "destination", dest.name, "reason", dest.reason, "next", dest.retry)
		ids := dest.empty()
		d.held -= len(ids)
		d.r.o.Queue.Release(ids...)
	case was && !dest.open:
		d.r.o.Log.Info("destination answers again", "destination", dest.name)
	}
	d.putBackIfDown(dest)
}

// putBackIfDown takes back what was begun ahead at a destination that turned out
// to be down, except for the probe.
func (d *dispatcher) putBackIfDown(dest *destination) {
	if !dest.open || dest.probing {
		return
	}
	for _, j := range dest.begun {
		dest.ended(dest.lanes[j.Tenant])
		d.putBack(j, "next hop cannot be reached: "+dest.reason)
	}
	dest.begun = nil
}

// putBack ends an attempt that was begun and never made. The message is due as
// before.
func (d *dispatcher) putBack(j job, why string) {
	d.recording++
	go func() {
		defer func() { d.events <- event{kind: evRecorded, job: j} }()
		d.r.notMade(j.Envelope, j.DueAt(j.at), why)
	}()
}

// hasten lets destinations that are down be tried at once after a change of the
// configuration.
func (d *dispatcher) hasten() {
	if s := d.r.o.Tenants.Snapshot(); d.snapshot != s {
		d.snapshot = s
		d.r.Hasten()
	}
}

// stop gives back what was not sent yet and lets attempts end.
func (d *dispatcher) stop(cut context.CancelFunc) {
	timer := time.AfterFunc(stopGrace, cut)
	defer timer.Stop()
	d.mu.Lock()
	for _, dest := range d.dests {
		d.r.o.Queue.Release(dest.empty()...)
	}
	for _, j := range d.chosen {
		d.r.o.Queue.Release(j.ID)
	}
	d.chosen = nil
	d.mu.Unlock()
	for d.underWay() {
		d.take(<-d.events)
	}
}

// underWay puts back what is begun and reports whether something is to be waited
// for.
func (d *dispatcher) underWay() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, dest := range d.dests {
		for _, j := range dest.begun {
			d.putBack(j, "the gateway was stopped before the attempt")
		}
		dest.begun = nil
	}
	return d.sending+d.recording+d.beginning > 0
}
