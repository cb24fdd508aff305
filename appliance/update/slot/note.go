package slot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

const (
	noteName = "EFI/pforte/trial.json"
	maxNote  = 4 << 10 // bytes
	maxWhy   = 1 << 10 // bytes of a Note's Why
)

// Note says on the EFI system partition which slot is on trial, and, once the
// release on trial could not open the data volume, why it gave up.
type Note struct {
	Slot    report.Slot `json:"slot"`
	Release string      `json:"release"`
	Why     string      `json:"why,omitempty"`
}

// WriteNote replaces the note. A power cut may leave none.
func (d Disk) WriteNote(n Note) error {
	if len(n.Why) > maxWhy {
		n.Why = n.Why[:maxWhy]
	}
	data, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("trial note: %w", err)
	}
	name := filepath.Join(d.Root, noteName)
	f, err := createFile(name)
	if err != nil {
		return fmt.Errorf("trial note: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close(), durable.OS{}.SyncDir(filepath.Dir(name))); err != nil {
		return fmt.Errorf("trial note: %w", err)
	}
	return nil
}

// ReadNote returns the note, or an empty one if there is none or it was torn.
func (d Disk) ReadNote() (Note, error) {
	f, err := os.Open(filepath.Join(d.Root, noteName))
	if errors.Is(err, fs.ErrNotExist) {
		return Note{}, nil
	}
	if err != nil {
		return Note{}, fmt.Errorf("trial note: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err != nil {
		return Note{}, fmt.Errorf("trial note: %w", err)
	}
	var n Note
	if json.Unmarshal(data, &n) != nil {
		return Note{}, nil
	}
	return n, nil
}

// ClearNote removes the note, if there is one.
func (d Disk) ClearNote() error {
	if err := durable.Remove(durable.OS{}, filepath.Join(d.Root, noteName)); err != nil {
		return fmt.Errorf("trial note: %w", err)
	}
	return nil
}
