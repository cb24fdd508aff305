// Package health finds out how the box is, and when it is well enough for a
// release on trial to be blessed.
//
// What is found are conditions: data with a code for programs, a severity, a text
// in English and German and a remedy (control.Condition). A box is healthy when none
// is a fault. The German text holds its remedy within.
//
// # The gate
//
// A release on trial is judged by what a release can break: its services run, keys
// are there, the relay accepts mail, its data is writable. A fault that it cannot
// help (a cable, an expired certificate, a revocation list that is out of reach)
// is shown as a fault like any other, but does not stand in the way: else a box in
// trouble could not be updated. Such findings do not have Blocks set. A box without
// certificates is not provisioned yet, which is healthy.
//
// The gate opens when steady checks in a row found nothing that blocks, so that a
// service which crashes and is started again every second does not slip through.
//
// Checks run one after the other, each bounded by checkLimit. They only read, but for
// one small file that is written now and then to prove that the disk takes it.
package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

const (
	// quick is the time between checks until the box is healthy, or while somebody
	// waits for it; slow is the time after that.
	quick      = 2 * time.Second
	slow       = 15 * time.Second
	steady     = 3
	checkLimit = 10 * time.Second
)

// Severities of a condition.
const (
	Notice  = "notice"
	Warning = "warning"
	Fault   = "fault"
)

// Finding is one condition. Blocks: a release on trial is not blessed with it.
type Finding struct {
	control.Condition
	Blocks bool
}

// Check looks at one part of the box; nothing found is good.
type Check func(ctx context.Context) []Finding

// Monitor runs checks again and again.
type Monitor struct {
	checks []Check
	out    io.Writer

	mu       sync.Mutex
	findings []Finding
	good     int // checks in a row without anything that blocks
	ready    bool
	waiting  int
	changed  chan struct{} // closed and replaced after each round
	hurry    chan struct{}
}

// New returns a monitor. It marks health.ready on out when the box is healthy for
// the first time.
func New(out io.Writer, checks ...Check) *Monitor {
	return &Monitor{checks: checks, out: out, changed: make(chan struct{}), hurry: make(chan struct{}, 1)}
}

// Run checks until ctx ends.
func (m *Monitor) Run(ctx context.Context) error {
	for {
		m.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-m.hurry:
		case <-time.After(m.pause()):
		}
	}
}

func (m *Monitor) pause() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ready && m.waiting == 0 {
		return slow
	}
	return quick
}

// round runs every check once.
func (m *Monitor) round(ctx context.Context) {
	var all []Finding
	for _, check := range m.checks {
		ctx, cancel := context.WithTimeout(ctx, checkLimit)
		all = append(all, check(ctx)...)
		cancel()
	}
	if ctx.Err() != nil {
		return // what was found is that we are stopping
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.findings = all
	if m.good++; slices.ContainsFunc(all, func(f Finding) bool { return f.Blocks }) {
		m.good = 0
	}
	if m.good >= steady && !m.ready {
		m.ready = true
		milestone.Print(m.out, "health.ready", "conditions", len(all))
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// Conditions are what the last round found.
func (m *Monitor) Conditions() []control.Condition {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]control.Condition, len(m.findings))
	for i, f := range m.findings {
		out[i] = f.Condition
	}
	return out
}

// Wait returns nil as soon as steady rounds in a row, which all began after the
// call, found nothing that blocks; or, when ctx ends first, what did.
func (m *Monitor) Wait(ctx context.Context) error {
	m.mu.Lock()
	m.good = -1 // the round that runs now began before
	m.waiting++
	changed := m.changed
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.waiting--
		m.mu.Unlock()
	}()
	select {
	case m.hurry <- struct{}{}:
	default:
	}
	for {
		select {
		case <-ctx.Done():
			return errors.Join(m.blocking(), ctx.Err())
		case <-changed:
		}
		m.mu.Lock()
		good := m.good
		changed = m.changed
		m.mu.Unlock()
		if good >= steady {
			return nil
		}
	}
}

// blocking is what stands in the way.
func (m *Monitor) blocking() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var texts []string
	for _, f := range m.findings {
		if f.Blocks {
			texts = append(texts, f.Code+": "+f.English)
		}
	}
	if len(texts) == 0 {
		return errors.New("no check came to an end")
	}
	return fmt.Errorf("%s", strings.Join(texts, "; "))
}
