// Package audit keeps the record of who did what to the box: append-only, one
// JSON object per line, each bound to the one before by a SHA-256 chain.
//
// An entry is synced to disk before Append returns, so that an action can be
// refused when it cannot be recorded. Entries never hold mail content, subjects
// or secrets. A file that has reached MaxFile is closed and a new one begun;
// its first entry continues the chain, so that deleting a file in the middle
// shows. At most maxFiles are kept; Verify reports with which number the kept
// chain begins.
//
// A torn last line (power cut while writing) was never confirmed to anyone; it
// is cut off at the next Open. The chain shows that something was changed or
// is missing; it does not keep root from forging a whole new chain. For that,
// compare Head with a copy kept elsewhere.
package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

const (
	// MaxFile is the size in bytes from which a new file is begun.
	MaxFile  = 8 << 20
	maxFiles = 64
	maxEntry = 8 << 10 // bytes of one line
)

// Event is one thing that somebody did, tried or was refused.
type Event struct {
	Action  string            `json:"action"`           // method or deed: "update.start"
	Actor   string            `json:"actor"`            // who, as far as it was proved: "hosting/RSS technician"
	Outcome string            `json:"outcome"`          // "done", "refused", "failed"; "asked" before an act
	Detail  map[string]string `json:"detail,omitempty"` // few, short, without content or secrets
}

// Entry is an event in the chain.
type Entry struct {
	Number   uint64    `json:"number"` // from 1, without gaps
	Time     time.Time `json:"time"`
	Previous string    `json:"previous"` // hex SHA-256 of the previous line, empty for the first
	Event
}

// ErrChain is what Verify and Open report when the record was altered.
var ErrChain = errors.New("audit record is broken")

// Log appends to the record in one folder. It is safe for concurrent use.
type Log struct {
	dir string

	mu     sync.Mutex
	file   *os.File
	size   int64
	number uint64
	head   string
	sick   error // set once by a failed write or sync; never tried again
}

// Open continues the record in dir, making it if there is none. It checks the
// newest file only; Verify checks all.
func Open(dir string) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	names, err := files(dir)
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir}
	if len(names) == 0 {
		return l, nil
	}
	newest := filepath.Join(dir, names[len(names)-1])
	data, err := os.ReadFile(newest)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	whole := data[:bytes.LastIndexByte(data, '\n')+1]
	state, err := check(bytes.NewReader(whole), chain{open: true})
	if err != nil {
		return nil, fmt.Errorf("audit: %s: %w", newest, err)
	}
	l.file, err = os.OpenFile(newest, os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := errors.Join(l.file.Truncate(int64(len(whole))), seekEnd(l.file), l.file.Sync()); err != nil {
		return nil, errors.Join(fmt.Errorf("audit: cut torn line: %w", err), l.file.Close())
	}
	l.size, l.number, l.head = int64(len(whole)), state.number, state.head
	if l.number == 0 { // the file was begun but no entry of it is whole: its name tells
		_, _ = fmt.Sscanf(names[len(names)-1], namePattern, &l.number)
		l.number--
		l.head, err = headBefore(dir, names)
	}
	return l, err
}

func seekEnd(f *os.File) error {
	_, err := f.Seek(0, io.SeekEnd)
	return err
}

// headBefore is the hash of the last entry before the newest file.
func headBefore(dir string, names []string) (string, error) {
	if len(names) < 2 {
		return "", nil
	}
	data, err := os.ReadFile(filepath.Join(dir, names[len(names)-2]))
	if err != nil {
		return "", fmt.Errorf("audit: %w", err)
	}
	state, err := check(bytes.NewReader(data), chain{open: true})
	if err != nil {
		return "", fmt.Errorf("audit: %s: %w", names[len(names)-2], err)
	}
	return state.head, nil
}

// Append writes one event with the current time and syncs it. After a failed
// write or sync it refuses everything: a file whose sync failed can no longer
// be trusted.
func (l *Log) Append(e Event) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sick != nil {
		return fmt.Errorf("audit: disk failed before: %w", l.sick)
	}
	line, err := json.Marshal(Entry{Number: l.number + 1, Time: time.Now().UTC(), Previous: l.head, Event: e})
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if len(line) > maxEntry {
		return fmt.Errorf("audit: entry of %d bytes, at most %d", len(line), maxEntry)
	}
	line = append(line, '\n')
	if err := l.write(line); err != nil {
		l.sick = err
		return fmt.Errorf("audit: %w", err)
	}
	l.number++
	l.size += int64(len(line))
	l.head = hash(line)
	return nil
}

func (l *Log) write(line []byte) error {
	if l.file == nil || l.size+int64(len(line)) > MaxFile {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if _, err := l.file.Write(line); err != nil {
		return err
	}
	return l.file.Sync()
}

const namePattern = "audit-%012d.jsonl"

// rotate begins the file whose first entry is the next one, and drops the
// oldest beyond maxFiles.
func (l *Log) rotate() error {
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			return err
		}
	}
	name := filepath.Join(l.dir, fmt.Sprintf(namePattern, l.number+1))
	if err := durable.WriteFile(name, nil, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.file, l.size = f, 0
	names, err := files(l.dir)
	if err != nil {
		return err
	}
	for len(names) > maxFiles {
		if err := os.Remove(filepath.Join(l.dir, names[0])); err != nil {
			return err
		}
		names = names[1:]
	}
	return nil
}

// Head is the number of the last entry and its hash, for keeping elsewhere.
func (l *Log) Head() (number uint64, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number, l.head
}

// Close closes the file. Everything appended is on disk already.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	l.sick = errors.New("audit log is closed")
	return err
}

// Verify checks the whole kept record in dir and returns the numbers of its
// first and last entry. A torn last line is no fault.
func Verify(dir string) (first, last uint64, err error) {
	names, err := files(dir)
	if err != nil {
		return 0, 0, err
	}
	state := chain{open: true}
	for i, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0, 0, fmt.Errorf("audit: %w", err)
		}
		if i == len(names)-1 {
			data = data[:bytes.LastIndexByte(data, '\n')+1]
		}
		if state, err = check(bytes.NewReader(data), state); err != nil {
			return first, state.number, fmt.Errorf("audit: %s: %w", name, err)
		}
		if first == 0 {
			first = state.first
		}
	}
	return first, state.number, nil
}

// chain is the state of checking: open means that any start is accepted.
type chain struct {
	open   bool
	first  uint64
	number uint64
	head   string
}

func check(r io.Reader, c chain) (chain, error) {
	scan := bufio.NewScanner(r)
	scan.Buffer(make([]byte, 0, maxEntry), maxEntry+1)
	for scan.Scan() {
		var e Entry
		if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
			return c, fmt.Errorf("%w after entry %d: not JSON", ErrChain, c.number)
		}
		if c.open {
			c.open, c.first = false, e.Number
		} else if e.Number != c.number+1 || e.Previous != c.head {
			return c, fmt.Errorf("%w: entry %d does not follow entry %d", ErrChain, e.Number, c.number)
		}
		c.number, c.head = e.Number, hash(append(bytes.Clone(scan.Bytes()), '\n'))
	}
	if err := scan.Err(); err != nil {
		return c, fmt.Errorf("%w after entry %d: %w", ErrChain, c.number, err)
	}
	return c, nil
}

func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// files are the record's files in order.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "audit-") && strings.HasSuffix(e.Name(), ".jsonl") {
			names = append(names, e.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}
