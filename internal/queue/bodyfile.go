package queue

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// bodyFile is a body that is coming into a file. The file has its final name from
// the beginning: it counts only when the index refers to it, and is removed by the
// next start otherwise. A rename at the end would make the sender wait longer: most
// file systems have the name on disk already when the file is synced, so the fsync
// of the folder behind that finds nothing to do.
//
// It is for one goroutine. After the first fault it can only be removed.
type bodyFile struct {
	spool *spool
	id    ID
	file  vfs.File // nil once it is closed
}

// create begins the body file of id, which is incoming until settle.
func (s *spool) create(id ID) (*bodyFile, error) {
	s.mu.Lock()
	s.incoming[id] = struct{}{}
	s.mu.Unlock()
	f, err := s.fs.Create(s.path(id), "spool")
	if err != nil {
		s.settle(id)
		return nil, fmt.Errorf("create body file: %w", err)
	}
	return &bodyFile{s, id, f}, nil
}

// Write implements io.Writer.
func (b *bodyFile) Write(p []byte) (int, error) {
	n, err := b.file.Write(p)
	if err == nil && n < len(p) {
		err = errShortWrite
	}
	if err != nil {
		err = fmt.Errorf("write body file: %w", err)
	}
	return n, err
}

// seal makes the file durable, with its name, and closes it. It must be called once
// only: a second fsync after a failed one would prove nothing.
func (b *bodyFile) seal() error {
	err := errors.Join(b.file.Sync(), b.file.Close())
	b.file = nil
	if err == nil {
		err = b.spool.SyncDir(filepath.Dir(b.spool.path(b.id)))
	}
	if err != nil {
		err = fmt.Errorf("sync body file: %w", err)
	}
	return err
}

// remove drops the file. What a power cut brings back goes at the next start.
func (b *bodyFile) remove() error {
	if b.file != nil {
		_ = b.file.Close() // what was written is not wanted
		b.file = nil
	}
	err := b.spool.remove(b.id)
	b.spool.settle(b.id)
	return err
}
