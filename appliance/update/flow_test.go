package update

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/appliance/update/repository"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot/slottest"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/release/releasetest"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// world is a box with real slots, boot entries, repositories and control socket.
// The firmware and the power are simulated.
type world struct {
	t       *testing.T
	parties *releasetest.Parties
	disk    slot.Disk
	vars    *slottest.Vars
	dir     string // the box's state
	urls    config.Updates
	signed  map[[32]byte]bool // what Secure Boot lets through
	sick    map[string]bool   // releases that never get healthy
}

const waitLimit = 20 * time.Second

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, parties: releasetest.New(t), disk: slot.Disk{Root: t.TempDir()}, vars: slottest.NewVars(nil), dir: t.TempDir(),
		signed: map[[32]byte]bool{}, sick: map[string]bool{}}
	w.urls = config.Updates{Vendor: releasetest.Serve(t, w.parties.Vendor.Dir), Owner: releasetest.Serve(t, w.parties.Owner.Dir)}
	first := w.image("1.0.0")
	for _, name := range []string{layout.SlotA, layout.FallbackSlot} {
		name = filepath.Join(w.disk.Root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, first, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// image is a release's file that Secure Boot lets through.
func (w *world) image(version string) []byte {
	data := slottest.Release(version)
	w.signed[sha256.Sum256(data)] = true
	return data
}

// release publishes and authorises a release.
func (w *world) release(version string) {
	w.parties.Publish(version, 0, w.image(version))
	w.parties.Authorise(version, rollout.Order{Boxes: []string{"sn-gw-01"}}, w.image(version))
}

// pick is the firmware.
func (w *world) pick() report.Report {
	next := w.vars.Entries("BootNext")
	w.vars.SetRaw("BootNext", nil)
	order := w.vars.Entries("BootOrder")
	candidates := append(slices.Concat(next, order), firmware.Entry{Path: layout.FallbackSlot})
	for i, e := range candidates {
		s := firmware.Boot{Path: e.Path}.Slot()
		sum, _, err := w.disk.Hash(s)
		if err != nil || !w.signed[sum] {
			continue
		}
		version, err := w.disk.Version(s)
		if err != nil {
			w.t.Fatal(err)
		}
		first := len(order) > 0 && order[0].Path == e.Path
		return report.Report{Version: version, Slot: s, Trial: i < len(candidates)-1 && !first && s != report.SlotFallback}
	}
	w.t.Fatal("nothing boots")
	return report.Report{}
}

// running is the box between two boots.
type running struct {
	*world
	boot    report.Report
	daemon  *Daemon
	client  *localapi.Client
	marks   chan milestone.Mark
	reboots chan struct{}
	judged  chan struct{}
	off     func() // ends it
	peer    localapi.Peer
}

// lines hands milestones on.
type lines chan milestone.Mark

func (l lines) Write(p []byte) (int, error) {
	if m, ok := milestone.Parse(string(p)); ok {
		l <- m
	}
	return len(p), nil
}

// docs is a configuration with addresses of repositories.
type docs struct {
	mu  sync.Mutex
	doc *config.Document
	err error
}

func (d *docs) Current() (*config.Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.doc, nil
}

func (d *docs) Put(envelope []byte) (*config.Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	next := *d.doc
	next.Serial++
	next.Box = string(envelope)
	d.doc = &next
	return d.doc, nil
}

// on switches the box on; change may alter it before it starts.
func (w *world) on(change func(*running)) *running {
	w.t.Helper()
	r := &running{world: w, boot: w.pick(), marks: make(chan milestone.Mark, 100), reboots: make(chan struct{}, 1), judged: make(chan struct{}, 1),
		peer: localapi.Peer{UID: layout.UIDApid}}
	store := &docs{doc: &config.Document{Box: "sn-gw-01", Serial: 7, Management: config.Management{Updates: w.urls}}}
	record, err := audit.Open(filepath.Join(w.dir, "audit"))
	if err != nil {
		w.t.Fatal(err)
	}
	repos := repository.New(func() (config.Updates, error) {
		doc, err := store.Current()
		return doc.Management.Updates, err
	}, w.parties.Vendor.Root, w.parties.Owner.Root, filepath.Join(w.dir, "tuf"))
	log := slog.New(slog.DiscardHandler)
	r.daemon = &Daemon{
		Manager: &Manager{
			Disk: w.disk, Firmware: slot.Entries{Vars: w.vars, ESP: firmware.HardDrive{Number: 1, Start: 2048, Blocks: 1 << 20, GUID: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}},
			Releases: repos, Boot: r.boot, BoxName: func() string { doc, _ := store.Current(); return doc.Box },
			StateFile: filepath.Join(w.dir, "state.json"), Milestones: lines(r.marks), Log: log,
			Gate: func(context.Context) error {
				if w.sick[r.boot.Version] {
					return errors.New("relay: does not answer")
				}
				return nil
			},
			Reboot: func(context.Context) error { r.reboots <- struct{}{}; return nil },
			Judged: func() error { r.judged <- struct{}{}; return nil },
		},
		Applier: &Applier{Services: &manager{}, Network: idle, Relay: idle, Dir: w.t.TempDir(), Pending: filepath.Join(w.t.TempDir(), "pending"), Log: log, Milestones: lines(r.marks)},
		Store:   store, Power: &manager{}, Audit: record, Log: log,
		PeerOf: func(net.Conn) (localapi.Peer, error) { return r.peer, nil },
	}
	if change != nil {
		change(r)
	}
	r.run(record)
	return r
}

// run starts the daemon behind its socket.
func (r *running) run(record *audit.Log) {
	r.t.Helper()
	socket := filepath.Join(r.t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.daemon.Run(ctx, listener) }()
	r.client = localapi.Dial(socket, control.Codes()...)
	var once sync.Once
	r.off = func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-ended, record.Close()); err != nil {
				r.t.Error(err)
			}
		})
	}
	r.t.Cleanup(r.off)
}

// await waits for a milestone.
func (r *running) await(name string) milestone.Mark {
	r.t.Helper()
	timeout := time.After(waitLimit)
	for {
		select {
		case m := <-r.marks:
			if m.Name == name {
				return m
			}
		case <-timeout:
			r.t.Fatalf("no %s", name)
		}
	}
}

// rebooted waits until the daemon asked for a reboot, and switches off.
func (r *running) rebooted() *world {
	r.t.Helper()
	select {
	case <-r.reboots:
	case <-time.After(waitLimit):
		r.t.Fatal("no reboot")
	}
	r.off()
	return r.world
}

// settled waits until the boot is judged.
func (r *running) settled() *running {
	r.t.Helper()
	for {
		var s control.Status
		r.call(control.MethodStatus, nil, &s)
		if s.Progress.Phase == control.Idle {
			return r
		}
	}
}

func (r *running) call(method string, in, out any) {
	r.t.Helper()
	if err := r.client.Call(r.t.Context(), method, in, out); err != nil {
		r.t.Fatal(err)
	}
}

// start asks for an update as hosting does.
func (r *running) start(version string) error {
	return r.client.Call(r.t.Context(), control.MethodUpdate, control.UpdateStart{Version: version, Actor: "hosting/RSS"}, &control.Accepted{})
}

// deeds is the audit record as "action outcome".
func (w *world) deeds() []string {
	w.t.Helper()
	if _, _, err := audit.Verify(filepath.Join(w.dir, "audit")); err != nil {
		w.t.Error(err)
	}
	names, err := filepath.Glob(filepath.Join(w.dir, "audit", "*.jsonl"))
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			w.t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			_, action, _ := strings.Cut(line, `"action":"`)
			action, _, _ = strings.Cut(action, `"`)
			_, outcome, _ := strings.Cut(line, `"outcome":"`)
			outcome, _, _ = strings.Cut(outcome, `"`)
			out = append(out, action+" "+outcome)
		}
	}
	return out
}
