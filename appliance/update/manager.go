// Package update puts releases on trial, blesses the healthy ones and leaves
// the others: design.md §8.
//
// A release that vendor and owner both signed (internal/release) and that the
// owner's order allows here and now (internal/rollout) is written into the slot
// that does not run (appliance/update/slot). The firmware boots it once
// (BootNext). Its own daemon then waits for the health gate; if the box is
// healthy in time, the slot becomes the first in BootOrder and the fallback
// copy is replaced: the release is blessed. If not, the release is remembered as
// failed, never tried again, and the box reboots into the old slot, which was
// the firmware's first choice all along.
//
// A trial that ends without a verdict (power cut, hang and watchdog, firmware
// that refuses the file) finds the old release running with the trial still
// pending: it is repeated, three tries at most, then it has failed. A file that
// no longer has the hash that was written fails at once.
//
// The order of writes makes every power cut safe: the slot is complete before
// the state names a trial; the state names the trial before BootNext; BootOrder
// is changed before the state forgets the trial; the fallback copy comes last.
// Each step may be repeated.
//
// What is asked by whom (roles, certificates) is apid's affair; who may call
// the daemon at all is control's. Every deed is audited.
package update

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/release"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

const (
	// GateLimit is how long a release on trial has to become healthy.
	GateLimit = 4 * time.Minute
	// downloadLimit bounds fetching one release.
	downloadLimit = 30 * time.Minute
)

// Slots is the disk's side: appliance/update/slot.Disk.
type Slots interface {
	Hash(report.Slot) (sum [32]byte, length int64, err error)
	Write(ctx context.Context, s report.Slot, r io.Reader, length int64, want [32]byte, progress func(int64)) error
	Fallback(ctx context.Context, s report.Slot) error
	Home() report.Slot
	Version(report.Slot) (string, error)
	Sweep() error
}

// Firmware is the firmware's side: appliance/update/slot.Entries.
type Firmware interface {
	Prefer(report.Slot) error
	TryOnce(report.Slot) error
	First() (report.Slot, error)
}

// Releases is where releases come from.
type Releases interface {
	// List returns what both signed, and what is refused. notBefore is the
	// earliest time that it can be.
	List(ctx context.Context, notBefore time.Time) ([]release.Release, []release.Refusal, error)
	// Open starts the download of a release's file.
	Open(ctx context.Context, r release.Release) (io.ReadCloser, error)
}

// Manager is the update logic of one box. Boot must be called once, first.
type Manager struct {
	Slots    Slots
	Firmware Firmware
	Releases Releases
	// Gate returns nil as soon as the box is healthy, or why it is not when ctx ends.
	Gate func(ctx context.Context) error
	// Reboot asks systemd to reboot, and returns at once.
	Reboot func() error
	// Blessed is told that the running release was blessed (or needs no blessing).
	Blessed    func()
	Boot       report.Report
	BoxName    func() string
	StateFile  string
	Milestones io.Writer
	Log        *slog.Logger

	mu       sync.Mutex
	state    state
	progress control.Progress
}

// running is the slot whose content runs: the booted one, or the one that
// equals the booted fallback.
func (m *Manager) running() report.Slot {
	if m.Boot.Slot == report.SlotA || m.Boot.Slot == report.SlotB {
		return m.Boot.Slot
	}
	return m.Slots.Home()
}

// Start judges this boot: it repairs the firmware's entries, blesses or fails a
// release on trial, or repeats a trial that ended without a verdict. It returns
// when the verdict is in; a reboot that it asked for follows.
func (m *Manager) Start(ctx context.Context) error {
	s, err := loadState(m.StateFile)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.state = s
	m.mu.Unlock()
	if err := m.Slots.Sweep(); err != nil {
		m.Log.Warn("leftovers of an unfinished update stay", "error", err)
	}
	milestone.Print(m.Milestones, "updated.ready", "slot", m.Boot.Slot, "version", m.Boot.Version, "trial", s.Trial != nil)
	switch {
	case s.Trial == nil:
		return m.settle()
	case s.Trial.Slot == m.Boot.Slot && s.Trial.Release == m.Boot.Version:
		return m.judge(ctx)
	default:
		return m.again()
	}
}

// settle is an ordinary boot: the running slot leads the firmware's order.
func (m *Manager) settle() error {
	m.Blessed()
	first, err := m.Firmware.First()
	if err != nil {
		return err
	}
	running := m.running()
	if first == running {
		return nil
	}
	m.Log.Info("the firmware's boot order is set again", "slot", running, "was", first)
	return m.Firmware.Prefer(running)
}

// judge is the boot of a release on trial.
func (m *Manager) judge(ctx context.Context) error {
	err := m.change(func(s *state) { s.Trial.Reached = true })
	if err != nil {
		return err
	}
	t := *m.snapshot().Trial
	milestone.Print(m.Milestones, "updated.trial", "slot", t.Slot, "version", t.Release, "try", t.Tries)
	gate, cancel := context.WithTimeout(ctx, GateLimit)
	defer cancel()
	if unhealthy := m.Gate(gate); unhealthy != nil {
		if ctx.Err() != nil { // stopped, not judged
			return ctx.Err()
		}
		return m.reject(fmt.Sprintf("not healthy within %s: %v", GateLimit, unhealthy))
	}
	if err := m.Firmware.Prefer(t.Slot); err != nil {
		return err
	}
	if err := m.change(func(s *state) { s.bless(time.Now().UTC()) }); err != nil {
		return err
	}
	m.Blessed()
	milestone.Print(m.Milestones, "updated.blessed", "slot", t.Slot, "version", t.Release)
	if err := m.Slots.Fallback(ctx, t.Slot); err != nil {
		return fmt.Errorf("replace the fallback copy: %w", err)
	}
	milestone.Print(m.Milestones, "updated.settled", "slot", t.Slot, "version", t.Release)
	return nil
}

// reject ends the running trial and goes back to the old slot.
func (m *Manager) reject(why string) error {
	failed := m.snapshot().Trial.Release
	if err := m.change(func(s *state) { s.fail(why, time.Now().UTC()) }); err != nil {
		return err
	}
	milestone.Print(m.Milestones, "updated.failed", "version", failed, "why", why)
	return m.Reboot()
}

// again is a boot of the old release with a trial still pending.
func (m *Manager) again() error {
	t := *m.snapshot().Trial
	why := ""
	if sum, _, err := m.Slots.Hash(t.Slot); err != nil || hex.EncodeToString(sum[:]) != t.SHA256 {
		why = "the file in its slot is not the one that was written"
	} else if t.Tries >= maxTries {
		why = fmt.Sprintf("%d trials ended without a verdict", t.Tries)
		if !t.Reached {
			why = fmt.Sprintf("it never came up in %d trials", t.Tries)
		}
	}
	if why == "" {
		return m.try(t)
	}
	if err := m.change(func(s *state) { s.fail(why, time.Now().UTC()) }); err != nil {
		return err
	}
	milestone.Print(m.Milestones, "updated.failed", "version", t.Release, "why", why)
	return m.settle()
}

// try asks for one boot of the release on trial.
func (m *Manager) try(t trial) error {
	if err := m.change(func(s *state) { s.Trial.Tries++ }); err != nil {
		return err
	}
	if err := m.Firmware.TryOnce(t.Slot); err != nil {
		return err
	}
	return m.Reboot()
}

// Errors of Update, besides those of package rollout.
var (
	ErrLocked  = errors.New("the box is locked")
	ErrRunning = errors.New("an update is under way")
	ErrUnknown = errors.New("no such release is signed by both vendor and owner")
)

// Update installs a release (or, with an empty version, the newest that is
// allowed), puts it on trial and asks for the reboot. It returns when the
// reboot was asked for, or why not; nothing has changed then but the content of
// the slot that does not run.
func (m *Manager) Update(ctx context.Context, version string) error {
	if err := m.begin(); err != nil {
		return err
	}
	err := m.install(ctx, version)
	m.mu.Lock()
	m.progress.Phase = control.Idle
	if err != nil {
		m.progress.Error = err.Error()
	}
	m.mu.Unlock()
	return err
}

func (m *Manager) begin() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.Boot.Locked != nil:
		return fmt.Errorf("%w: %s", ErrLocked, m.Boot.Locked.English)
	case m.progress.Phase != "" && m.progress.Phase != control.Idle, m.state.Trial != nil:
		return ErrRunning
	}
	m.progress = control.Progress{Phase: control.Checking}
	return nil
}

func (m *Manager) install(ctx context.Context, version string) error {
	ctx, cancel := context.WithTimeout(ctx, downloadLimit)
	defer cancel()
	r, err := m.Choose(ctx, version)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.progress = control.Progress{Phase: control.Downloading, Release: r.Version, Bytes: 0, Of: r.Length}
	m.mu.Unlock()
	into := slot.Other(m.running())
	file, err := m.Releases.Open(ctx, r)
	if err != nil {
		return fmt.Errorf("fetch release %s: %w", r.Version, err)
	}
	defer func() { _ = file.Close() }()
	if err := m.Slots.Write(ctx, into, file, r.Length, r.SHA256, m.downloaded); err != nil {
		return fmt.Errorf("write release %s: %w", r.Version, err)
	}
	t := trial{Release: r.Version, Epoch: r.Epoch, SHA256: hex.EncodeToString(r.SHA256[:]), Slot: into}
	if err := m.change(func(s *state) { s.Trial = &t }); err != nil {
		return err
	}
	return m.try(t)
}

func (m *Manager) downloaded(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.Bytes = n
}

// Choose finds the release to install: the named one, or the newest that the
// owner's order allows here and now.
func (m *Manager) Choose(ctx context.Context, version string) (release.Release, error) {
	s := m.snapshot()
	signed, refused, err := m.Releases.List(ctx, s.Newest)
	if err != nil {
		return release.Release{}, err
	}
	var newest *release.Release
	var last error
	for i, r := range signed {
		if version != "" && r.Version != version {
			continue
		}
		if err := m.allowed(r, s); err != nil {
			last = err
			continue
		}
		newest = &signed[i]
	}
	if newest != nil {
		return *newest, nil
	}
	for _, f := range refused {
		if version != "" && f.Name == release.Prefix+version+release.Suffix {
			return release.Release{}, fmt.Errorf("release %s: %w", version, f.Err)
		}
	}
	if last != nil {
		return release.Release{}, last
	}
	return release.Release{}, fmt.Errorf("%w: %q", ErrUnknown, version)
}

// allowed asks the owner's order.
func (m *Manager) allowed(r release.Release, s state) error {
	order, err := rollout.Parse(r.Order)
	if err != nil {
		return fmt.Errorf("release %s: %w", r.Version, err)
	}
	now := time.Now()
	if now.Before(s.Newest) {
		now = s.Newest
	}
	return rollout.Decide(order, rollout.Candidate{Version: r.Version, Epoch: r.Epoch}, rollout.Box{
		Name: m.BoxName(), Version: m.Boot.Version, Epoch: uint64(m.Boot.Epoch), Failed: s.failedNames(), Now: now,
	})
}

// change alters the state and makes it durable; on an error the old one stands.
func (m *Manager) change(f func(*state)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.state
	if m.state.Trial != nil {
		t := *m.state.Trial
		next.Trial = &t
	}
	next.Failed = append([]Failed(nil), m.state.Failed...)
	f(&next)
	if err := next.save(m.StateFile); err != nil {
		return err
	}
	m.state = next
	return nil
}

func (m *Manager) snapshot() state {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// Status is what the control socket answers.
func (m *Manager) Status() control.Status {
	s := m.snapshot()
	out := control.Status{Boot: m.Boot, Slots: map[string]string{}}
	for _, name := range []report.Slot{report.SlotA, report.SlotB, report.SlotFallback} {
		version, err := m.Slots.Version(name)
		if err != nil {
			version = ""
		}
		out.Slots[string(name)] = version
	}
	if s.Trial != nil {
		out.Trial = s.Trial.Release
	}
	for _, f := range s.Failed {
		out.Failed = append(out.Failed, control.Failed(f))
	}
	if s.Last != nil {
		last := control.Outcome(*s.Last)
		out.Last = &last
	}
	m.mu.Lock()
	out.Progress = m.progress
	m.mu.Unlock()
	return out
}
