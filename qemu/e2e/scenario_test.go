package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// Bounds of a scenario's waits, generous: the machines are shared and slow.
const (
	bootTime = 6 * time.Minute
	mailTime = 3 * time.Minute
	offTime  = 3 * time.Minute
)

// stage is what all scenarios share: the image, the world and a provisioned box
// that is switched off. It is made once, by the first scenario that asks.
type stage struct {
	images *Images
	image  *image.Result
	world  *World
	golden *vm.Machine
	first  []vm.Mark // what the golden box's first boots told
}

var theStage = struct {
	sync.Mutex
	*stage
	err error
}{}

func TestMain(m *testing.M) {
	code := m.Run()
	if s := theStage.stage; s != nil {
		if err := s.world.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// setting returns the stage; without QEMU it fails, or skips with SHORT=1.
func setting(t *testing.T) *stage {
	t.Helper()
	if os.Getenv("SHORT") == "1" {
		t.Skip("SHORT=1: scenarios in QEMU are skipped")
	}
	for _, program := range []string{"qemu-system-x86_64", "swtpm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("no %s: run `make setup`, or set SHORT=1", program)
		}
	}
	theStage.Lock()
	defer theStage.Unlock()
	if theStage.stage == nil && theStage.err == nil {
		theStage.stage, theStage.err = raise(t)
	}
	if theStage.err != nil {
		t.Fatal(theStage.err)
	}
	return theStage.stage
}

// outDir is where images of the scenarios lie.
const outDir = "../../build/e2e"

func raise(t *testing.T) (*stage, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	images, err := NewImages(outDir, logWriter{t})
	if err != nil {
		return nil, err
	}
	built, err := images.Build(ctx, "a", "0.1.0", nil)
	if err != nil {
		return nil, err
	}
	world, err := NewWorld(built, images.Keys, vm.ProbeKVM(ctx))
	if err != nil {
		return nil, err
	}
	s := &stage{images: images, image: built, world: world}
	if err := s.provision(ctx, t); err != nil {
		return nil, errors.Join(err, world.Close())
	}
	return s, nil
}

// provision makes the golden box and switches it off.
func (s *stage) provision(ctx context.Context, t *testing.T) error {
	seed, err := s.world.Seed("seed.img", 1, nil, nil)
	if err != nil {
		return err
	}
	m, err := s.world.NewMachine("golden", seed)
	if err != nil {
		return err
	}
	box, err := s.world.Provision(ctx, m, func(heading, format string, args ...any) {
		t.Logf("%s: %s", heading, fmt.Sprintf(format, args...))
	})
	if err != nil {
		return errors.Join(err, m.Cut())
	}
	if _, err := m.Serial().Wait(ctx, "updated.settled", nil); err != nil {
		return errors.Join(err, m.Cut())
	}
	s.first = m.Serial().Marks()
	if _, err := box.Pforte(ctx, "hosting", "power", "off"); err != nil {
		return errors.Join(err, m.Cut())
	}
	if err := m.WaitOff(ctx); err != nil {
		return errors.Join(fmt.Errorf("%w; last lines:\n%s", err, m.Serial().Tail(tailLines)), m.Cut())
	}
	m.SetSeed("")
	s.golden = m
	return nil
}

// logWriter passes a build's progress to the test's log.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// clone is a copy of the golden box that is cut when the test ends.
func (s *stage) clone(t *testing.T) *vm.Machine {
	t.Helper()
	m, err := s.golden.Clone(filepath.Join(s.world.Dir, RandomName()[:6]), s.world.NICs())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Cut(); err != nil {
			t.Error(err)
		}
		if t.Failed() && m.Serial() != nil {
			t.Logf("last lines of the serial port:\n%s", m.Serial().Tail(80))
		}
		if err := os.RemoveAll(filepath.Dir(m.DiskPath())); err != nil {
			t.Error(err)
		}
	})
	return m
}

// boot starts a machine and waits until relay and management answer.
func (s *stage) boot(t *testing.T, m *vm.Machine) *Box {
	t.Helper()
	ctx := within(t, bootTime)
	box, err := s.world.Boot(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Serial().Wait(ctx, "relayd.ready", nil); err != nil {
		t.Fatal(err)
	}
	return box
}

// within is a context with a bound, for one phase of a test.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// wait waits for a mark or fails the test.
func wait(t *testing.T, m *vm.Machine, name string, fits func(vm.Mark) bool) vm.Mark {
	t.Helper()
	mark, err := m.Serial().Wait(within(t, bootTime), name, fits)
	if err != nil {
		t.Fatal(err)
	}
	return mark
}

// find returns the first mark of a name among those seen.
func find(marks []vm.Mark, name string) (vm.Mark, bool) {
	for _, m := range marks {
		if m.Name == name {
			return m, true
		}
	}
	return vm.Mark{}, false
}

// field makes a condition: the mark's field has the value.
func field(key, value string) func(vm.Mark) bool {
	return func(m vm.Mark) bool { return m.Fields[key] == value }
}
