package queue

import (
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// stepFS calls a hook before every operation that changes the disk: create, write,
// sync, rename, remove, make a folder. The hook may look at the disk as a power
// cut at this instant would leave it, or answer with an error.
type stepFS struct {
	vfs.FS
	step func(op, name string) error
}

func (s *stepFS) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &stepFile{f, s, name}, nil
}

func (s *stepFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.step("create", name); err != nil {
		return nil, err
	}
	f, err := s.FS.Create(name, c)
	return s.file(name, f, err)
}

func (s *stepFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	if err := s.step("create", name); err != nil {
		return nil, err
	}
	f, err := s.FS.OpenReadWrite(name, c, o...)
	return s.file(name, f, err)
}

func (s *stepFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.step("rename", newname); err != nil {
		return nil, err
	}
	f, err := s.FS.ReuseForWrite(oldname, newname, c)
	return s.file(newname, f, err)
}

func (s *stepFS) OpenDir(name string) (vfs.File, error) {
	f, err := s.FS.OpenDir(name)
	return s.file(name, f, err)
}

func (s *stepFS) Link(oldname, newname string) error {
	if err := s.step("link", newname); err != nil {
		return err
	}
	return s.FS.Link(oldname, newname)
}

func (s *stepFS) Remove(name string) error {
	if err := s.step("remove", name); err != nil {
		return err
	}
	return s.FS.Remove(name)
}

func (s *stepFS) Rename(oldname, newname string) error {
	if err := s.step("rename", newname); err != nil {
		return err
	}
	return s.FS.Rename(oldname, newname)
}

func (s *stepFS) MkdirAll(name string, perm os.FileMode) error {
	if err := s.step("mkdir", name); err != nil {
		return err
	}
	return s.FS.MkdirAll(name, perm)
}

func (s *stepFS) Unwrap() vfs.FS { return s.FS }

type stepFile struct {
	vfs.File
	fs   *stepFS
	name string
}

func (f *stepFile) Write(p []byte) (int, error) {
	if err := f.fs.step("write", f.name); err != nil {
		if short, ok := errors.AsType[shortWrite](err); ok {
			n, _ := f.File.Write(p[:len(p)/2])
			return n, short.err
		}
		return 0, err
	}
	return f.File.Write(p)
}

// shortWrite makes a write stop half way. A nil err makes it lie about that.
type shortWrite struct{ err error }

func (shortWrite) Error() string { return "short write" }

func (f *stepFile) Sync() error {
	if err := f.fs.step("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *stepFile) SyncData() error {
	if err := f.fs.step("sync", f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}

func (f *stepFile) SyncTo(int64) (bool, error) { return false, nil }

func (f *stepFile) Close() error { return f.File.Close() }

// crashDisk is a crashable disk that takes pictures of itself.
type crashDisk struct {
	*stepFS
	mem  *vfs.MemFS
	book *ledger

	mu     sync.Mutex
	steps  int
	every  int // a picture before every n-th step
	offset int
	rng    *rand.Rand
	take   func(picture)
	off    atomic.Bool
	gone   map[string]bool // names removed or renamed away
}

// picture is the disk after a power cut, with what the callers knew at that time.
type picture struct {
	mem     *vfs.MemFS
	known   *ledger
	step    int
	op      string
	percent int // of the unsynced data that survived
}

var keptPercents = []int{0, 50, 100}

func newCrashDisk(mem *vfs.MemFS, seed uint64, every int, book *ledger, take func(picture)) *crashDisk {
	d := &crashDisk{mem: mem, book: book, every: every, take: take, rng: rand.New(rand.NewPCG(seed, 1)), gone: map[string]bool{}}
	d.offset = int(seed) % every
	d.stepFS = &stepFS{FS: mem, step: d.step}
	return d
}

// step takes a picture, in turns with none, half and all of the unsynced data
// kept. The book is locked meanwhile: what it calls acknowledged was so before the
// cut, and what is not begun in it cannot be on the disk.
func (d *crashDisk) step(op, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps++
	if d.off.Load() || (d.steps+d.offset)%d.every != 0 {
		return nil
	}
	percent := keptPercents[(d.steps/d.every)%len(keptPercents)]
	d.book.mu.Lock()
	known := d.book.copy()
	clone := d.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: d.rng})
	d.book.mu.Unlock()
	d.dropNames(clone, percent)
	d.take(picture{mem: clone, known: known, step: d.steps, op: op + " " + name, percent: percent})
	return nil
}

// dropNames makes removals that were not synced survive as well: CrashClone
// brings back every name that was synced once.
func (d *crashDisk) dropNames(clone *vfs.MemFS, percent int) {
	for name := range d.gone {
		if _, err := d.mem.Stat(name); err == nil {
			continue // made again
		}
		if d.rng.IntN(100) < percent && clone.Remove(name) == nil {
			_ = syncFolder(clone, clone.PathDir(name))
		}
	}
}

func (d *crashDisk) Remove(name string) error {
	return d.losing(name, d.stepFS.Remove(name))
}

func (d *crashDisk) Rename(oldname, newname string) error {
	return d.losing(oldname, d.stepFS.Rename(oldname, newname))
}

func (d *crashDisk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.stepFS.ReuseForWrite(oldname, newname, c)
	return f, d.losing(oldname, err)
}

func (d *crashDisk) losing(name string, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.gone[name] = true
	}
	return err
}

// faultDisk answers the n-th operation of the given kinds with an error.
type faultDisk struct {
	*stepFS
	kinds map[string]bool
	at    int64 // which one; 0 means none
	err   error
	stays bool // all later ones fail as well
	count atomic.Int64
	hits  atomic.Int64
}

func newFaultDisk(under vfs.FS, err error, stays bool, at int64, kinds ...string) *faultDisk {
	d := &faultDisk{kinds: map[string]bool{}, at: at, err: err, stays: stays}
	for _, kind := range kinds {
		d.kinds[kind] = true
	}
	d.stepFS = &stepFS{FS: under, step: d.step}
	return d
}

func (d *faultDisk) step(op, _ string) error {
	if !d.kinds[op] {
		return nil
	}
	n := d.count.Add(1)
	if d.at > 0 && (n == d.at || (d.stays && n > d.at)) {
		d.hits.Add(1)
		return d.err
	}
	return nil
}

// smallDisk has room for a number of bytes, counted by what is written and removed.
type smallDisk struct {
	*stepFS
	mu      sync.Mutex
	free    int64
	total   int64
	ballast int64
}

func newSmallDisk(under vfs.FS, size int64) *smallDisk {
	d := &smallDisk{free: size, total: size}
	d.stepFS = &stepFS{FS: under, step: func(string, string) error { return nil }}
	return d
}

func (d *smallDisk) spend(n int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.free < n {
		return false
	}
	d.free -= n
	return true
}

func (d *smallDisk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	if err != nil {
		return nil, err
	}
	return &smallFile{f, d}, nil
}

func (d *smallDisk) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.Remove(oldname); err != nil {
		return nil, err
	}
	return d.Create(newname, c)
}

func (d *smallDisk) Remove(name string) error {
	var size int64
	if info, err := d.FS.Stat(name); err == nil {
		size = info.Size()
	}
	err := d.FS.Remove(name)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free += size
	if d.FS.PathBase(name) == "ballast" {
		d.free += d.ballast
		d.ballast = 0
	}
	return nil
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return vfs.DiskUsage{AvailBytes: uint64(d.free), TotalBytes: uint64(d.total), UsedBytes: uint64(d.total - d.free)}, nil
}

type smallFile struct {
	vfs.File
	disk *smallDisk
}

func (f *smallFile) Write(p []byte) (int, error) {
	if !f.disk.spend(int64(len(p))) {
		return 0, syscall.ENOSPC
	}
	return f.File.Write(p)
}

func (f *smallFile) Preallocate(off, n int64) error {
	if !f.disk.spend(n) {
		return syscall.ENOSPC
	}
	f.disk.mu.Lock()
	f.disk.ballast += n
	f.disk.mu.Unlock()
	return nil
}
