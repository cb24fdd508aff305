package hsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	_ "crypto/sha256" // the hashes that a key must take
	_ "crypto/sha512"
	"errors"
	"sync"
	"testing"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

// Keys is what keyd needs of a key device, and what TestKeys checks.
type Keys interface {
	Create(ctx context.Context, p hsm.Purpose) (created bool, err error)
	Signer(p hsm.Purpose) (crypto.Signer, error)
}

// TestKeys is the conformance suite of key devices. open returns an empty one.
func TestKeys(t *testing.T, open func(t *testing.T) Keys) {
	t.Run("empty", func(t *testing.T) { testEmpty(t, open(t)) })
	t.Run("create", func(t *testing.T) { testCreate(t, open(t)) })
	t.Run("sign", func(t *testing.T) { testSign(t, open(t)) })
	t.Run("refuse", func(t *testing.T) { testRefuse(t, open(t)) })
	t.Run("together", func(t *testing.T) { testTogether(t, open(t)) })
}

func testEmpty(t *testing.T, keys Keys) {
	for _, p := range hsm.Purposes() {
		if _, err := keys.Signer(p); !errors.Is(err, hsm.ErrNoKey) {
			t.Errorf("Signer(%s) = %v, want ErrNoKey", p, err)
		}
	}
	for _, p := range []hsm.Purpose{"", "data-volume", "../parent", "provider-client\x00"} {
		if _, err := keys.Signer(p); !errors.Is(err, hsm.ErrUnknownPurpose) {
			t.Errorf("Signer(%q) = %v, want ErrUnknownPurpose", p, err)
		}
		if _, err := keys.Create(t.Context(), p); !errors.Is(err, hsm.ErrUnknownPurpose) {
			t.Errorf("Create(%q) = %v, want ErrUnknownPurpose", p, err)
		}
	}
}

func testCreate(t *testing.T, keys Keys) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	seen := map[string]bool{}
	for _, p := range hsm.Purposes() {
		if created, err := keys.Create(ended, p); created || !errors.Is(err, context.Canceled) {
			t.Errorf("Create(%s) with an ended context = %v, %v", p, created, err)
		}
		if created, err := keys.Create(t.Context(), p); !created || err != nil {
			t.Fatalf("Create(%s) = %v, %v, want a key", p, created, err)
		}
		before := public(t, keys, p)
		if created, err := keys.Create(t.Context(), p); created || err != nil {
			t.Errorf("second Create(%s) = %v, %v, want none", p, created, err)
		}
		if !before.Equal(public(t, keys, p)) {
			t.Errorf("the second Create changed the key of %s", p)
		}
		fp, err := hsm.Fingerprint(before)
		if err != nil || seen[fp] {
			t.Errorf("%s has fingerprint %s, %v: want a key of its own", p, fp, err)
		}
		seen[fp] = true
	}
}

func public(t *testing.T, keys Keys, p hsm.Purpose) *ecdsa.PublicKey {
	t.Helper()
	s, err := keys.Signer(p)
	if err != nil {
		t.Fatal(err)
	}
	pub, ok := s.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		t.Fatalf("the key of %s is %T, want ECDSA P-256", p, s.Public())
	}
	return pub
}

// create makes the keys of all purposes.
func create(t *testing.T, keys Keys) []crypto.Signer {
	t.Helper()
	var all []crypto.Signer
	for _, p := range hsm.Purposes() {
		if _, err := keys.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		s, err := keys.Signer(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, s)
	}
	return all
}

func testSign(t *testing.T, keys Keys) {
	all := create(t, keys)
	digests := [][]byte{nil, {0xff}, []byte("a digest that looks random enough for a test, 64 bytes are ample")}
	for round := range 2 { // more keys than a TPM has places
		for i, s := range all {
			for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
				for _, d := range digests {
					digest := make([]byte, hash.Size())
					copy(digest, d)
					sig, err := s.Sign(rand.Reader, digest, hash)
					if err != nil {
						t.Fatalf("round %d, key %d, %v: %v", round, i, hash, err)
					}
					for j, other := range all {
						if ok := ecdsa.VerifyASN1(other.Public().(*ecdsa.PublicKey), digest, sig); ok != (i == j) {
							t.Errorf("key %d verifies the signature of key %d: %v", j, i, ok)
						}
					}
				}
			}
		}
	}
}

func testRefuse(t *testing.T, keys Keys) {
	s := create(t, keys)[0]
	for _, tt := range []struct {
		name   string
		digest int
		hash   crypto.Hash
	}{
		{"empty", 0, crypto.SHA256},
		{"short", 31, crypto.SHA256},
		{"long", 33, crypto.SHA256},
		{"of another hash", 32, crypto.SHA384},
		{"SHA-1", 20, crypto.SHA1},
		{"SHA-512/256", 32, crypto.SHA512_256},
		{"no hash", 32, 0},
		{"huge", 1 << 20, crypto.SHA512},
	} {
		if sig, err := s.Sign(rand.Reader, bytes.Repeat([]byte{1}, tt.digest), tt.hash); err == nil {
			t.Errorf("%s: signed %x", tt.name, sig)
		}
	}
	if _, err := s.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

func testTogether(t *testing.T, keys Keys) {
	all := create(t, keys)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			s := all[i%len(all)]
			digest := bytes.Repeat([]byte{byte(i)}, 32)
			sig, err := s.Sign(rand.Reader, digest, crypto.SHA256)
			if err != nil || !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), digest, sig) {
				t.Errorf("caller %d: signature %x, %v", i, sig, err)
			}
		})
	}
	wg.Wait()
}
