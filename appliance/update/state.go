package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

const (
	stateVersion = 1
	statePerm    = 0o600
	maxState     = 256 << 10 // bytes
	maxFailed    = 50        // remembered failures, the oldest goes first
	// maxTries bounds the trials of one release that ended without a verdict.
	maxTries = 3
)

// state is what outlives a reboot: state.json in the daemon's folder.
type state struct {
	Version int `json:"version"`
	// Blessed is what the firmware boots first. It is nil only before the very
	// first boot was judged.
	Blessed *held `json:"blessed,omitempty"`
	// Spare is the other slot, if what lies there was blessed once: the firmware's
	// second choice. A slot that is being written, is on trial or has failed is
	// neither, and stands in no boot order.
	Spare *held `json:"spare,omitempty"`
	// Fallback is the SHA-256 of the fallback copy; empty while it is being replaced.
	Fallback string `json:"fallback,omitempty"`
	Trial    *trial `json:"trial,omitempty"`

	// Strays counts the reboots out of a release that was neither blessed nor on
	// trial, one after the other.
	Strays int `json:"strays,omitempty"`

	Failed []Failed `json:"failed,omitempty"`
	Last   *Outcome `json:"last,omitempty"`
	// Newest is the latest time seen at a blessing: the clock is never believed to
	// be before it.
	Newest time.Time `json:"newest,omitzero"`
}

// held is a release in a slot.
type held struct {
	Slot    report.Slot `json:"slot"`
	Release string      `json:"release"`
	SHA256  string      `json:"sha256"` // hex
}

// trial is a release that was written to a slot and is not blessed yet.
type trial struct {
	held
	Tries   int  `json:"tries"`   // boots of it that were asked for
	Reached bool `json:"reached"` // its own daemon ran at least once
}

// Failed is a release that this box will not try again.
type Failed struct {
	Release string    `json:"release"`
	Why     string    `json:"why"`
	At      time.Time `json:"at"`
}

// Outcome is how the last update ended.
type Outcome struct {
	Release string    `json:"release"`
	Blessed bool      `json:"blessed"`
	Why     string    `json:"why,omitempty"`
	At      time.Time `json:"at"`
}

// loadState reads the state; none is an empty one. A state that cannot be read
// is an error: without it a failed release could come back.
func loadState(path string) (state, error) {
	s := state{Version: stateVersion}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("update state: %w", err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return s, fmt.Errorf("update state: %w", err)
	}
	if info.Size() > maxState {
		return s, fmt.Errorf("update state: %d bytes, allowed are %d", info.Size(), maxState)
	}
	if err := json.NewDecoder(f).Decode(&s); err != nil {
		return s, fmt.Errorf("update state: %w", err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("update state: version %d, this release knows %d", s.Version, stateVersion)
	}
	if s.Trial != nil && s.Blessed == nil {
		return s, errors.New("update state: a trial without a blessed release to go back to")
	}
	return s, nil
}

func (s state) save(path string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	if err := durable.WriteFile(path, append(data, '\n'), statePerm); err != nil {
		return fmt.Errorf("update state: %w", err)
	}
	return nil
}

// clone copies the state so far that methods on the copy leave s alone.
func (s state) clone() state {
	if s.Trial != nil {
		t := *s.Trial
		s.Trial = &t
	}
	s.Failed = slices.Clone(s.Failed)
	return s
}

// fail remembers the release on trial as failed and ends the trial.
func (s *state) fail(why string, now time.Time) {
	s.Failed = append(s.Failed, Failed{s.Trial.Release, why, now})
	if extra := len(s.Failed) - maxFailed; extra > 0 {
		s.Failed = slices.Delete(s.Failed, 0, extra)
	}
	s.Last = &Outcome{Release: s.Trial.Release, Why: why, At: now}
	s.Trial = nil
}

// bless makes the release on trial the blessed one, and the one before the spare.
func (s *state) bless(now time.Time) {
	s.Last = &Outcome{Release: s.Trial.Release, Blessed: true, At: now}
	s.Spare, s.Blessed = s.Blessed, &s.Trial.held
	s.Trial = nil
	if now.After(s.Newest) {
		s.Newest = now
	}
}

func (s state) failedNames() []string {
	var out []string
	for _, f := range s.Failed {
		out = append(out, f.Release)
	}
	return out
}
