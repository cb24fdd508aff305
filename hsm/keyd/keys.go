package keyd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

// purposes are those that have a key here.
func (s *Service) purposes() []hsm.Purpose {
	if s.opts.Locked {
		return []hsm.Purpose{hsm.ManagementServer}
	}
	return hsm.Purposes()
}

// open opens the key device, makes what is missing and loads the certificates.
// It returns how many keys can be used, and why there is no device. One broken
// key does not take the others away.
func (s *Service) open(ctx context.Context) (usable int, err error) {
	keys, err := s.opts.Open(ctx)
	if err != nil {
		s.log.Error("no key device", "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fault = err
		return 0, err
	}
	entries := map[hsm.Purpose]*entry{}
	for _, p := range s.purposes() {
		e := s.openKey(ctx, keys, p)
		if e.fault == nil {
			usable++
		}
		entries[p] = e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries, s.fault = entries, nil
	return usable, nil
}

func (s *Service) openKey(ctx context.Context, keys Keys, p hsm.Purpose) *entry {
	start := time.Now()
	created, err := keys.Create(ctx, p)
	if err != nil {
		s.log.Error("key cannot be used", "purpose", p, "error", err)
		return &entry{fault: err}
	}
	e := &entry{}
	if e.signer, e.fault = keys.Signer(p); e.fault == nil {
		e.public, e.fault = x509.MarshalPKIXPublicKey(e.signer.Public())
	}
	if e.fault != nil {
		s.log.Error("key cannot be used", "purpose", p, "error", e.fault)
		return &entry{fault: e.fault}
	}
	if created {
		s.log.Info("key made", "purpose", p, "took", time.Since(start).Round(time.Millisecond))
		return e // a certificate that lies there is for a lost key
	}
	if e.chain, e.flaw = s.loadChain(p, e); e.flaw != nil {
		s.log.Error("certificate cannot be used", "purpose", p, "error", e.flaw)
	}
	return e
}

// loadChain reads the installed certificate of p, if there is one. It may have
// expired: those who meet it will say so; here it must fit the key.
func (s *Service) loadChain(p hsm.Purpose, e *entry) (*chain, error) {
	b, err := os.ReadFile(s.chainPath(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load certificate of %s: %w", p, err)
	}
	c, err := parseChain(b)
	if err == nil {
		err = c.fits(e.signer.Public())
	}
	if err != nil {
		return nil, fmt.Errorf("load certificate of %s: %w", p, err)
	}
	return c, nil
}

func (s *Service) chainPath(p hsm.Purpose) string {
	return filepath.Join(s.opts.Dir, certificates, string(p)+".pem")
}

// lookup returns the usable key of purpose p, or why there is none.
func (s *Service) lookup(p hsm.Purpose) (*entry, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := s.entries[p]
	switch {
	case !p.Valid():
		return nil, fmt.Errorf("%w %q", hsm.ErrUnknownPurpose, p)
	case s.fault != nil:
		return nil, s.fault
	case e == nil && s.opts.Locked:
		return nil, fmt.Errorf("key %s: %w", p, hsm.ErrLocked)
	case e == nil:
		return nil, fmt.Errorf("key %s: %w", p, hsm.ErrNoKey)
	case e.fault != nil:
		return nil, e.fault
	}
	return e, nil
}

// setChain puts a certificate beside the key of p.
func (s *Service) setChain(p hsm.Purpose, c *chain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := *s.entries[p]
	e.chain, e.flaw = c, nil
	s.entries[p] = &e
}
