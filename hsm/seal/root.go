package seal

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	// persistentRoot is where the storage root key lives when somebody made it
	// persistent (TCG Provisioning Guidance, §7.8: the SRK).
	persistentRoot = tpm2.TPMHandle(0x81000001)
	// nonceSize of our sessions in bytes, at least half of SHA-256.
	nonceSize = 32
	// sessionKeyBits is the AES key size of parameter encryption, the one that
	// every TPM of the PC Client profile has.
	sessionKeyBits = 128
)

// loaded is an object in the TPM. close flushes it unless it is persistent.
type loaded struct {
	tpm        transport.TPM
	handle     tpm2.TPMHandle
	name       tpm2.TPM2BName
	persistent bool
}

func (l *loaded) close() {
	if l.persistent {
		return
	}
	// An object that cannot be flushed is gone with the resource manager's
	// connection or with the power.
	_, _ = tpm2.FlushContext{FlushHandle: l.handle}.Execute(l.tpm)
}

// rootKey is the storage root key. Its name is computed here from its public
// area, so a name can be trusted as far as the sessions salted to that area.
type rootKey struct {
	loaded
	public tpm2.TPMTPublic
}

// openRoot finds the storage root key, or derives it.
func openRoot(tpm transport.TPM) (*rootKey, error) {
	if root := persistent(tpm); root != nil {
		return root, nil
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHOwner,
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("derive storage root key: %w", known(err))
	}
	public, err := rsp.OutPublic.Contents()
	if err == nil {
		var root *rootKey
		if root, err = newRoot(tpm, rsp.ObjectHandle, *public); err == nil {
			return root, nil
		}
	}
	_, _ = tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(tpm)
	return nil, fmt.Errorf("derive storage root key: %w", err)
}

// persistent returns the key at persistentRoot if it has our template, or nil.
// Whether it is the right one is decided by its name, against the blob.
func persistent(tpm transport.TPM) *rootKey {
	rsp, err := tpm2.ReadPublic{ObjectHandle: persistentRoot}.Execute(tpm)
	if err != nil {
		return nil
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil || !fitsTemplate(*public) {
		return nil
	}
	root, err := newRoot(tpm, persistentRoot, *public)
	if err != nil {
		return nil
	}
	root.persistent = true
	return root
}

// fitsTemplate reports whether public is the TCG's ECC storage root key in all
// but the key itself.
func fitsTemplate(public tpm2.TPMTPublic) bool {
	if public.Type != tpm2.TPMAlgECC {
		return false
	}
	public.Unique = tpm2.ECCSRKTemplate.Unique
	return bytes.Equal(tpm2.Marshal(public), tpm2.Marshal(tpm2.ECCSRKTemplate))
}

func newRoot(tpm transport.TPM, handle tpm2.TPMHandle, public tpm2.TPMTPublic) (*rootKey, error) {
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return nil, fmt.Errorf("name of the storage root key: %w", err)
	}
	return &rootKey{loaded: loaded{tpm: tpm, handle: handle, name: *name}, public: public}, nil
}

// in and out encrypt the first parameter of the command, or of the response.
func in() tpm2.AuthOption  { return tpm2.AESEncryption(sessionKeyBits, tpm2.EncryptIn) }
func out() tpm2.AuthOption { return tpm2.AESEncryption(sessionKeyBits, tpm2.EncryptOut) }

// salted are the options of a session whose key only the TPM that holds the
// root key can know.
func (r *rootKey) salted(encryption tpm2.AuthOption) []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.Salted(r.handle, r.public), encryption}
}

// session is a salted session for one command.
func (r *rootKey) session(encryption tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, r.salted(encryption)...)
}

// auth authorises the use of the root key, which has no password, in a salted session.
func (r *rootKey) auth(encryption tpm2.AuthOption) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: r.session(encryption)}
}

func sha256Sum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}
