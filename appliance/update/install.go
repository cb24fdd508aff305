package update

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/release"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// installLimit bounds fetching and writing one release.
const installLimit = 30 * time.Minute

// Errors of Begin and List, besides those of packages release and rollout. Each
// comes wrapped in control.ErrRefused, what concerns the repositories in
// control.ErrSource, with a remedy (localapi.Remedy).
var (
	ErrLocked  = errors.New("the box is locked")
	ErrRunning = errors.New("an update is under way")
	ErrState   = errors.New("updates are not possible since this start")
	ErrUnknown = errors.New("no such release is signed by both vendor and owner")
	ErrNothing = errors.New("no newer release is signed by both vendor and owner")
)

// refused makes a refusal of err.
func refused(err error, remedy string) error {
	err = fmt.Errorf("%w: %w", control.ErrRefused, err)
	if remedy == "" {
		return err
	}
	return localapi.WithRemedy(err, remedy)
}

// Begin chooses a release, the named one or with an empty version the newest
// that is allowed and newer than what runs, and reserves the Manager for its
// Install. Nothing has changed then, and after an error nothing is reserved.
func (m *Manager) Begin(ctx context.Context, version string) (release.Release, error) {
	if err := m.reserve(); err != nil {
		return release.Release{}, err
	}
	r, err := m.choose(ctx, version)
	if err != nil {
		m.progressed(control.Progress{Phase: control.Idle, Error: err.Error()})
		return release.Release{}, err
	}
	m.progressed(control.Progress{Phase: control.Downloading, Release: r.Version, Of: r.Length})
	return r, nil
}

// reserve makes this the one update under way.
func (m *Manager) reserve() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.Boot.Locked != nil:
		return refused(fmt.Errorf("%w: %s", ErrLocked, m.Boot.Locked.English), "")
	case m.started && m.fault != nil && m.progress.Phase == control.Idle:
		return refused(fmt.Errorf("%w: %w", ErrState, m.fault), "restart the box; if it stays so, send the log to the vendor")
	case !m.started || m.progress.Phase != control.Idle || m.state.Trial != nil:
		return refused(ErrRunning, "wait until the status shows how it ended")
	}
	m.progress = control.Progress{Phase: control.Checking}
	return nil
}

func (m *Manager) phase() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.progress.Phase
}

func (m *Manager) progressed(p control.Progress) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress = p
}

// choose finds the release to install.
func (m *Manager) choose(ctx context.Context, version string) (release.Release, error) {
	s := m.snapshot()
	signed, bad, err := m.Releases.List(ctx, s.Newest)
	if err != nil {
		return release.Release{}, unusable(err)
	}
	if version == "" {
		return m.newest(signed, s)
	}
	for _, r := range signed {
		if r.Version == version {
			return r, m.allowed(r, s)
		}
	}
	for _, f := range bad {
		if f.Name == release.Prefix+version+release.Suffix {
			return release.Release{}, refused(fmt.Errorf("release %s: %w", version, f.Err), "vendor and owner must both sign the same file")
		}
	}
	return release.Release{}, refused(fmt.Errorf("%w: %q", ErrUnknown, version), "look at the list of releases")
}

func unusable(err error) error {
	return localapi.WithRemedy(fmt.Errorf("%w: %w", control.ErrSource, err), "check that the repositories can be reached and that what they hold has not expired")
}

// newest is the newest release that is allowed and newer than the running one,
// or why the newest is not allowed.
func (m *Manager) newest(signed []release.Release, s state) (release.Release, error) {
	var why error
	for i := len(signed) - 1; i >= 0; i-- {
		r := signed[i]
		epoch := uint64(m.Boot.Epoch)
		if r.Epoch < epoch || r.Epoch == epoch && release.Compare(r.Version, m.Boot.Version) <= 0 {
			break // and all before it
		}
		err := m.allowed(r, s)
		if err == nil {
			return r, nil
		}
		if why == nil {
			why = err
		}
	}
	if why == nil {
		why = refused(ErrNothing, "")
	}
	return release.Release{}, why
}

// allowed asks the owner's order.
func (m *Manager) allowed(r release.Release, s state) error {
	order, err := rollout.Parse(r.Order)
	if err != nil {
		return refused(fmt.Errorf("release %s: %w", r.Version, err), "the owner must sign a valid order")
	}
	now := time.Now()
	if now.Before(s.Newest) {
		now = s.Newest
	}
	err = rollout.Decide(order, rollout.Candidate{Version: r.Version, Epoch: r.Epoch}, rollout.Box{
		Name: m.BoxName(), Version: m.Boot.Version, Epoch: uint64(m.Boot.Epoch), Failed: s.failedNames(), Now: now,
	})
	if err != nil {
		return refused(fmt.Errorf("release %s: %w", r.Version, err), rollout.Remedy(err))
	}
	return nil
}

// List tells which releases may be installed here and now, and why others not.
func (m *Manager) List(ctx context.Context) (control.Releases, error) {
	s := m.snapshot()
	signed, bad, err := m.Releases.List(ctx, s.Newest)
	if err != nil {
		return control.Releases{}, unusable(err)
	}
	var out control.Releases
	for _, r := range signed {
		info := control.ReleaseInfo{Version: r.Version, Epoch: r.Epoch, SHA256: hex.EncodeToString(r.SHA256[:]), Length: r.Length}
		if err := m.allowed(r, s); err != nil {
			info.Why = err.Error()
			out.Refused = append(out.Refused, info)
			continue
		}
		out.Allowed = append(out.Allowed, info)
	}
	for _, f := range bad {
		out.Refused = append(out.Refused, control.ReleaseInfo{Version: versionOf(f.Name), Why: f.Err.Error()})
	}
	return out, nil
}

// versionOf takes a version out of a target's name.
func versionOf(name string) string {
	return strings.TrimSuffix(strings.TrimPrefix(name, release.Prefix), release.Suffix)
}

// Install fetches and writes the release that Begin chose, puts it on trial and
// asks for the reboot. After an error the slot that is not blessed is empty, and
// nothing else has changed.
func (m *Manager) Install(ctx context.Context, r release.Release) error {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	err := m.install(ctx, r)
	if err != nil {
		m.progressed(control.Progress{Phase: control.Idle, Release: r.Version, Error: err.Error()})
	}
	return err
}

func (m *Manager) install(ctx context.Context, r release.Release) error {
	blessed := m.snapshot().Blessed
	t := trial{held: held{Slot: other(blessed.Slot), Release: r.Version, SHA256: hex.EncodeToString(r.SHA256[:])}}
	if err := m.change(func(s *state) { s.Spare = nil }); err != nil {
		return err
	}
	if err := m.prefer(blessed.Slot, nil); err != nil {
		return err
	}
	if err := m.fetch(ctx, r, t.Slot); err != nil {
		return err
	}
	if err := m.change(func(s *state) { s.Trial = &t }); err != nil {
		return err
	}
	err := m.try(ctx)
	if err != nil && m.phase() != control.Rebooting { // the firmware was not told
		err = errors.Join(err, m.change(func(s *state) { s.Trial = nil }), m.Disk.ClearNote())
	}
	return err
}

// fetch writes a release into a slot.
func (m *Manager) fetch(ctx context.Context, r release.Release, into report.Slot) error {
	file, err := m.Releases.Open(ctx, r)
	if err != nil {
		return fmt.Errorf("fetch release %s: %w", r.Version, err)
	}
	defer func() { _ = file.Close() }()
	if err := m.Disk.Write(ctx, into, file, r.Length, r.SHA256, m.downloaded); err != nil {
		return fmt.Errorf("write release %s: %w", r.Version, err)
	}
	inside, err := m.Disk.Version(into)
	if err != nil {
		return fmt.Errorf("release %s: %w", r.Version, err)
	}
	if inside != r.Version {
		return fmt.Errorf("release %s: the file calls itself %q; the vendor must release it anew", r.Version, inside)
	}
	return nil
}

func (m *Manager) downloaded(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.Bytes = n
}

// Status is the Manager's part of what the control socket answers.
func (m *Manager) Status() control.Status {
	m.mu.Lock()
	s := m.state
	out := control.Status{Boot: m.Boot, Slots: map[string]string{}, Progress: m.progress}
	m.mu.Unlock()
	for _, name := range []report.Slot{report.SlotA, report.SlotB, report.SlotFallback} {
		version, err := m.Disk.Version(name)
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
	return out
}
