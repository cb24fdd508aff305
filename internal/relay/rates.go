package relay

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// maxMeters bounds how many tenants are metered before those are forgotten that have
// no connection and full buckets: ids of tenants that are long gone do not pile up,
// and nobody gets a new bucket for one that he has emptied.
const maxMeters = 1024

// meters count what tenants' systems use up. They belong to the relay and not to
// a snapshot, so that a new configuration does not fill anybody's bucket anew.
type meters struct {
	mu sync.Mutex
	of map[string]*meter
}

// meter is one tenant's: its open connections, and buckets that hold one minute's
// worth and fill steadily.
type meter struct {
	open       int
	messages   *rate.Limiter // nil until the first
	recipients *rate.Limiter
}

// connect counts a connection in; false means that the tenant has too many.
func (m *meters) connect(t *tenants.Tenant) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	one := m.get(t, now())
	if limit := t.Rates.Connections; limit > 0 && one.open >= limit {
		return false
	}
	one.open++
	return true
}

// disconnect ends what connect counted.
func (m *meters) disconnect(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[id].open--
}

// message takes one message, recipient one recipient out of the tenant's bucket.
func (m *meters) message(t *tenants.Tenant, now time.Time) bool {
	return m.take(t, t.Rates.MessagesPerMinute, func(one *meter) **rate.Limiter { return &one.messages }, now)
}

func (m *meters) recipient(t *tenants.Tenant, now time.Time) bool {
	return m.take(t, t.Rates.RecipientsPerMinute, func(one *meter) **rate.Limiter { return &one.recipients }, now)
}

func (m *meters) take(t *tenants.Tenant, perMinute int, bucket func(*meter) **rate.Limiter, now time.Time) bool {
	if perMinute <= 0 {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	steady := rate.Limit(float64(perMinute) / time.Minute.Seconds())
	b := bucket(m.get(t, now))
	switch {
	case *b == nil:
		*b = rate.NewLimiter(steady, perMinute)
	case (*b).Burst() != perMinute: // a new configuration
		(*b).SetLimitAt(now, steady)
		(*b).SetBurstAt(now, perMinute)
	}
	return (*b).AllowN(now, 1)
}

// get finds or makes a tenant's meter; m.mu is held.
func (m *meters) get(t *tenants.Tenant, now time.Time) *meter {
	if one := m.of[t.ID]; one != nil {
		return one
	}
	if m.of == nil {
		m.of = map[string]*meter{}
	}
	if len(m.of) >= maxMeters {
		for id, one := range m.of {
			if one.open == 0 && full(one.messages, now) && full(one.recipients, now) {
				delete(m.of, id)
			}
		}
	}
	one := &meter{}
	m.of[t.ID] = one
	return one
}

func full(b *rate.Limiter, now time.Time) bool {
	return b == nil || b.TokensAt(now) >= float64(b.Burst())
}
