package nexthop

import (
	"context"
	"errors"
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
}

type idleClient struct {
	*Client
	timer *time.Timer
}

// NewRoute makes a route; servers is asked when a new connection is needed.
func NewRoute(servers func(ctx context.Context) ([]Server, error), l Limits) *Route {
	return &Route{servers: servers, limits: l}
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
		r.give(c)
		if err == nil {
			return results
		}
		// A connection that waited may have been closed meanwhile. Nothing was
		// handed over then, so a fresh one is tried; there are only so many.
		var f *Failure
		if reused && errors.As(err, &f) && f.Outcome == Temporary && f.Reply.Code == 0 && !f.Unsure && ctx.Err() == nil {
			continue
		}
		return ResultsOf(err, len(m.Recipients))
	}
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
	for _, s := range servers {
		if c, err = Dial(ctx, s, r.limits); err == nil {
			return c, false, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, false, err
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

// give keeps a connection for another message, within bounds.
func (r *Route) give(c *Client) {
	if !c.Usable() || c.carried >= MaxReuseMessages || time.Since(c.began) > MaxReuseAge {
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
