package nexthop

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Route is the way to one destination: servers in the order in which they are
// tried, and connections that wait for another message. It is safe for
// concurrent use.
type Route struct {
	servers func(ctx context.Context) ([]Server, error)
	limits  Limits

	mu     sync.Mutex
	idle   []*idleClient
	closed bool
	down   map[string]time.Time // by address: until when a server is tried last
	stats  Stats
}

// Stats count what a route did.
type Stats struct {
	Connections int64 // made
	Failures    int64 // to make one
	Messages    int64 // that a connection was used for
}

// Stats returns what was done so far.
func (r *Route) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

type idleClient struct {
	*Client
	timer *time.Timer
}

// NewRoute makes a route; servers is asked when a new connection is needed.
func NewRoute(servers func(ctx context.Context) ([]Server, error), l Limits) *Route {
	return &Route{servers: servers, limits: l, down: map[string]time.Time{}}
}

// Deliver hands m to the first server that can be reached. The results are in
// the order of m.Recipients; every recipient has one.
func (r *Route) Deliver(ctx context.Context, m *Message) []Result {
	for {
		c, reused, err := r.client(ctx)
		if err != nil {
			return ResultsOf(err, len(m.Recipients))
		}
		results, err := c.Send(ctx, m)
		r.count()
		r.give(c)
		if err == nil {
			return results
		}
		// A connection that waited may have been closed meanwhile, or the server has
		// had enough of it (421). Nothing was handed over then, so a fresh one is tried;
		// there are only so many.
		var f *Failure
		if reused && errors.As(err, &f) && f.Lost && !f.Unsure && ctx.Err() == nil {
			continue
		}
		return ResultsOf(err, len(m.Recipients))
	}
}

func (r *Route) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Messages++
}

func (r *Route) client(ctx context.Context) (c *Client, reused bool, err error) {
	if c := r.take(); c != nil {
		return c, true, nil
	}
	servers, err := r.servers(ctx)
	if err != nil {
		return nil, false, err
	}
	none := own(Temporary, "4.4.4", "there is no server to deliver to")
	none.Lost, err = true, none
	for _, s := range arrange(servers, r.isDown, rand.IntN) {
		c, err = Dial(ctx, s, r.limits)
		if ctx.Err() == nil {
			r.note(s, err)
		}
		if err == nil {
			return c, false, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, false, err
}

func (r *Route) isDown(s Server) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.down[s.Address])
}

// note remembers how an attempt to connect ended.
func (r *Route) note(s Server, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.stats.Connections++
		delete(r.down, s.Address)
		return
	}
	r.stats.Failures++
	for address, until := range r.down {
		if time.Now().After(until) {
			delete(r.down, address)
		}
	}
	r.down[s.Address] = time.Now().Add(downFor)
}

// take returns a waiting connection, the one used last.
func (r *Route) take() *Client {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.idle) > 0 {
		last := r.idle[len(r.idle)-1]
		r.idle = r.idle[:len(r.idle)-1]
		if last.timer.Stop() {
			return last.Client
		}
	}
	return nil
}

// maxAge is shorter for a fallback: the others are looked for again soon.
func (c *Client) maxAge() time.Duration {
	if c.server.Fallback {
		return downFor
	}
	return MaxReuseAge
}

// give keeps a connection for another message, within bounds.
func (r *Route) give(c *Client) {
	if !c.Usable() || c.carried >= MaxReuseMessages || time.Since(c.began) > c.maxAge() {
		c.Close()
		return
	}
	r.mu.Lock()
	closed := r.closed
	if !closed {
		w := &idleClient{Client: c}
		w.timer = time.AfterFunc(MaxIdle, func() { r.expire(w) })
		r.idle = append(r.idle, w)
	}
	r.mu.Unlock()
	if closed {
		c.Close()
	}
}

func (r *Route) expire(w *idleClient) {
	r.mu.Lock()
	for i, other := range r.idle {
		if other == w {
			r.idle = append(r.idle[:i], r.idle[i+1:]...)
			break
		}
	}
	r.mu.Unlock()
	w.Close()
}

// Close ends the waiting connections; those in use end with their message.
func (r *Route) Close() {
	r.mu.Lock()
	idle := r.idle
	r.idle, r.closed = nil, true
	r.mu.Unlock()
	for _, w := range idle {
		if w.timer.Stop() {
			w.Close()
		}
	}
}
