package config

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

// Errors of Store.
var (
	// ErrNotNewer: the serial is not greater than the greatest that was ever accepted.
	ErrNotNewer = errors.New("serial is not newer")
	// ErrWrongBox: the document is for another box than the one it came to.
	ErrWrongBox = errors.New("configuration is for another box")
	// ErrNone: no configuration was accepted yet.
	ErrNone = errors.New("no configuration yet")
)

// Names and bounds of the store's files. The envelope has the name that
// layout.ConfigFile ends in.
const (
	currentName = "current.dsse.json"
	markName    = "accepted.json"
	markVersion = 1
	maxMark     = 4 << 10 // bytes
	storePerm   = 0o644   // every service reads it; of secrets it holds argon2id hashes only
)

// Store keeps the accepted configuration of one box in a folder: the envelope as
// it came, and beside it a mark with the greatest accepted serial and the box's
// name. The mark outlives an envelope that can no longer be read, so that an
// older configuration never comes back.
//
// Write order: envelope, then mark, each durably. A power cut in between leaves
// a mark that is too low by one step; the envelope's own serial then counts.
//
// Why the box's name: the owner signs configurations for many boxes, and whoever
// stands in front of one box must not be able to give it another's. A box is
// renamed by resetting it.
//
// A Store may be used by several goroutines of one process; on a box, init
// writes before systemd starts, and afterwards only updated does.
type Store struct {
	mu    sync.Mutex
	dir   string
	owner crypto.PublicKey
}

// mark is the content of markName.
type mark struct {
	Version int    `json:"version"`
	Serial  uint64 `json:"serial"`
	Box     string `json:"box"`
}

// NewStore uses dir, which must exist before the first Put.
func NewStore(dir string, owner crypto.PublicKey) *Store {
	return &Store{dir: dir, owner: owner}
}

// Current opens the accepted envelope: its signature is verified on every call.
// The error wraps ErrNone if nothing was accepted yet.
func (s *Store) Current() (*Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current()
}

func (s *Store) current() (*Document, error) {
	path := filepath.Join(s.dir, currentName)
	_ = publish(path) // for the case that the power went in the middle of Put; readers cannot, and need not
	doc, err := OpenFile(path, s.owner)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("configuration store: %w", ErrNone)
	}
	return doc, err
}

// publish makes a file readable for every service, whatever umask its writer has.
func publish(path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() == storePerm {
		return err
	}
	return os.Chmod(path, storePerm)
}

// OpenFile is Open for an envelope in a file. A file that is not there is
// fs.ErrNotExist.
func OpenFile(path string, owner crypto.PublicKey) (*Document, error) {
	envelope, err := readBounded(path, maxEnvelope)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Open(envelope, owner)
}

// Put takes envelope as the new configuration and returns it once it is durable.
// Otherwise nothing changes, and the error wraps ErrSignature, ErrNotNewer or
// ErrWrongBox, or is a Faults.
func (s *Store) Put(envelope []byte) (*Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, err := Open(envelope, s.owner)
	if err != nil {
		return nil, err
	}
	last, err := s.accepted()
	if err != nil {
		return nil, err
	}
	if last.Box != "" && doc.Box != last.Box {
		return nil, fmt.Errorf("configuration store: %w: it is for %q, this is %q", ErrWrongBox, doc.Box, last.Box)
	}
	if doc.Serial <= last.Serial {
		return nil, fmt.Errorf("configuration store: %w: it has %d, %d was accepted", ErrNotNewer, doc.Serial, last.Serial)
	}
	path := filepath.Join(s.dir, currentName)
	if err := durable.WriteFile(path, envelope, storePerm); err != nil {
		return nil, fmt.Errorf("configuration store: %w", err)
	}
	if err := publish(path); err != nil {
		return nil, fmt.Errorf("configuration store: %w", err)
	}
	if err := s.writeMark(mark{markVersion, doc.Serial, doc.Box}); err != nil {
		return nil, err
	}
	return doc, nil
}

// Accepted gives the greatest serial that was ever accepted and the box's name;
// 0 and "" before the first Put.
func (s *Store) Accepted() (serial uint64, box string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, err := s.accepted()
	return m.Serial, m.Box, err
}

// accepted joins the mark and the current envelope, whichever is newer. An
// envelope that cannot be opened does not count; a mark that cannot be read is
// an error, because without it an old configuration could come back.
func (s *Store) accepted() (mark, error) {
	m, err := s.readMark()
	if err != nil {
		return mark{}, err
	}
	if doc, err := s.current(); err == nil && doc.Serial > m.Serial {
		m.Serial, m.Box = doc.Serial, doc.Box
	}
	return m, nil
}

func (s *Store) readMark() (mark, error) {
	path := filepath.Join(s.dir, markName)
	data, err := readBounded(path, maxMark)
	if errors.Is(err, os.ErrNotExist) {
		return mark{}, nil
	}
	if err != nil {
		return mark{}, fmt.Errorf("configuration store: %w", err)
	}
	var m mark
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil || m.Version != markVersion {
		return mark{}, fmt.Errorf("configuration store: %s is damaged or of a later version", path)
	}
	return m, nil
}

func (s *Store) writeMark(m mark) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("configuration store: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(s.dir, markName), append(data, '\n'), storePerm); err != nil {
		return fmt.Errorf("configuration store: %w", err)
	}
	return nil
}
