package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

// spool is the tree of body files, <xx>/<id>, where xx are two hex digits of the ID's
// last, random byte. It is also the file system that package durable works on; syncs
// of its folders are shared.
type spool struct {
	fs   vfs.FS
	dir  string
	tmp  string                 // the first releases had bodies here while they came
	dirs map[string]*sharedSync // by folder; filled at open, then only read

	mu       sync.Mutex
	incoming map[ID]struct{} // files made here that the index does not know yet
}

var _ durable.FS = (*spool)(nil)

// shards is the number of folders that bodies are spread over.
const shards = 256

// spoolMode are the permission bits of folders made here.
const spoolMode = 0o700

// openSpool makes the folders that are missing and deletes what a power cut
// left in tmp.
func openSpool(fsys vfs.FS, dir string, found *Recovery) (*spool, error) {
	s := &spool{fs: fsys, dir: dir, tmp: fsys.PathJoin(dir, "tmp"), dirs: map[string]*sharedSync{}, incoming: map[ID]struct{}{}}
	names := []string{dir, s.tmp}
	for i := range shards {
		names = append(names, s.shard(byte(i)))
	}
	for _, name := range names {
		s.dirs[name] = &sharedSync{sync: func() error { return syncFolder(fsys, name) }}
		if _, err := fsys.Stat(name); err == nil {
			continue
		}
		if err := fsys.MkdirAll(name, spoolMode); err != nil {
			return nil, fmt.Errorf("make %s: %w", name, err)
		}
	}
	left, err := fsys.List(s.tmp)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.tmp, err)
	}
	for _, name := range left {
		if err := fsys.Remove(fsys.PathJoin(s.tmp, name)); err != nil {
			return nil, fmt.Errorf("remove %s: %w", name, err)
		}
		found.Temporary++
	}
	// The folders may have been made by a process that ended before this point.
	for _, name := range []string{fsys.PathDir(dir), dir} {
		if err := syncFolder(fsys, name); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *spool) shard(b byte) string { return s.fs.PathJoin(s.dir, fmt.Sprintf("%02x", b)) }

func (s *spool) path(id ID) string {
	b, err := id.binary()
	if err != nil {
		panic("queue: path of " + err.Error()) // every ID here was made or parsed here
	}
	return s.fs.PathJoin(s.shard(b[idBytes-1]), string(id))
}

// settle says that the index knows the body file of id by now, or never will.
func (s *spool) settle(id ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.incoming, id)
}

// isIncoming reports whether the index may still come to know the body file of id.
func (s *spool) isIncoming(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.incoming[id]
	return ok
}

// remove deletes a body file that nothing refers to any more. It need not be
// durable: what comes back after a power cut is deleted at the next start.
func (s *spool) remove(id ID) error {
	err := s.fs.Remove(s.path(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove body %s: %w", id, err)
	}
	return nil
}

// bodies calls do with each body file. Names that are no ID are left alone.
func (s *spool) bodies(do func(id ID) error) error {
	for i := range shards {
		if err := s.shardBodies(byte(i), do); err != nil {
			return err
		}
	}
	return nil
}

// shardBodies is bodies for one folder.
func (s *spool) shardBodies(shard byte, do func(id ID) error) error {
	dir := s.shard(shard)
	names, err := s.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		id, err := ParseID(name)
		if err != nil || s.path(id) != s.fs.PathJoin(dir, name) {
			continue
		}
		if err := do(id); err != nil {
			return err
		}
	}
	return nil
}

// Create implements durable.FS.
func (s *spool) Create(name string, _ fs.FileMode) (durable.File, error) {
	return s.fs.Create(name, "spool")
}

// Rename implements durable.FS.
func (s *spool) Rename(oldname, newname string) error { return s.fs.Rename(oldname, newname) }

// Remove implements durable.FS.
func (s *spool) Remove(name string) error { return s.fs.Remove(name) }

// Mkdir implements durable.FS.
func (s *spool) Mkdir(name string, perm fs.FileMode) error {
	if _, err := s.fs.Stat(name); err == nil {
		return fs.ErrExist
	}
	return s.fs.MkdirAll(name, perm)
}

// SyncDir implements durable.FS: writers in one folder share an fsync.
func (s *spool) SyncDir(dir string) error {
	if shared, ok := s.dirs[dir]; ok {
		return shared.do()
	}
	return syncFolder(s.fs, dir)
}

func syncFolder(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
