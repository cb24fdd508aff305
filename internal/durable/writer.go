package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// errFinished is returned by a Writer after Commit or Abort.
var errFinished = errors.New("writer is finished")

// Writer streams into a temporary file that Commit puts in place. It is for one
// goroutine.
type Writer struct {
	fsys FS
	file File // nil once Commit or Abort began
	temp string
	path string
	err  error // first fault; sticky
}

// Create begins a replacement of path. The temporary file lies in the same
// folder, which must exist. Call Commit, or Abort; a deferred Abort after
// Commit does nothing.
func Create(path string, perm fs.FileMode) (*Writer, error) {
	return CreateFS(OS{}, path, perm)
}

// CreateFS is Create on fsys.
func CreateFS(fsys FS, path string, perm fs.FileMode) (*Writer, error) {
	for try := 1; ; try++ {
		w, err := CreateAt(fsys, tempName(path), path, perm)
		if err == nil || try == maxTempTries || !errors.Is(err, fs.ErrExist) {
			return w, err
		}
	}
}

// CreateAt is CreateFS with a chosen temporary name, which must not exist and
// must lie on the same file system as path. The caller sweeps its own leftovers.
func CreateAt(fsys FS, temp, path string, perm fs.FileMode) (*Writer, error) {
	f, err := fsys.Create(temp, perm)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", temp, err)
	}
	return &Writer{fsys: fsys, file: f, temp: temp, path: path}, nil
}

// Write appends p. After any error every further Write and Commit fails.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.file == nil {
		return 0, errFinished
	}
	n, err := w.file.Write(p)
	if err == nil && n < len(p) {
		err = errors.New("short write")
	}
	if err != nil {
		w.err = fmt.Errorf("write %s: %w", w.temp, err)
	}
	return n, w.err
}

// Commit syncs the file, closes it, renames it to its path and syncs the
// folder. Only then it returns nil. On an error before the rename the temporary
// file is removed; on one after it the content at path is not known.
func (w *Writer) Commit() error {
	if err := w.sync(); err != nil {
		return err
	}
	if err := w.fsys.Rename(w.temp, w.path); err != nil {
		_ = w.fsys.Remove(w.temp)
		return fmt.Errorf("rename %s: %w", w.temp, err)
	}
	return syncDir(w.fsys, filepath.Dir(w.path))
}

// sync ends the writing: fsync once, close. On an error the file is removed.
func (w *Writer) sync() error {
	if w.err == nil && w.file == nil {
		return errFinished
	}
	if w.err != nil {
		w.Abort()
		return w.err
	}
	err := w.file.Sync()
	if err != nil {
		err = fmt.Errorf("sync %s: %w", w.temp, err)
	}
	if cerr := w.file.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close %s: %w", w.temp, cerr)
	}
	w.file = nil
	if err != nil {
		w.err = err
		_ = w.fsys.Remove(w.temp)
	}
	return err
}

// Abort drops what was written. It does nothing after Commit or Abort.
func (w *Writer) Abort() {
	if w.file == nil {
		return
	}
	_ = w.file.Close()
	w.file = nil
	_ = w.fsys.Remove(w.temp)
}
