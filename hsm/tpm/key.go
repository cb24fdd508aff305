package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"

	keyfile "github.com/foxboron/go-tpm-keyfiles"
	"github.com/google/go-tpm/tpm2"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

// keyTemplate is what a signing key is. The scheme is left open so that one key
// signs digests of several lengths; TPM2_Sign is told the scheme each time.
func keyTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgECC,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: keyAttributes(),
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

func keyAttributes() tpm2.TPMAObject {
	return tpm2.TPMAObject{
		FixedTPM:            true,
		FixedParent:         true,
		SensitiveDataOrigin: true,
		UserWithAuth:        true,
		NoDA:                true,
		SignEncrypt:         true,
	}
}

// key is a key file, checked.
type key struct {
	purpose hsm.Purpose
	file    []byte // PEM
	public  *ecdsa.PublicKey
	name    tpm2.TPM2BName
	wire    tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
}

// generate makes a new key. Its private area comes back encrypted in a session of
// its own, on top of the storage root key's wrapping.
func (s *Store) generate(st *state, p hsm.Purpose) (*key, error) {
	st.makeRoom()
	r, err := deriveRoot(s.dev, s.parent)
	if err != nil {
		return nil, err
	}
	defer r.flush()
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, r.salted(tpm2.AESEncryption(sessionKeyBits, tpm2.EncryptInOut))...)
	rsp, err := tpm2.Create{
		ParentHandle: r.auth(session),
		InPublic:     tpm2.New2B(keyTemplate()),
	}.Execute(s.dev)
	if err != nil {
		return nil, err
	}
	var file bytes.Buffer
	// No description: tpm2-openssl 1.1 does not read files that have one.
	if err := keyfile.Encode(&file, keyfile.NewTPMKey(keyfile.OIDLoadableKey, rsp.OutPublic, rsp.OutPrivate)); err != nil {
		return nil, err
	}
	return parseKey(p, file.Bytes())
}

// readKey reads and checks the key file of purpose p; without one it is
// hsm.ErrNoKey.
func (s *Store) readKey(p hsm.Purpose) (*key, error) {
	f, err := os.Open(s.path(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load key %s: %w", p, hsm.ErrNoKey)
	}
	if err != nil {
		return nil, fmt.Errorf("load key %s: %w", p, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("load key %s: %w", p, err)
	}
	return parseKey(p, b)
}

// parseKey reads a key file and refuses every key that generate would not have
// made: one that may leave the TPM, decrypt, or came from outside.
func parseKey(p hsm.Purpose, file []byte) (*key, error) {
	k, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("load key %s: %w", p, err)
	}
	k.purpose = p
	return k, nil
}

func parse(file []byte) (*key, error) {
	f, err := keyfile.Decode(file)
	if err != nil {
		return nil, err
	}
	if !f.Keytype.Equal(keyfile.OIDLoadableKey) || f.Parent != tpm2.TPMRHOwner || !f.EmptyAuth ||
		len(f.Policy) > 0 || len(f.AuthPolicy) > 0 || len(f.Secret.Buffer) > 0 {
		return nil, errors.New("the file holds another kind of key than this program makes")
	}
	public, err := f.Pubkey.Contents()
	if err != nil {
		return nil, err
	}
	if public.ObjectAttributes != keyAttributes() || public.Type != tpm2.TPMAlgECC ||
		public.NameAlg != tpm2.TPMAlgSHA256 || len(public.AuthPolicy.Buffer) > 0 {
		return nil, errors.New("the key has other attributes than a signing key of this program")
	}
	pub, err := tpm2.Pub(*public)
	if err != nil {
		return nil, err
	}
	ec, ok := pub.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("the key is not on the curve P-256")
	}
	if _, err := ec.ECDH(); err != nil { // checks that the point is on the curve
		return nil, err
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, err
	}
	return &key{file: file, public: ec, name: *name, wire: f.Pubkey, private: f.Privkey}, nil
}

// signer is a key as a crypto.Signer.
type signer struct {
	store *Store
	key   *key
}

// Public returns the *ecdsa.PublicKey.
func (s *signer) Public() crypto.PublicKey { return s.key.public }

// Sign signs a digest; see Store.Signer.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		return nil, fmt.Errorf("sign with %s: no hash named", s.key.purpose)
	}
	release, err := s.store.take(context.Background())
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.key.purpose, err)
	}
	defer release()
	sig, err := s.store.sign(s.key, digest, opts.HashFunc())
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.key.purpose, err)
	}
	return sig, nil
}

// hashAlg returns the TPM's name of a hash.
func hashAlg(h crypto.Hash) (tpm2.TPMAlgID, bool) {
	switch h {
	case crypto.SHA256:
		return tpm2.TPMAlgSHA256, true
	case crypto.SHA384:
		return tpm2.TPMAlgSHA384, true
	case crypto.SHA512:
		return tpm2.TPMAlgSHA512, true
	}
	return 0, false
}

// sign signs with key k; the caller holds the turn.
func (s *Store) sign(k *key, digest []byte, hash crypto.Hash) ([]byte, error) {
	alg, ok := hashAlg(hash)
	switch {
	case !ok:
		return nil, fmt.Errorf("hash %v is not offered; use SHA-256, SHA-384 or SHA-512", hash)
	case len(digest) != hash.Size():
		return nil, fmt.Errorf("a digest of %d bytes is no %v", len(digest), hash)
	}
	var sig []byte
	err := s.attempt(func(st *state) (err error) {
		sig, err = signOnce(st, k, digest, alg)
		return err
	})
	return sig, err
}

func signOnce(st *state, k *key, digest []byte, alg tpm2.TPMAlgID) ([]byte, error) {
	l, err := st.load(k)
	if err != nil {
		return nil, err
	}
	rsp, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: l.handle, Name: l.name, Auth: st.session},
		Digest:    tpm2.TPM2BDigest{Buffer: digest},
		InScheme: tpm2.TPMTSigScheme{
			Scheme:  tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: alg}),
		},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(st.dev)
	if err != nil {
		return nil, err
	}
	ec, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, err
	}
	sig, err := asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(ec.SignatureR.Buffer),
		new(big.Int).SetBytes(ec.SignatureS.Buffer),
	})
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.public, digest, sig) {
		return nil, errors.New("the TPM returned a wrong signature")
	}
	return sig, nil
}
