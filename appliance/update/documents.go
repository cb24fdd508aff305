package update

import (
	"crypto"
	"fmt"
	"sync"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// Documents is a Store that reads its configuration once: verifying and parsing a
// large one for every question would cost too much. Nobody but updated writes
// the store while systemd runs.
type Documents struct {
	store Store

	mu  sync.Mutex
	doc *config.Document
}

// NewDocuments returns the configuration of the box; in a locked one that is the
// seed's, which init verified and left in memory, and which nobody can replace.
func NewDocuments(owner crypto.PublicKey, locked bool) *Documents {
	if locked {
		return &Documents{store: seed{owner}}
	}
	return &Documents{store: config.NewStore(layout.ConfigDir, owner)}
}

// Current is the configuration in force.
func (d *Documents) Current() (*config.Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.doc == nil {
		doc, err := d.store.Current()
		if err != nil {
			return nil, err
		}
		d.doc = doc
	}
	return d.doc, nil
}

// Put takes a newer configuration, as config.Store does.
func (d *Documents) Put(envelope []byte) (*config.Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	doc, err := d.store.Put(envelope)
	if err != nil {
		return nil, err
	}
	d.doc = doc
	return doc, nil
}

// Updates are the addresses of the repositories.
func (d *Documents) Updates() (config.Updates, error) {
	doc, err := d.Current()
	if err != nil {
		return config.Updates{}, err
	}
	return doc.Management.Updates, nil
}

// Box is the box's name, "" as long as nobody gave it one.
func (d *Documents) Box() string {
	doc, err := d.Current()
	if err != nil {
		return ""
	}
	return doc.Box
}

// seed is the configuration of a locked box.
type seed struct{ owner crypto.PublicKey }

func (s seed) Current() (*config.Document, error) {
	return config.OpenFile(layout.LockedConfig, s.owner)
}

func (seed) Put([]byte) (*config.Document, error) {
	return nil, fmt.Errorf("%w: %w", control.ErrRefused, ErrLocked)
}
