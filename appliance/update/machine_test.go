package update

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot"
	"gitlab.opencode.de/pforte/pforte/internal/release"
)

// image is a release's file: its version, how it behaves, and an end without
// which the firmware refuses it.
func image(version, behaviour string) string { return version + "|" + behaviour + "|whole" }

// Behaviours of releases.
const (
	healthy = "healthy"
	sick    = "sick"    // never gets healthy
	dead    = "dead"    // the firmware starts it, and nothing comes
	shut    = "shut"    // cannot open the data volume
	fickle  = "fickle"  // healthy when it is asked for the first time only
	foreign = "foreign" // the firmware refuses its signature
)

// powerCut ends a run of the daemon in the middle.
type powerCut struct{}

// machine is a box around the Manager: disk, firmware, power.
type machine struct {
	t         *testing.T
	files     map[report.Slot]string
	note      slot.Note
	order     []report.Slot
	next      report.Slot
	stateFile string

	cuts   []int // the steps (counted from 0) before which the power goes
	steps  int
	reboot bool
	// tearFallback cuts the power while the fallback is written.
	tearFallback bool
	marks        strings.Builder

	order2 string // the owner's order of what is offered
	offers map[string]string
	boots  []string // "slot version" of every boot
	judged bool
	gates  int // questions for the health
}

func newMachine(t *testing.T) *machine {
	a := image("1.0", healthy)
	return &machine{
		t: t, files: map[report.Slot]string{report.SlotA: a, report.SlotFallback: a},
		stateFile: filepath.Join(memory(t), "state.json"),
		order2:    `{"boxes":["box"]}`, offers: map[string]string{},
	}
}

// step is a point at which the power may go.
func (m *machine) step() {
	n := m.steps
	m.steps++
	if slices.Contains(m.cuts, n) {
		panic(powerCut{})
	}
}

// Hash and the rest implement Disk.
func (m *machine) Hash(s report.Slot) ([32]byte, int64, error) {
	f, ok := m.files[s]
	if !ok {
		return [32]byte{}, 0, fs.ErrNotExist
	}
	return sha256.Sum256([]byte(f)), int64(len(f)), nil
}

func (m *machine) Version(s report.Slot) (string, error) {
	f, ok := m.files[s]
	if !ok {
		return "", fs.ErrNotExist
	}
	v, _, _ := strings.Cut(f, "|")
	return v, nil
}

func (m *machine) Write(_ context.Context, s report.Slot, r io.Reader, length int64, want [32]byte, progress func(int64)) error {
	m.step()
	m.files[s] = ""
	m.step()
	data, err := io.ReadAll(r)
	if err != nil {
		delete(m.files, s)
		return err
	}
	m.files[s] = string(data[:len(data)/2])
	m.step()
	if m.tearFallback && s == report.SlotFallback {
		panic(powerCut{})
	}
	m.files[s] = string(data)
	m.step()
	if int64(len(data)) != length || sha256.Sum256(data) != want {
		delete(m.files, s)
		return slot.ErrContent
	}
	if progress != nil {
		progress(length)
	}
	return nil
}

func (m *machine) Copy(ctx context.Context, from, to report.Slot) ([32]byte, error) {
	sum, n, err := m.Hash(from)
	if err != nil || m.files[from] == m.files[to] {
		return sum, err
	}
	return sum, m.Write(ctx, to, strings.NewReader(m.files[from]), n, sum, nil)
}

func (m *machine) WriteNote(n slot.Note) error {
	m.step()
	m.note = slot.Note{} // torn
	m.step()
	m.note = n
	m.step()
	return nil
}

func (m *machine) ReadNote() (slot.Note, error) { return m.note, nil }

func (m *machine) ClearNote() error {
	m.step()
	m.note = slot.Note{}
	return nil
}

// Prefer and the rest implement Firmware.
func (m *machine) Prefer(slots ...report.Slot) error {
	if slices.Equal(m.order, slots) {
		return nil
	}
	m.step()
	m.order = slots
	m.step()
	return nil
}

func (m *machine) TryOnce(s report.Slot) error {
	m.step()
	m.next = s
	m.step()
	return nil
}

// List and Open implement Releases.
func (m *machine) List(context.Context, time.Time) ([]release.Release, []release.Refusal, error) {
	var out []release.Release
	for version, file := range m.offers {
		out = append(out, release.Release{Version: version, Epoch: 1, Length: int64(len(file)), SHA256: sha256.Sum256([]byte(file)),
			Name: release.Prefix + version + release.Suffix, Order: []byte(m.order2)})
	}
	slices.SortFunc(out, func(a, b release.Release) int { return release.Compare(a.Version, b.Version) })
	return out, nil, nil
}

func (m *machine) Open(_ context.Context, r release.Release) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(m.offers[r.Version])), nil
}

// boots reports whether the firmware starts what lies in a slot.
func (m *machine) starts(s report.Slot) bool {
	f := m.files[s]
	return strings.HasSuffix(f, "|whole") && !strings.Contains(f, "|"+foreign+"|")
}

// pick is the firmware: BootNext once, then BootOrder, then the fallback.
func (m *machine) pick() (s report.Slot, first bool) {
	if n := m.next; n != report.SlotUnknown {
		m.next = report.SlotUnknown
		if m.starts(n) {
			return n, len(m.order) > 0 && m.order[0] == n
		}
	}
	for i, s := range append(slices.Clone(m.order), report.SlotFallback) {
		if m.starts(s) {
			return s, i == 0
		}
	}
	m.t.Fatalf("nothing boots: order %v, files %q", m.order, m.files)
	return "", false
}

// power switches the machine on, lets the daemon do its work and then act, and
// reports whether the box now runs on; false means that it went down.
func (m *machine) power(act func(*Manager) error) (on bool) {
	m.t.Helper()
	s, first := m.pick()
	version, behaviour, _ := strings.Cut(m.files[s], "|")
	behaviour, _, _ = strings.Cut(behaviour, "|")
	m.boots = append(m.boots, string(s)+" "+version)
	if len(m.boots) > 60 {
		m.t.Fatalf("the box never comes to rest: %q\n%s", m.boots, m.marks.String())
	}
	if behaviour == dead {
		return false // the watchdog
	}
	m.reboot, m.judged = false, false
	defer func() {
		if p := recover(); p != nil {
			if _, cut := p.(powerCut); !cut {
				panic(p)
			}
			on = false
		}
	}()
	boot := report.Report{Version: version, Epoch: 1, Slot: s, Trial: s != report.SlotFallback && !first}
	if behaviour == shut {
		boot.Locked = &report.Fault{Code: "tpm-changed"}
	}
	manager := &Manager{
		Disk: m, Firmware: m, Releases: m, Boot: boot, StateFile: m.stateFile, Milestones: &m.marks,
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		BoxName: func() string { return "box" },
		Gate: func(context.Context) error {
			m.step()
			m.gates++
			if behaviour == sick || behaviour == fickle && m.gates > 1 {
				return errors.New("relay: does not answer")
			}
			return nil
		},
		Reboot: func(context.Context) error { m.step(); m.reboot = true; return nil },
		Judged: func() error { m.judged = true; return nil },
	}
	if err := manager.Start(m.t.Context()); err != nil {
		m.t.Errorf("boot of %s %s: %v", s, version, err)
	}
	if m.reboot {
		return false
	}
	if act != nil {
		if err := act(manager); err != nil {
			m.t.Logf("%v", err)
		}
	}
	return !m.reboot
}

// rest switches on until the box runs on.
func (m *machine) rest() {
	m.t.Helper()
	for !m.power(nil) {
	}
}

// running is slot and version of the last boot.
func (m *machine) running() string { return m.boots[len(m.boots)-1] }

// install is an act: one update.
func install(version string) func(*Manager) error {
	return func(m *Manager) error {
		r, err := m.Begin(context.Background(), version)
		if err != nil {
			return err
		}
		return m.Install(context.Background(), r)
	}
}

// sound checks what must hold while the power is off: what the firmware tries
// first is whole, and no slot in the order holds a release that failed.
func (m *machine) sound() error {
	s, err := loadState(m.stateFile)
	if err != nil {
		return err
	}
	for i, o := range m.order {
		if o == report.SlotFallback {
			continue
		}
		if !m.starts(o) {
			return fmt.Errorf("BootOrder %v names slot %s with %q", m.order, o, m.files[o])
		}
		version, _ := m.Version(o)
		if slices.Contains(s.failedNames(), version) {
			return fmt.Errorf("BootOrder %v: number %d is %s, which failed", m.order, i, version)
		}
	}
	return nil
}

// memory is a folder in which syncing costs nothing, if there is one: thousands
// of states are written.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "update")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
