// Package durable is the one place that knows how a file survives a power cut:
// write to a temporary name, fsync the file, rename it, fsync the folder.
//
// It promises: when WriteFile, Writer.Commit, Move, Remove or MkdirAll returned
// nil, the change is on stable storage under its final name; when the power
// fails at any earlier instant, the final name shows the old content (or
// nothing) or the whole new content, never a part. It does not promise which of
// the two after an error: the caller keeps what it had in memory, reports the
// fault and does not retry on the same Writer. After a failed fsync the kernel
// may have dropped the written pages, so a second fsync that succeeds proves
// nothing; a Writer therefore never syncs twice.
//
// It does not serialise writers. Two of them on one path are both atomic, the
// later rename wins. It does not set permissions beyond those given at creation
// (less the umask), so that it also works on FAT.
//
// Temporary files that a power cut leaves behind are named "." + name +
// TempInfix + random digits, and Sweep deletes them at start-up.
//
// The package imports the standard library only: the key holder links it. The
// mail queue's format file is written so over the queue's own file system, through FS.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// TempInfix stands between the final name and the random digits in the name of
// a temporary file.
const TempInfix = ".durable-"

// maxTempTries bounds the search for a temporary name that is free.
const maxTempTries = 16

// File is what a Writer needs of an open file.
type File interface {
	io.Writer
	// Sync returns when data and size are on stable storage.
	Sync() error
	Close() error
}

// FS is what this package needs of a file system. OS is the real one; the mail
// queue and the tests bring others.
type FS interface {
	// Create makes a new file for writing, and fails with fs.ErrExist if name exists.
	Create(name string, perm fs.FileMode) (File, error)
	// Rename replaces newname.
	Rename(oldname, newname string) error
	Remove(name string) error
	// Mkdir makes one folder, and fails with fs.ErrExist if name exists.
	Mkdir(name string, perm fs.FileMode) error
	// SyncDir returns when the folder's entries are on stable storage.
	SyncDir(dir string) error
}

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// Create implements FS.
func (OS) Create(name string, perm fs.FileMode) (File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
}

// Rename implements FS.
func (OS) Rename(oldname, newname string) error { return os.Rename(oldname, newname) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// Mkdir implements FS.
func (OS) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// WriteFile replaces path by data, whole and durably. The folder must exist.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFileFS(OS{}, path, data, perm)
}

// WriteFileFS is WriteFile on fsys.
func WriteFileFS(fsys FS, path string, data []byte, perm fs.FileMode) error {
	w, err := CreateFS(fsys, path, perm)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit()
}

// Move renames oldname to newname and returns when newname is durable. The
// file's data must have been synced before. After a power cut within the call
// either name may hold the file; if the folders differ, both may.
func Move(fsys FS, oldname, newname string) error {
	if err := fsys.Rename(oldname, newname); err != nil {
		return fmt.Errorf("rename %s: %w", oldname, err)
	}
	return syncDir(fsys, filepath.Dir(newname))
}

// Remove deletes the file at path and returns when that is durable. A path that
// does not exist is no error.
func Remove(fsys FS, path string) error {
	err := fsys.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return syncDir(fsys, filepath.Dir(path))
}

// MkdirAll makes path and its missing parents, each durably. A folder that is
// there is taken as durable and stays as it is.
func MkdirAll(fsys FS, path string, perm fs.FileMode) error {
	path = filepath.Clean(path)
	err := fsys.Mkdir(path, perm)
	parent := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := MkdirAll(fsys, parent, perm); err != nil {
			return err
		}
		err = fsys.Mkdir(path, perm)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make folder %s: %w", path, err)
	}
	return syncDir(fsys, parent)
}

// Sweep deletes the temporary files that a power cut left in dir. Call it when
// nobody writes there: at start-up.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	var faults []error
	for _, e := range entries {
		if e.Type().IsRegular() && isTemp(e.Name()) {
			faults = append(faults, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(faults...)
}

func isTemp(name string) bool {
	i := strings.LastIndex(name, TempInfix)
	return i > 1 && name[0] == '.'
}

func tempName(path string) string {
	dir, base := filepath.Split(path)
	return dir + "." + base + TempInfix + strconv.FormatUint(rand.Uint64(), 36)
}

func syncDir(fsys FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
