package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

const (
	defaultCuts = 6
	// drainTime is how long the box may take, after the last cut, to deliver what
	// it accepted: interrupted attempts are retried by the schedule.
	drainTime = 6 * time.Minute
)

// cutLedger counts what was promised and what arrived.
type cutLedger struct {
	mu       sync.Mutex
	sent     int
	accepted map[string]string // Message-ID of every 250 → its direction
}

func (l *cutLedger) began() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
}

func (l *cutLedger) took(id, direction string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accepted[id] = direction
}

func (l *cutLedger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// The power goes at random moments while mail flows both ways. Every message
// that got its 250 arrives; duplicates are counted. CUTS=n sets how often.
func TestPowerCuts(t *testing.T) {
	s := setting(t)
	cuts := defaultCuts
	if v := os.Getenv("CUTS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 1000 {
			t.Fatalf("CUTS=%q is no number from 1 to 1000", v)
		}
		cuts = n
	}
	m := s.clone(t)
	ledger := &cutLedger{accepted: map[string]string{}}
	for i := range cuts {
		box := s.boot(t, m)
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { flowOut(ctx, box, ledger) })
			wg.Go(func() { flowIn(ctx, box, ledger) })
		}
		before, moment := ledger.size(), time.Duration(500+rand.IntN(9500))*time.Millisecond
		select {
		case <-time.After(moment):
		case <-t.Context().Done():
		}
		if err := m.Cut(); err != nil {
			t.Fatal(err)
		}
		stop()
		wg.Wait()
		t.Logf("cut %d: %.1f s after mail began, %d messages accepted meanwhile", i+1, moment.Seconds(), ledger.size()-before)
	}
	s.boot(t, m)
	lost, duplicates := s.settle(t, ledger)
	t.Logf("power cuts %d, sent %d, accepted with 250 %d, delivered %d, duplicates %d, lost %d",
		cuts, ledger.sent, len(ledger.accepted), len(ledger.accepted)-len(lost), duplicates, len(lost))
	if len(ledger.accepted) < cuts {
		t.Errorf("only %d messages were accepted around %d cuts: the test proved little", len(ledger.accepted), cuts)
	}
	for _, id := range lost {
		t.Errorf("lost: %s %s", ledger.accepted[id], id)
	}
}

// flowOut hands letters in until ctx ends, every fifth one large.
func flowOut(ctx context.Context, box *Box, ledger *cutLedger) {
	a := partyA()
	for i := 0; ctx.Err() == nil; i++ {
		d := Draft{From: a.Address("poststelle"), To: citizen, Subject: "Stromausfall"}
		if i%5 == 4 {
			d.Body = RandomBody(200 << 10)
		}
		message := d.Bytes()
		ledger.began()
		hand, cancel := context.WithTimeout(ctx, 30*time.Second)
		if _, err := box.World.Submit(hand, "a", d.From, []string{d.To}, message); err == nil {
			ledger.took(d.MessageID, "out")
		}
		cancel()
	}
}

// flowIn pushes De-Mails until ctx ends.
func flowIn(ctx context.Context, box *Box, ledger *cutLedger) {
	for i := 0; ctx.Err() == nil; i++ {
		d := dmdatest.DeMail{From: citizen, To: []string{partyB().DeMailAddress("bauamt")}, Subject: "Stromausfall"}
		if i%5 == 4 {
			d.Body = RandomBody(200 << 10)
		}
		ledger.began()
		push, cancel := context.WithTimeout(ctx, 30*time.Second)
		if c, err := box.Push(push, d); err == nil {
			ledger.took(strings.Trim(c.MessageID, "<>"), "in")
		}
		cancel()
	}
}

// settle waits until everything accepted has arrived, or drainTime is over, and
// returns what has not, and how many deliveries were more than one.
func (s *stage) settle(t *testing.T, ledger *cutLedger) (lost []string, duplicates int) {
	t.Helper()
	ctx := within(t, drainTime)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		counts := s.arrived()
		lost, duplicates = nil, 0
		for id := range ledger.accepted {
			switch n := counts[id]; {
			case n == 0:
				lost = append(lost, id)
			case n > 1:
				duplicates += n - 1
			}
		}
		if len(lost) == 0 {
			return nil, duplicates
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return lost, duplicates
		}
	}
}

// arrived counts deliveries by Message-ID: letters out in the provider's
// mailboxes, De-Mails in on the tenants' servers.
func (s *stage) arrived() map[string]int {
	counts := map[string]int{}
	for _, d := range s.world.Provider.Deliveries() {
		counts[strings.Trim(d.Header.Get("Message-ID"), "<>")]++
	}
	for _, server := range []*MailServer{s.world.ServerA, s.world.ServerB} {
		for _, l := range server.Letters() {
			counts[strings.Trim(l.Field("Message-ID"), "<>")]++
		}
	}
	return counts
}
