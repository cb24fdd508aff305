package health

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

// script is a check that finds what its next line says; the last line stays.
type script struct {
	lines [][]Finding
	asked atomic.Int64
}

func (s *script) check(context.Context) []Finding {
	return s.lines[min(int(s.asked.Add(1)), len(s.lines))-1]
}

func bad(code string) []Finding  { return []Finding{blocking(code, code+" is bad", "", "")} }
func poor(code string) []Finding { return []Finding{finding(code, Fault, code+" is poor", "", "")} }

// TestGate: it opens after three good rounds in a row, and says what kept it shut.
func TestGate(t *testing.T) {
	tests := []struct {
		name  string
		lines [][]Finding
		want  string
		after time.Duration
	}{
		{"good", [][]Finding{nil}, "", 4 * time.Second},
		{"faults that do not block", [][]Finding{poor("network")}, "", 4 * time.Second},
		{"gets well", [][]Finding{bad("a"), bad("a"), nil}, "", 8 * time.Second},
		{"flaps", [][]Finding{nil, nil, bad("a"), nil, nil, bad("a"), nil}, "", 16 * time.Second},
		{"never", [][]Finding{append(bad("a"), bad("b")...)}, "a: a is bad; b: b is bad", time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{lines: tt.lines}
				var out strings.Builder
				m := New(&out, s.check)
				ctx, cancel := context.WithCancel(t.Context())
				begin := time.Now()
				gate, end := context.WithTimeout(ctx, time.Minute)
				verdict := make(chan error, 1)
				go func() { verdict <- m.Wait(gate) }()
				synctest.Wait()
				go func() { _ = m.Run(ctx) }()
				err := <-verdict
				end()
				if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("%v, want %q", err, tt.want)
				}
				if took := time.Since(begin); took > tt.after+quick {
					t.Errorf("after %v, want %v", took, tt.after)
				}
				_, ready := milestone.Parse(out.String())
				if ready != (tt.want == "") || strings.Count(out.String(), "health.ready") > 1 {
					t.Errorf("milestones: %q", out.String())
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

// TestOldRoundsDoNotCount: the gate looks at rounds that began after it was asked.
func TestOldRoundsDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{lines: [][]Finding{nil}}
		var out strings.Builder
		m := New(&out, s.check)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = m.Run(ctx) }()
		time.Sleep(time.Minute) // fake time: healthy, and slow by now
		before := s.asked.Load()
		if err := m.Wait(ctx); err != nil {
			t.Error(err)
		}
		if n := s.asked.Load() - before; n < steady {
			t.Errorf("%d rounds", n)
		}
		cancel()
		synctest.Wait()
	})
}

// TestSlowWhenHealthy: a healthy box is not looked at all the time.
func TestSlowWhenHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{lines: [][]Finding{nil}}
		var out strings.Builder
		m := New(&out, s.check)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _ = m.Run(ctx) }()
		time.Sleep(10 * time.Minute) // fake time
		if n := s.asked.Load(); n < 30 || n > 60 {
			t.Errorf("%d rounds in ten minutes", n)
		}
		cancel()
		synctest.Wait()
	})
}

// TestHungCheck costs its time and no more.
func TestHungCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		m := New(&out, func(ctx context.Context) []Finding {
			<-ctx.Done()
			return bad("hung")
		})
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		go func() { _ = m.Run(ctx) }()
		err := m.Wait(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "hung is bad") {
			t.Errorf("%v", err)
		}
		synctest.Wait()
	})
}

func TestConditions(t *testing.T) {
	m := New(new(strings.Builder), func(context.Context) []Finding { return append(bad("a"), poor("b")...) })
	if got := m.Conditions(); len(got) != 0 {
		t.Errorf("before the first round: %v", got)
	}
	m.round(t.Context())
	if got := m.Conditions(); len(got) != 2 || got[0].Code != "a" || got[1].Severity != Fault {
		t.Errorf("%v", got)
	}
}
