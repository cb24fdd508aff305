package netd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/firewall"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// fake is a kernel that does at once what it is told, and writes down the order.
type fake struct {
	mu        sync.Mutex
	calls     []string
	rules     string
	filterErr error
	netErr    error
	carrier   bool
	event     func()
}

func (f *fake) note(s string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, s)
}

func (f *fake) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.calls
	f.calls = nil
	return out
}

// set changes what the fake does.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) filter(_ context.Context, r firewall.Ruleset) (bool, error) {
	f.note("filter")
	f.mu.Lock()
	defer f.mu.Unlock()
	changed := f.rules != r.String()
	if f.filterErr == nil {
		f.rules = r.String()
	}
	return changed, f.filterErr
}

func (f *fake) Converge(_ context.Context, cfg config.Network) (netconf.State, int, error) {
	f.note("links")
	f.mu.Lock()
	defer f.mu.Unlock()
	var s netconf.State
	for i, l := range cfg.Links {
		link := netconf.Link{Index: i + 2, Name: l.Name, Kind: netconf.KindCard, MAC: l.MAC, Up: true, Carrier: f.carrier}
		for _, ifc := range cfg.Interfaces {
			for _, a := range ifc.Addresses {
				if ifc.Name == l.Name {
					link.Addresses = append(link.Addresses, netconf.Address{Prefix: a})
				}
			}
		}
		s.Links = append(s.Links, link)
	}
	return s, 0, f.netErr
}

func (f *fake) watch(ctx context.Context, notify func()) error {
	f.mu.Lock()
	f.event = notify
	f.mu.Unlock()
	<-ctx.Done()
	return nil
}

func document(serial uint64) *config.Document {
	return &config.Document{Serial: serial, Network: config.Network{
		Links:      []config.Link{{Name: "mgmt0", MAC: "52:54:00:50:46:03", MTU: 1500}},
		Interfaces: []config.Interface{{Name: "mgmt0", Role: config.RoleManagement, Addresses: []netip.Prefix{netip.MustParsePrefix("10.30.0.2/24")}}},
	}}
}

// output collects milestones.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// running is a Daemon in a bubble of synctest.
type running struct {
	*fake
	daemon *Daemon
	out    output
	doc    *config.Document
	err    error
	reload chan os.Signal
}

func start(t *testing.T, doc *config.Document) *running {
	t.Helper()
	r := &running{fake: &fake{carrier: true}, doc: doc, reload: make(chan os.Signal, 1)}
	r.daemon = New(Options{
		Load: r.load, Network: r.fake, Filter: r.fake.filter, Watch: r.fake.watch,
		Resolver: filepath.Join(t.TempDir(), "resolv.conf"), Reload: r.reload, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Milestones: &r.out,
	})
	return r
}

func (r *running) load() (*config.Document, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.doc, r.err
}

// run runs the daemon until the test ends.
func (r *running) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.daemon.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	synctest.Wait()
}

func (r *running) marks() string {
	r.out.mu.Lock()
	defer r.out.mu.Unlock()
	s := r.out.text.String()
	r.out.text.Reset()
	return s
}

func wait(d time.Duration) {
	time.Sleep(d) // the bubble's clock, which does not wait
	synctest.Wait()
}

func TestFilterComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, document(1))
		r.filterErr = errors.New("no netfilter")
		r.run(t)
		if d := cmp.Diff([]string{"filter"}, r.taken()); d != "" {
			t.Errorf("links are touched without a filter:\n%s", d)
		}
		if got, want := r.marks(), "PFORTE netd.fault link=network text=\"no netfilter\"\n"; got != want {
			t.Errorf("milestones %q, want %q", got, want)
		}
		r.set(func() { r.filterErr = nil })
		wait(retryGap)
		if d := cmp.Diff([]string{"filter", "links"}, r.taken()); d != "" {
			t.Error(d)
		}
		if got, want := r.marks(), "PFORTE netd.up interfaces=1 serial=1\n"; got != want {
			t.Errorf("milestones %q, want %q", got, want)
		}
		want := manage.Network{Interfaces: []manage.NetworkInterface{{Name: "mgmt0", Role: "management", Up: true, Addresses: []string{"10.30.0.2/24"}}}}
		if d := cmp.Diff(want, r.daemon.Status()); d != "" {
			t.Error(d)
		}
	})
}

func TestWithoutConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		r.run(t)
		if got, want := r.marks(), "PFORTE netd.up interfaces=0 why=no-configuration\n"; got != want {
			t.Errorf("milestones %q, want %q", got, want)
		}
		if r.rules != firewall.Rules(nil).String() {
			t.Errorf("rules are\n%s", r.rules)
		}
	})
}

func TestBadConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		r.err = errors.New("not signed by the owner")
		r.run(t)
		if got := r.marks(); !strings.Contains(got, `netd.fault link=configuration text="not signed by the owner"`) || !strings.Contains(got, "interfaces=0") {
			t.Errorf("milestones %q", got)
		}
		if r.rules != firewall.Rules(nil).String() {
			t.Error("a box without a readable configuration lets something in")
		}
		r.set(func() { r.doc, r.err = document(7), nil })
		r.reload <- nil
		synctest.Wait()
		if got, want := r.marks(), "PFORTE netd.up interfaces=1 serial=7\n"; got != want {
			t.Errorf("milestones %q, want %q", got, want)
		}
		good := r.rules
		r.set(func() { r.doc, r.err = nil, errors.New("disk on fire") })
		network, err := r.daemon.reload(t.Context())
		if err == nil || !strings.Contains(network.Fault, "disk on fire") || len(network.Interfaces) != 1 || r.rules != good {
			t.Errorf("reload = %+v, %v; what was in force must stay", network, err)
		}
	})
}

// TestEvents: a storm of events makes few passes, a quiet network one per minute.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, document(1))
		r.run(t)
		r.taken()
		for range 1000 {
			r.event()
			time.Sleep(10 * time.Millisecond)
		}
		wait(2 * time.Second)
		if n := len(r.taken()) / 2; n < 2 || n > 12 {
			t.Errorf("1000 events in ten seconds made %d passes", n)
		}
		wait(10 * routine)
		if n := len(r.taken()) / 2; n < 9 || n > 11 {
			t.Errorf("ten quiet minutes made %d passes", n)
		}
	})
}

// TestNoSignal: a missing link signal is no fault at once, and one later, once.
func TestNoSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, document(1))
		r.carrier = false
		r.run(t)
		if got, want := r.marks(), "PFORTE netd.up interfaces=0 serial=1\n"; got != want {
			t.Errorf("milestones %q, want %q", got, want)
		}
		wait(grace + time.Second)
		if got, want := r.marks(), "PFORTE netd.fault link=mgmt0 text=\"there is no link signal\"\n"; got != want {
			t.Errorf("milestones %q, want %q", got, want)
		}
		wait(5 * routine)
		if got := r.marks(); got != "" {
			t.Errorf("repeated: %q", got)
		}
		r.set(func() { r.carrier = true })
		r.event()
		wait(2 * time.Second)
		if got, want := r.marks(), "PFORTE netd.up interfaces=1 serial=1\n"; got != want || r.daemon.Status().Fault != "" {
			t.Errorf("milestones %q, want %q; fault %q", got, want, r.daemon.Status().Fault)
		}
	})
}

func TestHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, nil)
		if err := r.daemon.Healthy(t.Context()); err != nil {
			t.Error(err)
		}
		r.daemon.begun.Store(time.Now().UnixNano())
		time.Sleep(2 * passTimeout)
		if r.daemon.Healthy(t.Context()) == nil {
			t.Error("a pass that hangs is healthy")
		}
	})
}
