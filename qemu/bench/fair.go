package main

import (
	"context"
	"fmt"
	"time"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// The mass dispatch of tenant A: bounded by the disk, 2 KiB each.
const (
	massLetters = 100_000
	massSize    = 2 << 10
)

// fair queues a mass dispatch of tenant A while the next hop hangs, lets the next
// hop go on, and sees how long a letter of tenant B waits.
func (b *bench) fair(ctx context.Context) error {
	r, clean, err := b.start(ctx, pforte)
	if err != nil {
		return err
	}
	defer clean()
	mass, expected := newLetters("mass", 0, b.count(massLetters), massSize)
	single, one := newLetters("single", 1, 1, massSize)
	for name, sum := range one {
		expected[name] = sum
	}
	b.sink.expect(expected)
	resume := b.sink.pause()
	before, err := r.state()
	if err != nil {
		resume()
		return err
	}
	g := newGenerator(r.port(), sessions, peers.BoxName, b.world.BoxCA, b.world.Tenants[0])
	s, err := g.send(ctx, mass)
	resume()
	if err != nil {
		return err
	}
	after, err := r.state()
	if err != nil {
		return err
	}
	ofB := newGenerator(r.port(), 1, peers.BoxName, b.world.BoxCA, b.world.Tenants[1])
	t, err := ofB.send(ctx, single)
	if err != nil {
		return err
	}
	wait, left, err := b.awaitOne(ctx, single.names[0], t.end)
	if err != nil {
		return err
	}
	n := len(mass.names)
	fmt.Fprintf(b.out, "\nfairness: %d letters of tenant A queued in %.1f s (%.0f/s, %.1f accepted per sync, %.1f MiB written, peak RSS %d MiB);\n"+
		"  then one letter of tenant B: accepted after %v, at the next hop %v after its 250, before %d of tenant A's\n", n, s.end.Sub(s.start).Seconds(),
		float64(n)/s.end.Sub(s.start).Seconds(), float64(n)/float64(max(1, after.Syncs-before.Syncs)), float64(after.Written-before.Written)/(1<<20), after.Peak>>20,
		t.end.Sub(t.start).Round(time.Millisecond), wait.Round(time.Millisecond), left)
	return nil
}

// awaitOne waits for one message at the next hop and says how many others were
// still to come.
func (b *bench) awaitOne(ctx context.Context, name string, since time.Time) (wait time.Duration, left int, err error) {
	limit := time.Now().Add(arrival)
	for time.Now().Before(limit) && ctx.Err() == nil {
		b.sink.mu.Lock()
		at, there := b.sink.first[name]
		left = b.sink.left
		b.sink.mu.Unlock()
		if there {
			return max(0, at.Sub(since)), left, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0, 0, fmt.Errorf("the letter of tenant B did not come within %v", arrival)
}
