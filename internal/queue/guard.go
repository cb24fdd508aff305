package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guard watches every change that the queue makes to the disk. The first one
// that fails makes the store sick, before the caller even learns of it.
//
// Under the index it also freezes: the failed call never returns. Pebble's
// answer to a failed log write is to end the process, by log.Fatal or by a
// panic with a mutex half unlocked; but the relay must go on to answer 421, and
// nothing may be written after the first failure. So the goroutine is left
// standing, and every caller of ours waits on the sickness as well.
//
// A full disk is no sickness where Pebble can try again (tables), or where the
// sender can (bodies). Pebble tries again at once and for ever, so such a failure
// is answered with a pause. Tables that only tidy up (compaction) may use neither the ballast
// nor the last free space: those are for the log, and for tables that let go of
// logs (flush).
type guard struct {
	vfs.FS
	health *health
	freeze bool
	// plain is FS without the ballast, for compaction; nil where there is none.
	plain vfs.FS
	// tidy reports whether the disk has room for compaction.
	tidy func() bool
	// synced is told how long each fsync of a file took that brought mail.
	synced func(time.Duration)
}

// fullPause is how long Pebble waits before it tries again on a full disk.
const fullPause = time.Second

// compactionCategory is how Pebble labels the tables that compaction writes.
const compactionCategory = "pebble-compaction"

var _ vfs.FS = (*guard)(nil)

// check passes harmless results through.
func (g *guard) check(op, name string, err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return err
	}
	base := g.PathBase(name)
	if isFull(err) && !(g.freeze && isLog(base)) && !strings.HasPrefix(op, "sync") {
		if g.freeze {
			time.Sleep(fullPause)
		}
		return err
	}
	g.health.fail(fmt.Errorf("%s %s: %w", op, base, err))
	if g.freeze {
		select {}
	}
	return err
}

// isLog reports whether Pebble cannot go on when this file cannot be written.
func isLog(base string) bool {
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST") || strings.HasPrefix(base, "marker")
}

func (g *guard) file(op, name string, f vfs.File, err error) (vfs.File, error) {
	if err := g.check(op, name, err); err != nil {
		return nil, err
	}
	return &guardFile{File: f, guard: g, name: name}, nil
}

// Create implements vfs.FS.
func (g *guard) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := g.beforeMarker(name); err != nil {
		return nil, err
	}
	under := g.FS
	if g.plain != nil && c == compactionCategory {
		if under = g.plain; !g.tidy() {
			return nil, g.check("create", name, syscall.ENOSPC)
		}
	}
	f, err := under.Create(name, c)
	return g.file("create", name, f, err)
}

// beforeMarker syncs the index's folder before a marker comes or goes. Pebble moves
// to a new manifest by creating a marker with its name and removing the old
// marker, with one sync of the folder at the end. Where names reach the disk in the
// order in which they changed, that is enough; POSIX does not promise this order,
// and without it a power cut could leave a marker without its manifest, or none.
func (g *guard) beforeMarker(name string) error {
	if !g.freeze || !strings.HasPrefix(g.PathBase(name), "marker") {
		return nil
	}
	return syncFolder(g, g.PathDir(name))
}

// Remove implements vfs.FS.
func (g *guard) Remove(name string) error {
	if err := g.beforeMarker(name); err != nil {
		return err
	}
	return g.FS.Remove(name)
}

// OpenReadWrite implements vfs.FS.
func (g *guard) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := g.FS.OpenReadWrite(name, c, opts...)
	return g.file("open", name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (g *guard) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(oldname, newname, c)
	return g.file("reuse", newname, f, err)
}

// OpenDir implements vfs.FS.
func (g *guard) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	return g.file("open", name, f, err)
}

// Rename implements vfs.FS.
func (g *guard) Rename(oldname, newname string) error {
	return g.check("rename", newname, g.FS.Rename(oldname, newname))
}

// Unwrap implements vfs.FS.
func (g *guard) Unwrap() vfs.FS { return g.FS }

// guardFile is an open file under a guard.
type guardFile struct {
	vfs.File
	guard *guard
	name  string
}

// Write implements vfs.File. A short write is a failed one.
func (f *guardFile) Write(p []byte) (int, error) {
	want := len(p)
	n, err := f.File.Write(p)
	if err == nil && n < want {
		err = errShortWrite
	}
	return n, f.guard.check("write", f.name, err)
}

// WriteAt implements vfs.File.
func (f *guardFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, f.guard.check("write", f.name, err)
}

// Sync implements vfs.File.
func (f *guardFile) Sync() error { return f.timed(f.File.Sync) }

// SyncData implements vfs.File.
func (f *guardFile) SyncData() error { return f.timed(f.File.SyncData) }

// timed does an fsync. Under the index only those of the log are measured.
func (f *guardFile) timed(do func() error) error {
	start := time.Now()
	err := f.guard.check("sync", f.name, do())
	if !f.guard.freeze || strings.HasSuffix(f.name, ".log") {
		f.guard.synced(time.Since(start))
	}
	return err
}

// SyncTo implements vfs.File.
func (f *guardFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.guard.check("sync", f.name, err)
}

// Close implements vfs.File.
func (f *guardFile) Close() error { return f.guard.check("close", f.name, f.File.Close()) }

var errShortWrite = errors.New("short write")
