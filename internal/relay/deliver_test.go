package relay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// hop is a provider that does as it is told and keeps what came, in order.
type hop struct {
	mu      sync.Mutex
	from    []string // reverse-paths, in the order in which attempts began
	at      []time.Time
	now     int // at this moment
	most    int // at once
	answer  func(ctx context.Context, m *nexthop.Message) nexthop.Result
	changed chan struct{}
}

func newHop() *hop { return &hop{changed: make(chan struct{})} }

func (h *hop) Deliver(ctx context.Context, m *nexthop.Message) []nexthop.Result {
	h.mu.Lock()
	h.from, h.at = append(h.from, m.From), append(h.at, time.Now())
	h.now++
	h.most = max(h.most, h.now)
	answer := h.answer
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	res := nexthop.Result{Outcome: nexthop.Delivered, Reply: nexthop.Reply{Code: 250}}
	if answer != nil {
		res = answer(ctx, m)
	}
	h.mu.Lock()
	h.now--
	h.mu.Unlock()
	all := make([]nexthop.Result, len(m.Recipients))
	for i := range all {
		all[i] = res
	}
	return all
}

func (h *hop) set(answer func(ctx context.Context, m *nexthop.Message) nexthop.Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *hop) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.from)
}

// await waits until what came is good.
func (h *hop) await(t testing.TB, good func(from []string) bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		h.mu.Lock()
		from, changed := h.from, h.changed
		h.mu.Unlock()
		if good(from) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("%d attempts, and not what was waited for", len(from))
		}
	}
}

func refused(context.Context, *nexthop.Message) nexthop.Result {
	return nexthop.Result{Reply: nexthop.Reply{Enhanced: "4.4.1", Text: "cannot connect"}, Lost: true}
}

// box is a relay over a queue in memory, with a provider that is a hop.
type box struct {
	t     testing.TB
	queue *queue.Queue
	hop   *hop
	relay *Relay
	stop  func() error
}

func newBox(t *testing.T) *box {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("q", 0o700); err != nil {
		t.Fatal(err)
	}
	q, err := queue.Open(fs, "q", queue.Options{Ballast: -1, DiskSlow: -1})
	if err != nil {
		t.Fatal(err)
	}
	return newBoxOn(t, q)
}

func newBoxOn(t testing.TB, q *queue.Queue) *box {
	b := &box{t: t, queue: q, hop: newHop()}
	b.relay = New(Options{Queue: q, Tenants: tenants.NewLive(&tenants.Snapshot{}), Hostname: func() string { return "box.example" },
		Connection: func() Connection { return Connection{Provider: b.hop} }, Log: slog.New(slog.DiscardHandler)})
	return b
}

// run begins delivery; end stops it.
func (b *box) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.relay.Deliver(ctx) }()
	b.stop = sync.OnceValue(func() error { cancel(); return <-done })
	b.t.Cleanup(func() { _ = b.stop() })
}

func (b *box) close() {
	b.t.Helper()
	if err := b.stop(); !errors.Is(err, context.Canceled) {
		b.t.Errorf("delivery ended with %v", err)
	}
	if err := b.queue.Close(); err != nil {
		b.t.Error(err)
	}
}

// commit accepts a letter; change may alter its envelope.
func (b *box) commit(tenant, from string, change func(*queue.Envelope)) queue.ID {
	b.t.Helper()
	body, err := b.queue.NewBody(1 << 20)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := io.WriteString(body, "From: x\r\nSubject: x\r\n\r\nx\r\n"); err != nil {
		b.t.Fatal(err)
	}
	e := &queue.Envelope{Tenant: tenant, Direction: queue.Out, Hop: hopProvider, Class: queue.Normal, From: from, Received: time.Now(),
		Recipients: []queue.Recipient{{Address: "erika@buerger.de-mail.example"}}}
	if change != nil {
		change(e)
	}
	if err := b.queue.Commit(context.Background(), e, body); err != nil {
		b.t.Fatal(err)
	}
	return e.ID
}

// flood accepts n letters, many at a time.
func (b *box) flood(n int, tenant, from string) {
	var group sync.WaitGroup
	for part := range 64 {
		group.Go(func() {
			for range n/64 + min(1, max(0, n%64-part)) {
				b.commit(tenant, from, func(e *queue.Envelope) { e.Class = queue.Bulk })
			}
		})
	}
	group.Wait()
}

// Another tenant's mass dispatch in front of it costs a letter no more than what
// is under way: the number does not grow with the queue.
func TestALetterPassesAnotherTenantsMassDispatch(t *testing.T) {
	const letters, under = 20_000, 2 * (2*maxPlaces + batch)
	b := newBox(t)
	b.flood(letters, "a", "a@x")
	b.run()
	b.hop.await(t, func(from []string) bool { return len(from) > 1000 })
	before := b.hop.count()
	b.commit("b", "b@x", nil)
	b.hop.await(t, func(from []string) bool { return slices.Contains(from, "b@x") })
	b.hop.mu.Lock()
	came := slices.Index(b.hop.from, "b@x") - before
	b.hop.mu.Unlock()
	if came > under {
		t.Errorf("%d letters of the other tenant went first, of %d; want at most %d", came, letters, under)
	}
	b.close()
}

// A tenant's own urgent letter overtakes its mass dispatch.
func TestUrgentOvertakes(t *testing.T) {
	b := newBox(t)
	b.flood(2000, "a", "bulk@x")
	b.run()
	b.hop.await(t, func(from []string) bool { return len(from) > 200 })
	before := b.hop.count()
	b.commit("a", "urgent@x", func(e *queue.Envelope) { e.Class = queue.Urgent })
	b.hop.await(t, func(from []string) bool { return slices.Contains(from, "urgent@x") })
	b.hop.mu.Lock()
	came := slices.Index(b.hop.from, "urgent@x") - before
	b.hop.mu.Unlock()
	if most := 2 * (2*maxPlaces + batch); came > most {
		t.Errorf("%d letters went first, want at most %d", came, most)
	}
	b.close()
}

// The places at a destination grow while it takes everything.
func TestPlacesGrowWithSuccess(t *testing.T) {
	b := newBox(t)
	b.hop.set(func(context.Context, *nexthop.Message) nexthop.Result {
		time.Sleep(time.Millisecond)
		return nexthop.Result{Outcome: nexthop.Delivered}
	})
	b.flood(3000, "a", "a@x")
	b.run()
	b.hop.await(t, func(from []string) bool { return len(from) == 3000 })
	b.close()
	if b.hop.most <= startPlaces || b.hop.most > maxPlaces+sparePlaces {
		t.Errorf("at most %d attempts at once, want more than %d and at most %d", b.hop.most, startPlaces, maxPlaces+sparePlaces)
	}
}

// A message that hangs at the provider keeps no other tenant waiting, although
// they share its places.
func TestHangingMailLeavesPlacesForOthers(t *testing.T) {
	b := newBox(t)
	free := make(chan struct{})
	b.hop.set(func(ctx context.Context, m *nexthop.Message) nexthop.Result {
		if strings.HasPrefix(m.From, "hang") {
			select {
			case <-free:
			case <-ctx.Done():
			}
		}
		return nexthop.Result{Outcome: nexthop.Delivered}
	})
	for i := range 50 {
		b.commit("a", fmt.Sprintf("hang%d@x", i), nil)
	}
	b.run()
	b.hop.await(t, func(from []string) bool { return len(from) >= startPlaces })
	b.commit("b", "b@x", nil)
	b.hop.await(t, func(from []string) bool { return slices.Contains(from, "b@x") })
	if n := b.hop.count(); n > startPlaces+1 {
		t.Errorf("%d attempts although %d places hang", n, startPlaces)
	}
	close(free)
	b.close()
}

// While the provider is down, mail waits without attempts, the condition says so,
// and mail to other destinations goes on; one success opens the way again.
func TestBreakerHoldsMailBack(t *testing.T) {
	b := newBox(t)
	b.hop.set(refused)
	for i := range 200 {
		b.commit("a", fmt.Sprintf("a%d@x", i), nil)
	}
	b.run()
	limit := time.Now().Add(30 * time.Second)
	for len(b.relay.Conditions()) == 0 {
		if time.Now().After(limit) {
			t.Fatal("no condition")
		}
		time.Sleep(time.Millisecond)
	}
	c := b.relay.Conditions()[0]
	if c.Code != "relay.down.provider" || c.Severity != "fault" || !strings.Contains(c.English, "cannot connect") || !strings.Contains(c.German, "nicht erreichbar") || c.Remedy == "" {
		t.Errorf("condition %+v", c)
	}
	if !b.relay.dispatcher.down("other", hopProvider) || b.relay.dispatcher.down("a", hopTenant) {
		t.Error("the provider is down for all tenants, and nobody else")
	}
	if n := b.hop.count(); n > breakAfter+2*startPlaces {
		t.Errorf("%d attempts of 200 messages", n)
	}
	untried := 0
	list, _, err := b.queue.List(context.Background(), queue.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Recipients[0].Attempts == 0 {
			untried++
		}
	}
	if untried < 200-breakAfter-2*startPlaces {
		t.Errorf("only %d of 200 messages without an attempt", untried)
	}
	b.hop.set(nil)
	b.relay.o.Tenants.(*tenants.Live).Set(&tenants.Snapshot{}) // what changed may be the cure
	b.hop.await(t, func(from []string) bool { return len(from) >= untried })
	b.close()
	if c := b.relay.Conditions(); len(c) != 0 {
		t.Errorf("conditions %+v although it answers", c)
	}
}

// A stop lets attempts end, cuts those that do not, and records them as due.
func TestStopRecordsWhatIsCut(t *testing.T) {
	b := newBox(t)
	b.hop.set(func(ctx context.Context, m *nexthop.Message) nexthop.Result {
		<-ctx.Done()
		return nexthop.Result{Reply: nexthop.Reply{Enhanced: "4.4.2", Text: "connection lost"}, Lost: true}
	})
	for i := range 20 {
		b.commit("a", fmt.Sprintf("a%d@x", i), nil)
	}
	b.run()
	b.hop.await(t, func(from []string) bool { return len(from) >= startPlaces })
	begun := time.Now()
	if err := b.stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("delivery ended with %v", err)
	}
	if took := time.Since(begun); took > stopGrace+5*time.Second {
		t.Errorf("the stop took %v", took)
	}
	list, err := b.queue.Due(time.Now().Add(time.Second), 100)
	if err != nil || len(list) != 20 {
		t.Errorf("%d messages are due after the stop, want all 20 (%v)", len(list), err)
	}
	if err := b.queue.Close(); err != nil {
		t.Error(err)
	}
}

// What was handed over is found by its body, and nothing else is.
func TestHandedOverIsFoundByItsBody(t *testing.T) {
	b := newBox(t)
	b.hop.set(func(_ context.Context, m *nexthop.Message) nexthop.Result {
		body, err := m.Open()
		if err == nil {
			_, err = io.Copy(io.Discard, body)
			_ = body.Close()
		}
		if err != nil {
			t.Error(err)
		}
		if m.From != "taken@x" {
			return nexthop.Result{Outcome: nexthop.Temporary, Reply: nexthop.Reply{Code: 451}}
		}
		return nexthop.Result{Outcome: nexthop.Delivered}
	})
	taken := b.commit("a", "taken@x", nil)
	b.commit("a", "later@x", nil)
	b.commit("a", "taken@x", func(e *queue.Envelope) { e.Direction = queue.In })
	b.run()
	b.hop.await(t, func(from []string) bool { return len(from) == 3 })
	if err := b.stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	sum := sha256.Sum256([]byte("x\r\n"))
	key := bodyKey(sum[:])
	for _, key := range []string{key, ownKey("a", queue.Out, key)} {
		if ids, err := b.queue.Find(key, 10); err != nil || !slices.Equal(ids, []queue.ID{taken}) {
			t.Errorf("%s leads to %v, %v, want %s", key, ids, err, taken)
		}
	}
	noted := ""
	if _, err := b.queue.Notes(taken, func(e queue.Event) { noted += e.Data[dataBody] }); err != nil || "body:"+noted != key {
		t.Errorf("noted %q, %v", noted, err)
	}
	b.close()
}
