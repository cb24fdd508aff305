package relay

import (
	"fmt"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

func TestMeters(t *testing.T) {
	var m meters
	a := &tenants.Tenant{ID: "a", Rates: tenants.Rates{Connections: 2, MessagesPerMinute: 60, RecipientsPerMinute: 120}}
	b := &tenants.Tenant{ID: "b", Rates: tenants.Rates{MessagesPerMinute: 1}}
	free := &tenants.Tenant{ID: "free"}
	at := time.Unix(1_800_000_000, 0)
	taken := func(of *tenants.Tenant, tries int, take func(*tenants.Tenant, time.Time) bool) (n int) {
		for range tries {
			if take(of, at) {
				n++
			}
		}
		return n
	}
	if n := taken(a, 100, m.message); n != 60 {
		t.Errorf("a full bucket gave %d messages, want 60", n)
	}
	if n := taken(a, 200, m.recipient); n != 120 {
		t.Errorf("a full bucket gave %d recipients, want 120", n)
	}
	if n := taken(b, 5, m.message); n != 1 {
		t.Errorf("another tenant got %d, want 1", n)
	}
	if n := taken(free, 1000, m.message) + taken(free, 1000, m.recipient); n != 2000 {
		t.Errorf("a tenant without limits got %d", n)
	}
	at = at.Add(10 * time.Second)
	if n := taken(a, 100, m.message); n != 10 {
		t.Errorf("after 10 s: %d, want 10", n)
	}
	at = at.Add(time.Hour)
	if n := taken(a, 100, m.message); n != 60 {
		t.Errorf("after an hour: %d, want 60, a minute's worth", n)
	}
	less := *a
	less.Rates.MessagesPerMinute = 6
	at = at.Add(time.Hour)
	if n := taken(&less, 100, m.message); n != 6 {
		t.Errorf("with a lower limit: %d, want 6", n)
	}
	if first, second, third := m.connect(a), m.connect(a), m.connect(a); !first || !second || third || !m.connect(free) {
		t.Error("connections are not counted")
	}
	m.disconnect("a")
	if !m.connect(a) {
		t.Error("a place that came free is not given")
	}
}

// Whoever comes and goes leaves nothing behind for ever; who is connected stays counted.
func TestMetersAreBounded(t *testing.T) {
	var m meters
	first := &tenants.Tenant{ID: "first", Rates: tenants.Rates{Connections: 1}}
	m.connect(first)
	for i := range 3 * maxMeters {
		one := &tenants.Tenant{ID: fmt.Sprint("t", i)}
		m.connect(one)
		m.disconnect(one.ID)
	}
	if len(m.of) > maxMeters {
		t.Errorf("%d meters", len(m.of))
	}
	if m.connect(first) {
		t.Error("an open connection was forgotten")
	}
}

// Others who come and go, however many, do not fill anybody's bucket anew.
func TestBucketsAreNotForgotten(t *testing.T) {
	var m meters
	a := &tenants.Tenant{ID: "a", Rates: tenants.Rates{MessagesPerMinute: 1}}
	at := time.Now()
	if !m.message(a, at) {
		t.Fatal("a full bucket gave nothing")
	}
	for i := range 3 * maxMeters {
		one := &tenants.Tenant{ID: fmt.Sprint("t", i)}
		m.connect(one)
		m.disconnect(one.ID)
	}
	if m.message(a, at) {
		t.Error("a bucket that was empty is full")
	}
}
