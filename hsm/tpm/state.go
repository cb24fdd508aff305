package tpm

import (
	"bytes"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"gitlab.opencode.de/pforte/pforte/hsm"
)

const (
	// maxLoaded keys stay in the TPM between signatures. A TPM has three places
	// for objects (PC Client Platform Profile, 4.6); loading a third key needs two
	// of them for itself and the storage root key.
	maxLoaded = 2
	// nonceSize of our sessions in bytes, at least half of their SHA-256.
	nonceSize = 32
	// sessionKeyBits is the AES size of parameter encryption that every TPM has.
	sessionKeyBits = 128
	// sha256NameSize: a name is two bytes of algorithm and the digest.
	sha256NameSize = 2 + 32
)

// rootTemplate is template H-2 of the TCG EK Credential Profile (B.4.5) with the
// attributes of a storage root key, as the TPM 2.0 key file format prescribes
// for the parent 0x40000001.
func rootTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM:            true,
			FixedParent:         true,
			SensitiveDataOrigin: true,
			UserWithAuth:        true,
			NoDA:                true,
			Restricted:          true,
			Decrypt:             true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}),
	}
}

// root is the storage root key, loaded for a moment.
type root struct {
	dev    transport.TPM
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// deriveRoot derives the storage root key and compares its name with the pinned
// one, if any. The name is computed here, from the public area that sessions
// are salted to: an impostor can show the right public area, but not use it.
func deriveRoot(dev transport.TPM, pinned []byte) (*root, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(rootTemplate()),
	}.Execute(dev)
	if err != nil {
		return nil, fmt.Errorf("derive the storage root key: %w", known(err))
	}
	r := &root{dev: dev, handle: rsp.ObjectHandle}
	public, err := rsp.OutPublic.Contents()
	if err == nil {
		r.public = *public
		var name *tpm2.TPM2BName
		if name, err = tpm2.ObjectName(public); err == nil {
			r.name = *name
		}
	}
	switch {
	case err != nil:
		err = fmt.Errorf("derive the storage root key: %w", err)
	case pinned != nil && !bytes.Equal(pinned, r.name.Buffer):
		err = changed(fmt.Errorf("derive the storage root key: it has the name %x, not %x", r.name.Buffer, pinned))
	default:
		return r, nil
	}
	r.flush()
	return nil, err
}

func (r *root) flush() { flush(r.dev, r.handle) }

// auth authorises the use of the root key, which has no password, in session.
func (r *root) auth(session tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: r.handle, Name: r.name, Auth: session}
}

// salted are the options of a session whose key only the holder of the root key
// can compute. Encryption is that of the first parameter.
func (r *root) salted(encryption tpm2.AuthOption) []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.Salted(r.handle, r.public), encryption}
}

// flush removes an object. One that cannot be removed is gone already, with the
// power or with the resource manager's connection.
func flush(dev transport.TPM, handle tpm2.TPMHandle) {
	_, _ = tpm2.FlushContext{FlushHandle: handle}.Execute(dev)
}

// state is what lies in the TPM between calls: a session and recently used keys.
// All of it can be made again.
type state struct {
	dev     transport.TPM
	parent  []byte
	session tpm2.Session
	end     func() error
	loaded  []loadedKey // the least recently used first
}

type loadedKey struct {
	purpose hsm.Purpose
	handle  tpm2.TPMHandle
	name    tpm2.TPM2BName
}

// newState opens the session for signing: commands are encrypted on the way in.
// (TPM2_Sign's answer, a signature, is no sized buffer and cannot be encrypted;
// it is no secret either.)
func newState(dev transport.TPM, parent []byte) (*state, error) {
	r, err := deriveRoot(dev, parent)
	if err != nil {
		return nil, err
	}
	defer r.flush()
	session, end, err := tpm2.HMACSession(dev, tpm2.TPMAlgSHA256, nonceSize,
		r.salted(tpm2.AESEncryption(sessionKeyBits, tpm2.EncryptIn))...)
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	return &state{dev: dev, parent: parent, session: session, end: end}, nil
}

// flush removes everything from the TPM.
func (st *state) flush() {
	for _, k := range st.loaded {
		flush(st.dev, k.handle)
	}
	st.loaded = nil
	_ = st.end()
}

// find returns the loaded key of purpose p as the most recently used one.
func (st *state) find(p hsm.Purpose) (loadedKey, bool) {
	for i, k := range st.loaded {
		if k.purpose == p {
			st.loaded = append(append(st.loaded[:i:i], st.loaded[i+1:]...), k)
			return k, true
		}
	}
	return loadedKey{}, false
}

// makeRoom leaves one place for the root key and one for a new key.
func (st *state) makeRoom() {
	for len(st.loaded) >= maxLoaded {
		flush(st.dev, st.loaded[0].handle)
		st.loaded = st.loaded[1:]
	}
}

// load returns key k loaded, loading it if need be.
func (st *state) load(k *key) (loadedKey, error) {
	if l, ok := st.find(k.purpose); ok {
		return l, nil
	}
	st.makeRoom()
	r, err := deriveRoot(st.dev, st.parent)
	if err != nil {
		return loadedKey{}, err
	}
	defer r.flush()
	rsp, err := tpm2.Load{
		ParentHandle: r.auth(st.session),
		InPrivate:    k.private,
		InPublic:     k.wire,
	}.Execute(st.dev)
	if err != nil {
		return loadedKey{}, fmt.Errorf("load key %s: %w", k.purpose, err)
	}
	l := loadedKey{k.purpose, rsp.ObjectHandle, rsp.Name}
	if !bytes.Equal(rsp.Name.Buffer, k.name.Buffer) {
		flush(st.dev, l.handle)
		return loadedKey{}, fmt.Errorf("load key %s: the TPM names it differently", k.purpose)
	}
	st.loaded = append(st.loaded, l)
	return l, nil
}
