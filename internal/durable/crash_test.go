package durable_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

var errPower = errors.New("power is off")

// cutFS counts the steps taken on a crashable memory file system and, from step
// cut on, answers each with an error and changes nothing: the power is off. A
// step fails before it acts, so the cuts lie between any two steps.
type cutFS struct {
	mem   *vfs.MemFS
	steps int
	cut   int
}

func (c *cutFS) step() error {
	c.steps++
	if c.steps > c.cut {
		return errPower
	}
	return nil
}

func (c *cutFS) Create(name string, _ fs.FileMode) (durable.File, error) {
	if err := c.step(); err != nil {
		return nil, err
	}
	f, err := c.mem.Create(name, vfs.WriteCategoryUnspecified)
	return &cutFile{c, f}, err
}

func (c *cutFS) Rename(oldname, newname string) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.mem.Rename(oldname, newname)
}

func (c *cutFS) Remove(name string) error {
	if err := c.step(); err != nil {
		return err
	}
	return c.mem.Remove(name)
}

func (c *cutFS) Mkdir(name string, perm fs.FileMode) error {
	if err := c.step(); err != nil {
		return err
	}
	if _, err := c.mem.Stat(name); err == nil {
		return fs.ErrExist
	}
	if _, err := c.mem.Stat(path.Dir(name)); err != nil {
		return fs.ErrNotExist
	}
	return c.mem.MkdirAll(name, perm)
}

func (c *cutFS) SyncDir(dir string) error {
	if err := c.step(); err != nil {
		return err
	}
	d, err := c.mem.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

type cutFile struct {
	c *cutFS
	f vfs.File
}

func (f *cutFile) Write(p []byte) (int, error) {
	if err := f.c.step(); err != nil {
		return 0, err
	}
	return f.f.Write(p)
}

func (f *cutFile) Sync() error {
	if err := f.c.step(); err != nil {
		return err
	}
	return f.f.Sync()
}

func (f *cutFile) Close() error {
	if err := f.c.step(); err != nil {
		return err
	}
	return f.f.Close()
}

// TestPowerCutBetweenAnyTwoSteps replaces a file three times, in a folder made
// for it, and cuts the power at every step, with none, half and all of the
// unsynced data surviving. What was acknowledged is there; what was not is
// there whole or not at all.
func TestPowerCutBetweenAnyTwoSteps(t *testing.T) {
	versions := []string{strings.Repeat("first ", 2000), strings.Repeat("second ", 3000), "third"}
	for cut := 0; ; cut++ {
		fsys := &cutFS{mem: vfs.NewCrashableMem(), cut: cut}
		acknowledged, begun := replaceAll(fsys, versions)
		for _, percent := range []int{0, 50, 100} {
			for seed := range uint64(8) {
				cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(seed, 0))}
				if err := check(fsys.mem.CrashClone(cfg), versions, acknowledged, begun); err != nil {
					t.Fatalf("cut before step %d, %d%% kept, seed %d: %v", cut+1, percent, seed, err)
				}
			}
		}
		if fsys.steps <= cut {
			if acknowledged != len(versions) {
				t.Fatalf("without a cut %d of %d were acknowledged", acknowledged, len(versions))
			}
			return
		}
	}
}

// replaceAll returns how many versions were acknowledged and how many begun.
func replaceAll(fsys *cutFS, versions []string) (acknowledged, begun int) {
	if durable.MkdirAll(fsys, "/var/state", 0o700) != nil {
		return 0, 0
	}
	for _, v := range versions {
		begun++
		if durable.WriteFileFS(fsys, "/var/state/f", []byte(v), 0o600) != nil {
			return acknowledged, begun
		}
		acknowledged++
	}
	return acknowledged, begun
}

func check(mem *vfs.MemFS, versions []string, acknowledged, begun int) error {
	f, err := mem.Open("/var/state/f")
	if err != nil {
		if acknowledged == 0 && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("acknowledged %d: %w", acknowledged, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	for i := max(acknowledged-1, 0); i < begun; i++ {
		if string(data) == versions[i] {
			return nil
		}
	}
	return fmt.Errorf("found %d bytes, none of the versions %d to %d", len(data), acknowledged, begun)
}

// A failed step must reach the caller, and no fsync may be tried a second time.
func TestEachFailureIsReported(t *testing.T) {
	for cut := range 5 { // create, write, sync, close, rename; then the folder's sync
		fsys := &cutFS{mem: vfs.NewCrashableMem(), cut: cut + 1}
		if err := durable.WriteFileFS(fsys, "/f", []byte("x"), 0o600); !errors.Is(err, errPower) {
			t.Errorf("failure after step %d: got %v", cut+1, err)
		}
	}
}

func TestNoSecondSync(t *testing.T) {
	fsys := &failSync{cutFS: cutFS{mem: vfs.NewCrashableMem(), cut: 1 << 30}}
	w, err := durable.CreateFS(fsys, "/f", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := w.Commit(); !errors.Is(err, errPower) {
			t.Fatalf("Commit returned %v, want the sync's error", err)
		}
	}
	if fsys.syncs != 1 {
		t.Fatalf("%d fsyncs, want 1", fsys.syncs)
	}
}

type failSync struct {
	cutFS
	syncs int
}

func (f *failSync) Create(name string, perm fs.FileMode) (durable.File, error) {
	file, err := f.cutFS.Create(name, perm)
	return &failSyncFile{file, f}, err
}

type failSyncFile struct {
	durable.File
	fs *failSync
}

func (f *failSyncFile) Sync() error {
	f.fs.syncs++
	return errPower
}
