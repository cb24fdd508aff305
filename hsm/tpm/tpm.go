// Package tpm keeps the signing keys of the box in its TPM 2.0, one per purpose.
//
// The keys are ECDSA P-256, made inside the TPM under its storage root key with
// fixedTPM, fixedParent and sensitiveDataOrigin: no command of any TPM ever
// gives them out, not even to their owner (TPM 2.0 Library, Part 1, clause 23.3).
// They may sign and nothing else. They have no password; who may use a key is
// decided by who may open the TPM and read the key's file, which is keyd alone.
// So there is nothing to guess, and they are exempt from the TPM's dictionary
// attack protection (noDA): a stranger's wrong tries elsewhere stop no mail.
//
// # Files
//
// A key lies on disk as PURPOSE.pem, a TPM 2.0 key file (PEM "TSS2 PRIVATE KEY",
// ASN.1 by the Bottomley draft): public area and the private area wrapped by the
// storage root key, worthless without this very TPM. Its parent is 0x40000001,
// that is the storage root key which TPM2_CreatePrimary derives in the owner
// hierarchy from the ECC P-256 template with empty unique fields. OpenSSL with
// the tpm2 provider and openssl_tpm2_engine read the same files:
//
//	openssl req -provider tpm2 -provider default -key tenant-server.pem -new ...
//
// hsm/seal derives its root from the older template with 32 zero bytes, which is
// the one at 0x81000001; the two are different keys of one seed.
//
// parent.json pins the name of the storage root key that made the keys. Files
// are replaced durably and hold a version where they are ours.
//
// # Promises
//
//   - Commands that carry or use a key run in a session salted to the pinned storage
//     root key, with HMACs both ways and the first parameter encrypted, so that
//     nobody on the bus can read, change or answer them. Only the very first start
//     trusts what calls itself the TPM.
//   - A key is durable before Create returns, and was seen to sign.
//   - Every signature is verified before it is handed out: a TPM that errs or is
//     disturbed never leaks a faulty signature.
//   - Commands run one at a time. A caller waits for its turn at most turnTimeout.
//   - A TPM that lost its state (reset, resume) is set up anew, once per call.
//   - A replaced or cleared TPM is hsm.ErrDeviceChanged; nothing is overwritten.
//
// Not done here: who may sign (hsm/keyd), certificates (hsm/keyd), PCR policies
// (hsm/seal), and RSA.
package tpm

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

const (
	// DefaultDevice is the kernel's resource-managed TPM device.
	DefaultDevice = "/dev/tpmrm0"

	// turnTimeout bounds the wait for other callers' commands. Slow TPMs sign
	// in 0.3 s, and keyd lets tens of calls wait, not hundreds.
	turnTimeout = 20 * time.Second
	parentFile  = "parent.json"
	keySuffix   = ".pem"
	fileMode    = 0o600
	dirMode     = 0o700
	// maxFile bounds what is read of a key file; ours have about 500 bytes.
	maxFile = 16 << 10
)

// Store is the set of keys in one TPM and one folder. It may be used by several
// goroutines at once. One process only may use a folder.
type Store struct {
	dev    transport.TPM
	dir    string
	parent []byte        // name of the storage root key
	turn   chan struct{} // whoever put something in talks to the TPM
	state  *state        // what lies in the TPM for us; nil: nothing
}

// OpenDevice opens a TPM device such as DefaultDevice. A device that is missing or
// no TPM is hsm.ErrNoDevice.
func OpenDevice(path string) (transport.TPMCloser, error) {
	dev, err := linuxtpm.Open(path)
	if err != nil {
		return nil, remedied{fmt.Errorf("open TPM %s: %w: %w", path, hsm.ErrNoDevice, err),
			"switch the TPM 2.0 on in the firmware's set-up"}
	}
	return dev, nil
}

// Open prepares the keys of dir, which it makes if need be. The first Open in a
// folder pins the TPM; from then on another TPM is hsm.ErrDeviceChanged.
func Open(ctx context.Context, dev transport.TPM, dir string) (*Store, error) {
	s := &Store{dev: dev, dir: dir, turn: make(chan struct{}, 1)}
	if err := durable.MkdirAll(durable.OS{}, dir, dirMode); err != nil {
		return nil, fmt.Errorf("open TPM keys: %w", err)
	}
	if err := durable.Sweep(dir); err != nil {
		return nil, fmt.Errorf("open TPM keys: %w", err)
	}
	pinned, err := readParent(dir)
	if err != nil {
		return nil, err
	}
	s.parent = pinned
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open TPM keys: %w", err)
	}
	root, err := deriveRoot(dev, pinned)
	if err != nil {
		return nil, fmt.Errorf("open TPM keys: %w", err)
	}
	root.flush()
	if pinned == nil {
		s.parent = root.name.Buffer
		if err := writeParent(dir, s.parent); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Close removes from the TPM what Store put there for speed. The keys stay.
func (s *Store) Close() error {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.forget()
	return nil
}

// parentRecord is the content of parent.json.
type parentRecord struct {
	Version int    `json:"version"` // always 1
	Name    string `json:"name"`    // hexadecimal TPM2B_NAME content
}

// readParent returns the pinned name, or nil when dir is new. Keys without a
// pin are refused: the file was lost, and the TPM behind them is unproven.
func readParent(dir string) ([]byte, error) {
	path := filepath.Join(dir, parentFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		keys, err := filepath.Glob(filepath.Join(dir, "*"+keySuffix))
		if err != nil || len(keys) > 0 {
			return nil, fmt.Errorf("open TPM keys: %s is missing though there are keys: %w", path, hsm.ErrDeviceChanged)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open TPM keys: %w", err)
	}
	var r parentRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("open TPM keys: %s: %w", path, err)
	}
	name, err := hex.DecodeString(r.Name)
	if r.Version != 1 || err != nil || len(name) != sha256NameSize {
		return nil, fmt.Errorf("open TPM keys: %s: version %d or name %q is not understood", path, r.Version, r.Name)
	}
	return name, nil
}

func writeParent(dir string, name []byte) error {
	b, err := json.Marshal(parentRecord{Version: 1, Name: hex.EncodeToString(name)})
	if err != nil {
		return fmt.Errorf("pin the TPM: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, parentFile), append(b, '\n'), fileMode); err != nil {
		return fmt.Errorf("pin the TPM: %w", err)
	}
	return nil
}

// take waits for the TPM to be free. The caller calls the returned function
// when it is done.
func (s *Store) take(ctx context.Context) (release func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("wait for the TPM: %w", err)
	}
	timer := time.NewTimer(turnTimeout)
	defer timer.Stop()
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-timer.C:
		return nil, fmt.Errorf("wait for the TPM: busy for %v", turnTimeout)
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the TPM: %w", ctx.Err())
	}
}

// Create makes the key of purpose p unless there is one, and reports whether it
// did. The key is durable and has signed once when Create returns.
func (s *Store) Create(ctx context.Context, p hsm.Purpose) (created bool, err error) {
	if !p.Valid() {
		return false, fmt.Errorf("create key %q: %w", p, hsm.ErrUnknownPurpose)
	}
	release, err := s.take(ctx)
	if err != nil {
		return false, fmt.Errorf("create key %s: %w", p, err)
	}
	defer release()
	if _, err := s.readKey(p); !errors.Is(err, hsm.ErrNoKey) {
		return false, err // nil: it exists
	}
	var made *key
	err = s.attempt(func(st *state) (err error) {
		made, err = s.generate(st, p)
		return err
	})
	if err == nil {
		digest := bytes.Repeat([]byte{0x5a}, crypto.SHA256.Size())
		_, err = s.sign(made, digest, crypto.SHA256)
	}
	if err == nil {
		err = durable.WriteFile(s.path(p), made.file, fileMode)
	}
	if err != nil {
		return false, fmt.Errorf("create key %s: %w", p, err)
	}
	return true, nil
}

// Signer returns the key of purpose p. It reads and checks the file and does not
// ask the TPM; a key that its TPM does not know shows at the first Sign.
//
// The signer takes digests of SHA-256, SHA-384 and SHA-512, returns ASN.1
// signatures (RFC 3279, 2.2.3), waits for its turn at most 20 s, and may be used
// by several goroutines at once. It takes its randomness from the TPM.
func (s *Store) Signer(p hsm.Purpose) (crypto.Signer, error) {
	if !p.Valid() {
		return nil, fmt.Errorf("load key %q: %w", p, hsm.ErrUnknownPurpose)
	}
	k, err := s.readKey(p)
	if err != nil {
		return nil, err
	}
	return &signer{s, k}, nil
}

func (s *Store) path(p hsm.Purpose) string {
	return filepath.Join(s.dir, string(p)+keySuffix)
}

// attempt runs f with the state in the TPM. When f fails although the state was
// set up for an earlier call, it was perhaps lost: it is then set up anew, and f
// runs once more. Never after a lockout, where every try counts.
func (s *Store) attempt(f func(*state) error) error {
	fresh := s.state == nil
	err := s.attemptOnce(f)
	if err == nil {
		return nil
	}
	s.forget()
	if fresh || errors.Is(err, hsm.ErrLockedOut) || errors.Is(err, tpm2.TPMRCLockout) {
		return known(err)
	}
	if err = s.attemptOnce(f); err != nil {
		s.forget()
		return known(err)
	}
	return nil
}

func (s *Store) attemptOnce(f func(*state) error) error {
	if s.state == nil {
		st, err := newState(s.dev, s.parent)
		if err != nil {
			return err
		}
		s.state = st
	}
	return f(s.state)
}

func (s *Store) forget() {
	if s.state != nil {
		s.state.flush()
		s.state = nil
	}
}
