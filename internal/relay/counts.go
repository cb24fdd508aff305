package relay

import (
	"slices"
	"strings"
	"sync"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// What a Count counts.
const (
	CountAccepted  = "accepted"  // messages taken over
	CountDelivered = "delivered" // recipients the next hop has taken over
	CountDeferred  = "deferred"  // attempts at a recipient that will be repeated
	CountFailed    = "failed"    // recipients given up
	CountDead      = "dead"      // messages that became dead letters
)

// Count is how often something happened since the start, by tenant and direction.
type Count struct {
	Tenant    string
	Direction queue.Direction
	What      string
	N         uint64
}

// counts are bounded by the tenants that the configuration ever had in this process.
type counts struct {
	mu  sync.Mutex
	all map[Count]uint64 // N of the key is 0
}

func (c *counts) add(e *queue.Envelope, what string, n int) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[Count]uint64{}
	}
	c.all[Count{Tenant: e.Tenant, Direction: e.Direction, What: what}] += uint64(n)
}

// Counts lists what happened since the start, in a steady order.
func (r *Relay) Counts() []Count {
	r.counts.mu.Lock()
	defer r.counts.mu.Unlock()
	out := make([]Count, 0, len(r.counts.all))
	for c, n := range r.counts.all {
		c.N = n
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Count) int {
		return strings.Compare(a.Tenant+" "+string(a.Direction)+" "+a.What, b.Tenant+" "+string(b.Direction)+" "+b.What)
	})
	return out
}

// attempt notes what an attempt came to.
func (c *counts) attempt(e *queue.Envelope, v *verdict) {
	deferred := 0
	for _, res := range v.outcome.Results {
		if !res.State.Final() {
			deferred++
		}
	}
	c.add(e, CountDelivered, len(v.delivered))
	c.add(e, CountFailed, len(v.failed))
	c.add(e, CountDeferred, deferred)
	if v.outcome.Dead != "" {
		c.add(e, CountDead, 1)
	}
}
