// Package update puts releases on trial, blesses the healthy ones and leaves
// the others: design.md §8. It also brings a new configuration to the services,
// and holds the power switch: all that only updated may do.
//
// # Releases
//
// A release that vendor and owner both signed (internal/release) and that the
// owner's order allows here and now (internal/rollout) is written into the slot
// that is not blessed (appliance/update/slot). The firmware boots it once
// (BootNext). Its own daemon then waits for the health gate; if the box is
// healthy in time, the slot becomes the first in BootOrder and the fallback
// copy is replaced: the release is blessed. If not, the release is remembered as
// failed, never tried again, and the box reboots into the old slot, which was
// the firmware's first choice all along.
//
// A trial that ends without a verdict (power cut, hang and watchdog, firmware
// that refuses the file) finds the old release running with the trial still
// pending: it is repeated, three tries at most, then it has failed. A file that
// no longer has the hash that was written fails at once, and so does a release
// that could not unlock the data volume: it leaves a note (slot.Note), because
// it cannot reach the state.
//
// # Power cuts
//
// The order of writes makes a power cut between any two steps safe; each step may
// be repeated:
//
//   - update: the state forgets the slot as spare → the slot leaves BootOrder →
//     its file is written → the state names the trial → one more try is counted →
//     note → BootNext → reboot. Until the last step the blessed slot boots.
//   - verdict good: BootOrder → state → fallback copy. Cut after BootOrder, the
//     release is judged once more; cut before the copy is whole, it is made again.
//   - verdict bad: BootOrder (back) → state → note removed → reboot.
//
// So at every instant BootOrder leads to a whole release that was blessed, or, for
// the moment between the first two steps of a good verdict, found healthy; and no
// slot stands in BootOrder whose content was not. Start repairs what a cut or the
// firmware left: lost entries, a missing fallback, a damaged blessed slot.
//
// # Milestones
//
//	updated.ready slot= version= trial=     the daemon knows what this boot is
//	updated.trial slot= version= try=       the running release is on trial
//	updated.blessed slot= version=          it was healthy in time
//	updated.failed version= why=            a release failed and will not come back
//	updated.settled slot= version=          slots, boot order and fallback are in order
//	updated.restored slot= version=         a damaged blessed slot was made again
//	updated.stray slot= version=            what runs is neither blessed nor on trial
//	updated.applied serial= rebound=        every service follows the configuration
//
// # Not here
//
// What is asked by whom (roles, certificates) is apid's affair; who may call
// the daemon at all is declared at each method. Every deed is audited.
package update

import (
	"context"
	"encoding/hex"
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
)

// Disk keeps the releases: slot.Disk.
type Disk interface {
	Hash(report.Slot) (sum [32]byte, length int64, err error)
	Version(report.Slot) (string, error)
	Write(ctx context.Context, s report.Slot, r io.Reader, length int64, want [32]byte, progress func(int64)) error
	Copy(ctx context.Context, from, to report.Slot) (sum [32]byte, err error)

	WriteNote(slot.Note) error
	ReadNote() (slot.Note, error)
	ClearNote() error
}

// Firmware decides what boots: slot.Entries.
type Firmware interface {
	Prefer(slots ...report.Slot) error
	TryOnce(report.Slot) error
}

// Releases is where releases come from: appliance/update/repository.
type Releases interface {
	// List returns what both signed, newest last, and what is refused. notBefore is
	// the earliest time that it can be.
	List(ctx context.Context, notBefore time.Time) ([]release.Release, []release.Refusal, error)
	// Open starts the download of a release's file.
	Open(ctx context.Context, r release.Release) (io.ReadCloser, error)
}

// Manager is the update logic of one box. Its fields are set once. Start must be
// called once, first.
type Manager struct {
	Disk     Disk
	Firmware Firmware
	Releases Releases
	// Gate returns nil as soon as the box is healthy, or why it is not when ctx ends.
	Gate func(ctx context.Context) error
	// GateLimit is how long a release on trial has to become healthy; 0 means
	// DefaultGateLimit.
	GateLimit time.Duration
	// Reboot asks systemd to reboot, and returns at once.
	Reboot func(ctx context.Context) error
	// Verdict, if not nil, is told how a trial ended, once that is durable.
	Verdict func(Outcome)
	// Judged is told that this boot needs no further verdict: the trial guard may rest.
	Judged     func() error
	Boot       report.Report
	BoxName    func() string
	StateFile  string
	Milestones io.Writer
	Log        *slog.Logger

	mu       sync.Mutex
	state    state
	progress control.Progress
	started  bool  // Start came to an end
	fault    error // why updates are not possible; nil: they are
}

// DefaultGateLimit is shorter than the trial guard's time (appliance/units).
const DefaultGateLimit = 4 * time.Minute

// Start judges this boot: it repairs what the firmware or a power cut left,
// blesses or fails a release on trial, or repeats a trial that ended without a
// verdict. It returns when the verdict is in; a reboot that it asked for
// follows. After an error no update is possible until the next start.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	m.progress.Phase = control.Judging
	m.mu.Unlock()
	err := m.start(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.progress.Phase != control.Rebooting {
		m.progress.Phase = control.Idle
	}
	m.started, m.fault = true, err
	return err
}

func (m *Manager) start(ctx context.Context) error {
	if m.Boot.Locked != nil {
		return m.locked(ctx)
	}
	s, err := loadState(m.StateFile)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.state = s
	m.mu.Unlock()
	m.mark("updated.ready", "slot", m.Boot.Slot, "version", m.Boot.Version, "trial", s.Trial != nil)
	switch {
	case s.Trial == nil:
		return m.settle(ctx)
	case s.Trial.Slot == m.Boot.Slot && s.Trial.Release == m.Boot.Version:
		return m.judge(ctx)
	default:
		return m.again(ctx)
	}
}

// locked is a boot without the data volume: the state is out of reach. A release
// on trial that cannot open the volume has failed; the note tells both that it is
// on trial and, to the old release, why it failed. In any other locked boot
// nothing is changed: management answers and says why.
func (m *Manager) locked(ctx context.Context) error {
	m.mark("updated.ready", "slot", m.Boot.Slot, "version", m.Boot.Version, "locked", true)
	note, err := m.Disk.ReadNote()
	onTrial := err == nil && m.Boot.Trial && note.Why == "" && note.Slot == m.Boot.Slot && note.Release == m.Boot.Version
	if !onTrial {
		m.judged()
		return err
	}
	note.Why = "the data volume stayed locked: " + m.Boot.Locked.Code
	if err := m.Disk.WriteNote(note); err != nil {
		m.Log.Error("the old release will not learn why this one failed", "error", err)
	}
	m.mark("updated.failed", "version", note.Release, "why", note.Why)
	return m.reboot(ctx)
}

// judge is the boot of a release on trial.
func (m *Manager) judge(ctx context.Context) error {
	if err := m.change(func(s *state) { s.Trial.Reached = true }); err != nil {
		return err
	}
	s := m.snapshot()
	t := s.Trial
	m.mark("updated.trial", "slot", t.Slot, "version", t.Release, "try", t.Tries)
	if why := m.unfit(ctx, t); why != "" {
		if ctx.Err() != nil { // stopped, not judged
			return ctx.Err()
		}
		return m.reject(ctx, why)
	}
	if err := m.prefer(t.Slot, s.Blessed); err != nil {
		return err
	}
	if err := m.change(func(s *state) { s.bless(time.Now().UTC()) }); err != nil {
		return err
	}
	m.mark("updated.blessed", "slot", t.Slot, "version", t.Release)
	m.tell()
	m.judged()
	if err := m.Disk.ClearNote(); err != nil {
		m.Log.Warn("the note of an ended trial stays", "error", err)
	}
	return m.finish(ctx)
}

// unfit says why the running release on trial cannot be blessed, "" if it can.
func (m *Manager) unfit(ctx context.Context, t *trial) string {
	limit := m.GateLimit
	if limit == 0 {
		limit = DefaultGateLimit
	}
	gate, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := m.Gate(gate); err != nil {
		return fmt.Sprintf("not healthy within %s: %v", limit, err)
	}
	if !m.holds(&t.held) {
		return changedFile
	}
	return ""
}

const changedFile = "the file in its slot is not the one that was written"

// reject ends the running trial and goes back to the blessed slot. The firmware
// comes first: a power cut must not leave it preferring what has failed.
func (m *Manager) reject(ctx context.Context, why string) error {
	s := m.snapshot()
	if err := m.prefer(s.Blessed.Slot, s.Spare); err != nil {
		m.Log.Error("the boot order could not be written; it names the old slot unless the power failed before", "error", err)
	}
	if err := m.failed(why); err != nil {
		return err
	}
	return m.reboot(ctx)
}

// failed records that the release on trial has failed.
func (m *Manager) failed(why string) error {
	t := m.snapshot().Trial
	if err := m.change(func(s *state) { s.fail(why, time.Now().UTC()) }); err != nil {
		return err
	}
	m.mark("updated.failed", "slot", t.Slot, "version", t.Release, "why", why)
	m.tell()
	if err := m.Disk.ClearNote(); err != nil {
		m.Log.Warn("the note of an ended trial stays", "error", err)
	}
	return nil
}

// tell reports the last verdict.
func (m *Manager) tell() {
	if last := m.snapshot().Last; m.Verdict != nil && last != nil {
		m.Verdict(*last)
	}
}

// again is a boot of another release than the one whose trial is pending.
func (m *Manager) again(ctx context.Context) error {
	s := m.snapshot()
	t := s.Trial
	note, err := m.Disk.ReadNote()
	if err != nil {
		m.Log.Warn("no word from the trial", "error", err)
	}
	why := ""
	switch {
	case note.Slot == t.Slot && note.Release == t.Release && note.Why != "":
		why = note.Why
	case !m.holds(&t.held):
		why = changedFile
	case t.Tries >= maxTries && t.Reached:
		why = fmt.Sprintf("%d trials ended without a verdict", t.Tries)
	case t.Tries >= maxTries:
		why = fmt.Sprintf("it never came up in %d trials", t.Tries)
	}
	if why == "" {
		return m.try(ctx)
	}
	if err := m.failed(why); err != nil {
		return err
	}
	return m.settle(ctx)
}

// try asks for one boot of the release on trial. The try is counted before it
// begins.
func (m *Manager) try(ctx context.Context) error {
	if err := m.change(func(s *state) { s.Trial.Tries++ }); err != nil {
		return err
	}
	t := m.snapshot().Trial
	if err := m.Disk.WriteNote(slot.Note{Slot: t.Slot, Release: t.Release}); err != nil {
		return err
	}
	if err := m.Firmware.TryOnce(t.Slot); err != nil {
		return err
	}
	return m.reboot(ctx)
}

// reboot asks for a reboot. Nothing else is begun after that.
func (m *Manager) reboot(ctx context.Context) error {
	m.mu.Lock()
	m.progress.Phase = control.Rebooting
	m.mu.Unlock()
	if err := m.Reboot(ctx); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}

// prefer writes the boot order: a slot, the spare if there is one, the fallback.
func (m *Manager) prefer(first report.Slot, spare *held) error {
	order := []report.Slot{first}
	if spare != nil && spare.Slot != first {
		order = append(order, spare.Slot)
	}
	return m.Firmware.Prefer(append(order, report.SlotFallback)...)
}

// holds reports whether a slot's file is what the state says.
func (m *Manager) holds(h *held) bool {
	sum, _, err := m.Disk.Hash(h.Slot)
	return err == nil && hex.EncodeToString(sum[:]) == h.SHA256
}

// change alters the state and makes it durable; on an error the old one stands.
func (m *Manager) change(f func(*state)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.state.clone()
	f(&next)
	if err := next.save(m.StateFile); err != nil {
		return err
	}
	m.state = next
	return nil
}

// snapshot is the state of now; the caller does not change it.
func (m *Manager) snapshot() state {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *Manager) mark(name string, kv ...any) { milestone.Print(m.Milestones, name, kv...) }
