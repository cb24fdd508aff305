package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/dsn"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// Bounds of the watch over mail that waits.
const (
	// overdueEvery is how often waiting mail is looked through; the pause is longer
	// when looking takes long, so that it stays a small part of the work.
	overdueEvery = 30 * time.Second
	overdueShare = 20
	// overduePage is how many messages are looked at in one go, and overdueAtOnce how
	// many of them are worked on.
	overduePage   = 500
	overdueAtOnce = 8
)

// watch tells senders of delays and lets mail expire that no attempt is made for.
// What attempts are made for learns it there, too (judge).
func (r *Relay) watch(ctx context.Context) {
	timer := time.NewTimer(overdueEvery)
	defer timer.Stop()
	for {
		var err error
		begun := time.Now()
		select {
		case <-ctx.Done():
			return
		case <-r.bounced.rang:
			err = r.attend(ctx, begun, r.bounced.take()...)
		case <-timer.C:
			err = r.overdue(ctx, begun)
			timer.Reset(max(overdueEvery, overdueShare*time.Since(begun)))
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			r.o.Log.Error("waiting mail cannot be looked through", "error", err)
		}
	}
}

// Bounced tells delivery of messages that the operator has given back
// (queue.Bounce): they go at once, also while their next hop is down. What it is
// not told of goes when it is due.
func (r *Relay) Bounced(ids ...queue.ID) { r.bounced.add(ids) }

// Hasten lets next hops that are down be tried at once: the operator has asked for
// it, or something has changed.
func (r *Relay) Hasten() {
	d := r.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, dest := range d.dests {
		dest.hasten(time.Now())
	}
}

// inbox holds IDs until the watch looks.
type inbox struct {
	rang chan struct{}
	mu   sync.Mutex
	ids  []queue.ID
}

func (b *inbox) add(ids []queue.ID) {
	b.mu.Lock()
	b.ids = append(b.ids, ids...)
	b.mu.Unlock()
	select {
	case b.rang <- struct{}{}:
	default:
	}
}

func (b *inbox) take() []queue.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	ids := b.ids
	b.ids = nil
	return ids
}

// overdue looks through the mail that is old enough.
func (r *Relay) overdue(ctx context.Context, at time.Time) error {
	age := r.giveUp()
	for _, d := range r.o.Tenants.Snapshot().Delay {
		age = min(age, d)
	}
	f := queue.Filter{State: queue.InQueue, Made: at.Add(-age), Limit: overduePage}
	for {
		list, next, err := r.o.Queue.List(ctx, f)
		if err != nil {
			return err
		}
		var ids []queue.ID
		for _, e := range list {
			if r.concerns(e, at) {
				ids = append(ids, e.ID)
			}
		}
		if err := r.attend(ctx, at, ids...); err != nil || next == "" {
			return err
		}
		f.After = next
	}
}

// concerns reports whether something is to be decided about a message without an
// attempt.
func (r *Relay) concerns(e *queue.Envelope, at time.Time) bool {
	told, _ := r.delays(e, at)
	return len(told) > 0 || e.BounceReason != "" || r.expired(e, at)
}

// expired reports whether a message's time is over while its next hop cannot be
// reached. Otherwise a last attempt is due at that time.
func (r *Relay) expired(e *queue.Envelope, at time.Time) bool {
	return !at.Before(e.Received.Add(r.giveUp())) && r.dispatcher.down(e.Tenant, e.Hop)
}

// attend decides now what can be decided about these messages without an attempt:
// they are given back as the operator asked (queue.Bounce), given up, or their
// senders are told of the delay. Messages that are being tried are left out.
func (r *Relay) attend(ctx context.Context, at time.Time, ids ...queue.ID) error {
	for len(ids) > 0 && ctx.Err() == nil {
		some := ids[:min(len(ids), overdueAtOnce)]
		ids = ids[len(some):]
		list, err := r.o.Queue.Take(at, some...)
		if err != nil {
			return err
		}
		var group sync.WaitGroup
		for _, e := range list {
			group.Go(func() { r.decide(e, at) })
		}
		group.Wait()
	}
	return ctx.Err()
}

// decide does it for a message that is taken.
func (r *Relay) decide(e *queue.Envelope, at time.Time) {
	var v verdict
	switch {
	case e.BounceReason != "":
		v = r.giveBack(e, queue.Reply{Enhanced: "5.7.0", Text: "returned by the operator of the gateway: " + e.BounceReason})
	case r.expired(e, at):
		v = r.giveBack(e, queue.Reply{Enhanced: "4.4.7", Text: "not delivered in time: " + r.dispatcher.reason(e.Tenant, e.Hop)})
	default:
		v.outcome.DelaysTold, v.delayed = r.delays(e, at)
	}
	if len(v.outcome.Results) == 0 && len(v.outcome.DelaysTold) == 0 {
		r.o.Queue.Release(e.ID)
		return
	}
	r.record(e, v)
}

// giveBack lets all recipients that wait fail without an attempt.
func (r *Relay) giveBack(e *queue.Envelope, why queue.Reply) (v verdict) {
	for i := range e.Recipients {
		rc := &e.Recipients[i]
		if rc.State.Final() {
			continue
		}
		rc.State, rc.Last = queue.Failed, why
		v.failed = append(v.failed, i)
		v.outcome.Results = append(v.outcome.Results, queue.Result{Recipient: i, State: queue.Failed, Reply: why})
	}
	return v
}

// delays says how many notices of delay each recipient that waits has seen by now,
// where that changes, and which of them the sender is to be told of. Only what goes
// out has a sender that can be told; a report about a report would help nobody.
func (r *Relay) delays(e *queue.Envelope, at time.Time) (told map[int]int, tell []int) {
	if e.Direction != queue.Out || e.ReportOf != "" {
		return nil, nil
	}
	if t := r.tenantOf(e); t == nil || len(t.Inbound.Servers) == 0 {
		return nil, nil
	}
	passed := 0
	for _, d := range r.o.Tenants.Snapshot().Delay {
		if !at.Before(e.Received.Add(d)) {
			passed++
		}
	}
	for i := range e.Recipients {
		if rc := &e.Recipients[i]; !rc.State.Final() && rc.DelaysTold < passed && dsn.Wanted(rc.Notify, dsn.Delayed) {
			if told == nil {
				told = map[int]int{}
			}
			told[i] = passed
			tell = append(tell, i)
		}
	}
	return told, tell
}

// giveUp is the age at which a message is given up.
func (r *Relay) giveUp() time.Duration { return r.schedule().GiveUp }

// schedule is when messages are tried, by the options or the configuration of now.
func (r *Relay) schedule() queue.Schedule {
	s := r.o.Schedule
	if s.GiveUp <= 0 {
		s.GiveUp = r.o.Tenants.Snapshot().GiveUp
	}
	if s.GiveUp <= 0 {
		s.GiveUp = queue.DefaultGiveUp
	}
	return s
}
