package update

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// TestFirstBootMakesEntries: firmware without entries boots the fallback.
func TestFirstBootMakesEntries(t *testing.T) {
	m := newMachine(t)
	m.rest()
	if diff := cmp.Diff([]report.Slot{report.SlotA, report.SlotFallback}, m.order); diff != "" {
		t.Error(diff)
	}
	if !m.judged || !strings.Contains(m.marks.String(), "updated.settled slot=a version=1.0") {
		t.Errorf("guard told to rest: %v, marks %q", m.judged, m.marks.String())
	}
	m.order = nil // the firmware loses them
	m.rest()
	if diff := cmp.Diff([]report.Slot{report.SlotA, report.SlotFallback}, m.order); diff != "" {
		t.Error(diff)
	}
}

// TestTrials: how each kind of release ends, and in how many boots.
func TestTrials(t *testing.T) {
	tests := []struct {
		behaviour string
		boots     []string // after the first
		order     []report.Slot
		why       string
	}{
		{healthy, []string{"b 2.0"}, []report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, ""},
		{sick, []string{"b 2.0", "a 1.0"}, []report.Slot{report.SlotA, report.SlotFallback}, "not healthy"},
		{shut, []string{"b 2.0", "a 1.0"}, []report.Slot{report.SlotA, report.SlotFallback}, "stayed locked: tpm-changed"},
		{foreign, []string{"a 1.0", "a 1.0", "a 1.0"}, []report.Slot{report.SlotA, report.SlotFallback}, "never came up in 3 trials"},
		{dead, []string{"b 2.0", "a 1.0", "b 2.0", "a 1.0", "b 2.0", "a 1.0"}, []report.Slot{report.SlotA, report.SlotFallback}, "never came up in 3 trials"},
	}
	for _, tt := range tests {
		t.Run(tt.behaviour, func(t *testing.T) {
			m := newMachine(t)
			m.rest()
			m.offers["2.0"] = image("2.0", tt.behaviour)
			m.boots = nil
			if m.power(install("")) {
				t.Fatal("no reboot was asked for")
			}
			m.rest()
			if diff := cmp.Diff(append([]string{"a 1.0"}, tt.boots...), m.boots); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.order, m.order); diff != "" {
				t.Error(diff)
			}
			s, err := loadState(m.stateFile)
			if err != nil {
				t.Fatal(err)
			}
			if tt.why == "" {
				if s.Blessed.Release != "2.0" || s.Spare.Release != "1.0" || m.files[report.SlotFallback] != m.files[report.SlotB] {
					t.Errorf("after a good trial: %+v", s)
				}
				return
			}
			if s.Blessed.Release != "1.0" || len(s.Failed) != 1 || !strings.Contains(s.Failed[0].Why, tt.why) {
				t.Errorf("after a bad trial: blessed %+v, failed %+v, want %q", s.Blessed, s.Failed, tt.why)
			}
			before := len(m.boots)
			m.power(func(u *Manager) error {
				_, err := u.Begin(t.Context(), "2.0")
				if !errors.Is(err, rollout.ErrFailedBefore) || !errors.Is(err, control.ErrRefused) || localapi.Remedy(err) == "" {
					t.Errorf("a failed release again: %v", err)
				}
				return nil
			})
			if len(m.boots) != before+1 {
				t.Error("a failed release was tried again")
			}
		})
	}
}

// TestTamperedSlotFailsAtOnce: the firmware refuses it, and it is not tried again.
func TestTamperedSlotFailsAtOnce(t *testing.T) {
	m := newMachine(t)
	m.rest()
	m.offers["2.0"] = image("2.0", healthy)
	m.boots = nil
	m.power(install(""))
	m.files[report.SlotB] = image("2.0", foreign)
	m.rest()
	if diff := cmp.Diff([]string{"a 1.0", "a 1.0"}, m.boots); diff != "" {
		t.Error(diff)
	}
	s, err := loadState(m.stateFile)
	if err != nil || len(s.Failed) != 1 || s.Failed[0].Why != changedFile {
		t.Errorf("failed: %+v, %v", s.Failed, err)
	}
}

// TestPowerCuts cuts the power before each step of an update, and before each
// second step after that, and looks what comes of it. The slot that is written
// holds a blessed release, as it does on every box after its first update.
func TestPowerCuts(t *testing.T) {
	for _, behaviour := range []string{healthy, sick, shut, fickle} {
		t.Run(behaviour, func(t *testing.T) {
			total := update(t, behaviour)
			if total < 15 {
				t.Fatalf("only %d steps; the test is blind", total)
			}
			for first := range total {
				update(t, behaviour, first)
				for second := first + 1; second < total+4; second++ {
					update(t, behaviour, first, second)
				}
			}
		})
	}
}

// update runs the update of a box with 2.0 in slot b and 1.0 as its spare to 3.0,
// with power cuts, and returns its steps.
func update(t *testing.T, behaviour string, cuts ...int) (steps int) {
	t.Helper()
	m := newMachine(t)
	m.rest()
	m.offers["2.0"] = image("2.0", healthy)
	m.power(install("2.0"))
	m.rest()
	m.offers["3.0"] = image("3.0", behaviour)
	m.steps, m.cuts, m.boots, m.gates = 0, cuts, nil, 0
	m.marks.Reset()
	for on := m.power(install("3.0")); !on; on = m.power(nil) {
		if err := m.sound(); err != nil {
			t.Fatalf("cuts %v: %v\n%s", cuts, err, m.marks.String())
		}
	}
	s, err := loadState(m.stateFile)
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	for _, b := range m.boots {
		if b == "a 3.0" {
			tries++
		}
	}
	// Each cut may cost a boot, but what failed never comes again.
	if limit := maxTries + len(cuts); tries > limit {
		t.Errorf("cuts %v: %d boots of the new release: %q", cuts, tries, m.boots)
	}
	blessed := strings.Count(m.marks.String(), "updated.blessed")
	good := behaviour == healthy || behaviour == fickle && !slices.Contains(s.failedNames(), "3.0")
	switch {
	case good && tries > 0:
		if m.running() != "a 3.0" || s.Blessed.Release != "3.0" || m.order[0] != report.SlotA {
			t.Errorf("cuts %v: runs %s, blessed %+v, order %v", cuts, m.running(), s.Blessed, m.order)
		}
	case m.running() != "b 2.0" || s.Blessed.Release != "2.0" || m.order[0] != report.SlotB || blessed != 0:
		t.Errorf("cuts %v: runs %s, blessed %+v, order %v, %d blessings\n%s", cuts, m.running(), s.Blessed, m.order, blessed, m.marks.String())
	}
	if !good && tries > 0 && !slices.Contains(s.failedNames(), "3.0") {
		t.Errorf("cuts %v: the release is not remembered as failed", cuts)
	}
	if err := m.sound(); err != nil || s.Trial != nil || m.note != (slot.Note{}) || m.files[report.SlotFallback] != m.files[s.Blessed.Slot] {
		t.Errorf("cuts %v: at rest: %v, trial %+v, note %+v, fallback %q", cuts, err, s.Trial, m.note, m.files[report.SlotFallback])
	}
	return m.steps
}

// TestPowerLostInEveryTrial: three tries, then it has failed.
func TestPowerLostInEveryTrial(t *testing.T) {
	m := newMachine(t)
	m.rest()
	m.offers["2.0"] = image("2.0", healthy)
	m.power(install(""))
	tries := 0
	for {
		s, _ := m.pick()
		m.next = s // pick took it
		if s == report.SlotB {
			if tries++; tries > maxTries {
				t.Fatal("a fourth try")
			}
			m.cuts = []int{m.steps} // in front of the gate
		}
		if m.power(nil) {
			break
		}
	}
	s, err := loadState(m.stateFile)
	if err != nil {
		t.Fatal(err)
	}
	if tries != maxTries || len(s.Failed) != 1 || !strings.Contains(s.Failed[0].Why, "3 trials ended without a verdict") {
		t.Errorf("%d tries, failed %+v", tries, s.Failed)
	}
}

// TestDamage: what somebody or the disk did to the slots.
func TestDamage(t *testing.T) {
	damaged := "1.0|rotten"
	tests := []struct {
		name    string
		damage  func(*machine)
		running string
		order   []report.Slot
		files   map[report.Slot]string // wanted afterwards
	}{
		{"blessed slot damaged", func(m *machine) { m.files[report.SlotB] = damaged }, "a 1.0",
			[]report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, map[report.Slot]string{report.SlotB: image("2.0", healthy)}},
		{"blessed slot and fallback damaged", func(m *machine) { m.files[report.SlotB], m.files[report.SlotFallback] = damaged, damaged }, "a 1.0",
			[]report.Slot{report.SlotA, report.SlotFallback}, map[report.Slot]string{report.SlotFallback: image("1.0", healthy)}},
		{"both slots gone", func(m *machine) { delete(m.files, report.SlotA); delete(m.files, report.SlotB) }, "fallback 2.0",
			[]report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, map[report.Slot]string{report.SlotB: image("2.0", healthy)}},
		{"entries lost", func(m *machine) { m.order = nil }, "fallback 2.0",
			[]report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, nil},
		{"spare chosen in the menu", func(m *machine) { m.next = report.SlotA }, "a 1.0",
			[]report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, nil},
		{"blessed slot swapped for another signed release", func(m *machine) { m.files[report.SlotB] = image("0.9", healthy) }, "b 2.0",
			[]report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, map[report.Slot]string{report.SlotB: image("2.0", healthy)}},
		{"spare swapped and chosen", func(m *machine) { m.files[report.SlotA], m.next = image("0.9", healthy), report.SlotA }, "b 2.0",
			[]report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.rest()
			m.offers["2.0"] = image("2.0", healthy)
			m.power(install(""))
			m.rest()
			tt.damage(m)
			m.rest()
			if m.running() != tt.running {
				t.Errorf("runs %s, want %s", m.running(), tt.running)
			}
			if diff := cmp.Diff(tt.order, m.order); diff != "" {
				t.Error(diff)
			}
			for s, want := range tt.files {
				if m.files[s] != want {
					t.Errorf("slot %s holds %q, want %q", s, m.files[s], want)
				}
			}
		})
	}
}

// TestTornFallbackIsNotTrusted: the power goes while the fallback is replaced, and
// the blessed slot rots. What is left is the spare, and a fallback to be made anew.
func TestTornFallbackIsNotTrusted(t *testing.T) {
	m := newMachine(t)
	m.rest()
	m.offers["2.0"] = image("2.0", healthy)
	m.tearFallback = true
	m.power(install(""))
	m.power(nil)
	if m.starts(report.SlotFallback) {
		t.Fatal("the fallback was not torn")
	}
	m.tearFallback = false
	m.files[report.SlotB] = "2.0|rotten"
	m.rest()
	if m.running() != "a 1.0" || m.files[report.SlotFallback] != image("1.0", healthy) {
		t.Errorf("runs %s, fallback %q", m.running(), m.files[report.SlotFallback])
	}
}

// TestFailedReleaseFromTheMenu: hosting can choose it in the firmware's menu; it
// does not stay.
func TestFailedReleaseFromTheMenu(t *testing.T) {
	m := newMachine(t)
	m.rest()
	m.offers["2.0"] = image("2.0", sick)
	m.power(install(""))
	m.rest()
	m.next, m.boots = report.SlotB, nil
	m.rest()
	if diff := cmp.Diff([]string{"b 2.0", "a 1.0"}, m.boots); diff != "" {
		t.Error(diff)
	}
}

// TestRefusals: what Begin says no to, and why.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name    string
		version string
		set     func(*machine)
		want    error
	}{
		{"unknown", "3.0", nil, ErrUnknown},
		{"nothing newer", "", func(m *machine) { m.offers = map[string]string{"1.0": "x", "0.9": "x"} }, ErrNothing},
		{"wrong box", "2.0", func(m *machine) { m.order2 = `{"boxes":["another"]}` }, rollout.ErrBox},
		{"wrong box, newest", "", func(m *machine) { m.order2 = `{"boxes":["another"]}` }, rollout.ErrBox},
		{"window over", "2.0", func(m *machine) { m.order2 = `{"boxes":["*"],"notAfter":"2020-01-01T00:00:00Z"}` }, rollout.ErrWindow},
		{"window to come", "2.0", func(m *machine) { m.order2 = `{"boxes":["*"],"notBefore":"2999-01-01T00:00:00Z"}` }, rollout.ErrWindow},
		{"older", "0.9", func(m *machine) { m.offers["0.9"] = "x" }, rollout.ErrOlder},
		{"same", "1.0", func(m *machine) { m.offers["1.0"] = "x" }, rollout.ErrSame},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMachine(t)
			m.offers["2.0"] = image("2.0", healthy)
			if tt.set != nil {
				tt.set(m)
			}
			on := m.power(func(u *Manager) error {
				if _, err := u.Begin(t.Context(), tt.version); !errors.Is(err, tt.want) || !errors.Is(err, control.ErrRefused) {
					t.Errorf("Begin: %v, want %v", err, tt.want)
				}
				if p := u.Status().Progress; p.Phase != control.Idle || p.Error == "" {
					t.Errorf("progress afterwards: %+v", p)
				}
				return nil
			})
			if _, written := m.files[report.SlotB]; !on || written {
				t.Error("something was done all the same")
			}
		})
	}
}

// TestBadDownloads: the slot stays empty, the box goes on, the next one works.
func TestBadDownloads(t *testing.T) {
	good := image("2.0", healthy)
	for name, file := range map[string]string{
		"tampered":      strings.Replace(good, healthy, "hfalthy", 1),
		"short":         good[:10],
		"empty":         "",
		"other version": image("2.1", healthy),
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.rest()
			m.offers["2.0"] = good
			served := file
			on := m.power(func(u *Manager) error {
				r, err := u.Begin(t.Context(), "")
				if err != nil {
					t.Fatal(err)
				}
				m.offers["2.0"] = served
				if name == "other version" { // the signed file itself is wrong
					offered, _, _ := m.List(t.Context(), time.Time{})
					r = offered[0]
				}
				if err := u.Install(t.Context(), r); err == nil {
					t.Error("installed")
				}
				if p := u.Status().Progress; p.Phase != control.Idle || p.Error == "" {
					t.Errorf("progress: %+v", p)
				}
				return nil
			})
			if !on || m.next != report.SlotUnknown || slices.Contains(m.order, report.SlotB) {
				t.Errorf("on %v, BootNext %q, order %v", on, m.next, m.order)
			}
			m.offers["2.0"] = good
			m.power(install(""))
			m.rest()
			if m.running() != "b 2.0" {
				t.Errorf("runs %s", m.running())
			}
		})
	}
}

// TestLockedBoxIsLeftAlone: nothing is written, and management goes on.
func TestLockedBoxIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	m.rest()
	m.files[report.SlotA] = image("1.0", shut)
	m.offers["2.0"] = image("2.0", healthy)
	m.steps = 0
	on := m.power(func(u *Manager) error {
		if _, err := u.Begin(t.Context(), ""); !errors.Is(err, ErrLocked) {
			t.Errorf("Begin: %v", err)
		}
		return nil
	})
	if !on || m.steps != 0 || !m.judged {
		t.Errorf("on %v, %d steps, guard at rest %v", on, m.steps, m.judged)
	}
}

// TestDamagedState: without it a failed release could come back. The box runs on,
// but takes no update, and blesses nothing.
func TestDamagedState(t *testing.T) {
	m := newMachine(t)
	m.rest()
	if err := os.WriteFile(m.stateFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := &Manager{Disk: m, Firmware: m, Releases: m, Boot: report.Report{Version: "1.0", Slot: report.SlotA}, StateFile: m.stateFile,
		Milestones: io.Discard, Judged: func() error { return errors.New("judged") }}
	if err := u.Start(t.Context()); err == nil {
		t.Fatal("started")
	}
	if _, err := u.Begin(t.Context(), ""); !errors.Is(err, ErrState) || localapi.Remedy(err) == "" {
		t.Errorf("Begin: %v", err)
	}
}

// TestStateOfEarlierReleases: what a release left on the disk opens for ever.
func TestStateOfEarlierReleases(t *testing.T) {
	s, err := loadState("testdata/state-1.json")
	if err != nil {
		t.Fatal(err)
	}
	if s.Blessed.Release != "1.0.0" || s.Spare.Slot != report.SlotB || s.Trial.Tries != 2 || s.Failed[0].Release != "0.9.0" || s.Last.Blessed || s.Newest.IsZero() {
		t.Errorf("%+v", s)
	}
	if _, err := loadState("testdata/state-2.json"); err == nil {
		t.Error("a later format was read")
	}
}

func TestOneUpdateAtATime(t *testing.T) {
	m := newMachine(t)
	m.offers["2.0"] = image("2.0", healthy)
	m.power(func(u *Manager) error {
		if _, err := u.Begin(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Begin(t.Context(), ""); !errors.Is(err, ErrRunning) {
			t.Errorf("a second one: %v", err)
		}
		return nil
	})
	idle := &Manager{Boot: report.Report{Version: "1.0"}}
	if _, err := idle.Begin(context.Background(), ""); !errors.Is(err, ErrRunning) {
		t.Errorf("before the boot was judged: %v", err)
	}
}
