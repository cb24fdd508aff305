package hsmtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

// NewSoftKey returns a fresh ECDSA P-256 key in memory.
func NewSoftKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// SoftKeys holds one key per purpose in memory, with the behaviour of hsm/tpm's
// Store. The zero value is empty and ready; it may be used by several
// goroutines at once.
type SoftKeys struct {
	mu    sync.Mutex
	keys  map[hsm.Purpose]*ecdsa.PrivateKey
	fault error
}

// Fail makes every further Create, Signer and Sign fail with err; nil ends it.
func (s *SoftKeys) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = err
}

// Create makes the key of purpose p unless there is one, and reports whether it did.
func (s *SoftKeys) Create(ctx context.Context, p hsm.Purpose) (created bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !p.Valid():
		return false, fmt.Errorf("create key %q: %w", p, hsm.ErrUnknownPurpose)
	case ctx.Err() != nil:
		return false, fmt.Errorf("create key %s: %w", p, ctx.Err())
	case s.fault != nil:
		return false, fmt.Errorf("create key %s: %w", p, s.fault)
	case s.keys[p] != nil:
		return false, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return false, fmt.Errorf("create key %s: %w", p, err)
	}
	if s.keys == nil {
		s.keys = map[hsm.Purpose]*ecdsa.PrivateKey{}
	}
	s.keys[p] = key
	return true, nil
}

// Signer returns the key of purpose p.
func (s *SoftKeys) Signer(p hsm.Purpose) (crypto.Signer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !p.Valid():
		return nil, fmt.Errorf("load key %q: %w", p, hsm.ErrUnknownPurpose)
	case s.fault != nil:
		return nil, fmt.Errorf("load key %s: %w", p, s.fault)
	case s.keys[p] == nil:
		return nil, fmt.Errorf("load key %s: %w", p, hsm.ErrNoKey)
	}
	return softSigner{s, s.keys[p]}, nil
}

// softSigner checks what a TPM checks, which crypto/ecdsa leaves to the caller.
type softSigner struct {
	keys *SoftKeys
	key  *ecdsa.PrivateKey
}

func (s softSigner) Public() crypto.PublicKey { return s.key.Public() }

func (s softSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.keys.mu.Lock()
	fault := s.keys.fault
	s.keys.mu.Unlock()
	if fault != nil {
		return nil, fmt.Errorf("sign: %w", fault)
	}
	switch opts.HashFunc() {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return nil, fmt.Errorf("sign: hash %v is not offered", opts.HashFunc())
	}
	if len(digest) != opts.HashFunc().Size() {
		return nil, errors.New("sign: the digest's length does not fit its hash")
	}
	return s.key.Sign(random, digest, opts)
}
