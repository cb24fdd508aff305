package config

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// PayloadType is the DSSE payload type of a configuration. It is part of what
// is signed, so that no signature over anything else passes for one.
const PayloadType = "application/vnd.pforte.config.v1+yaml"

// Bounds of an envelope: base64 of MaxSize and room for signatures.
const (
	maxEnvelope   = MaxSize/3*4 + 64<<10
	maxSignatures = 8
	minRSA        = 3072 // bits; TR-03116-4
)

// ErrSignature: the envelope is not signed by the owner's key, or is none.
var ErrSignature = errors.New("not signed by the owner")

// Sign wraps a YAML document into a DSSE envelope (JSON, one line). It refuses
// a document that Parse refuses (the error is then a Faults), because no box
// would take it. The signer's key is ECDSA P-256 or P-384, Ed25519, or RSA of
// 3072 bits or more, which signs with PSS.
func Sign(document []byte, signer crypto.Signer) ([]byte, error) {
	if _, err := Parse(document); err != nil {
		return nil, err
	}
	return Seal(document, signer)
}

// Seal is Sign without judging the document. Owners use Sign; Seal is for those
// who want to see what a box does with a faulty one.
func Seal(document []byte, signer crypto.Signer) ([]byte, error) {
	key, err := newKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("sign configuration: %w", err)
	}
	es, err := dsse.NewEnvelopeSigner(dsseSigner{key, signer})
	if err != nil {
		return nil, fmt.Errorf("sign configuration: %w", err)
	}
	env, err := es.SignPayload(context.Background(), PayloadType, document)
	if err != nil {
		return nil, fmt.Errorf("sign configuration: %w", err)
	}
	out, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("sign configuration: %w", err)
	}
	return append(out, '\n'), nil
}

// Verify gives the YAML document of an envelope that owner signed. It does not
// parse it. Errors wrap ErrSignature.
func Verify(envelope []byte, owner crypto.PublicKey) ([]byte, error) {
	key, err := newKey(owner)
	if err != nil {
		return nil, fmt.Errorf("verify configuration: %w", err)
	}
	env, err := decodeEnvelope(envelope)
	if err != nil {
		return nil, fmt.Errorf("verify configuration: %w: %w", ErrSignature, err)
	}
	ev, err := dsse.NewEnvelopeVerifier(key)
	if err != nil {
		return nil, fmt.Errorf("verify configuration: %w", err)
	}
	_, payload, err := ev.VerifyAndDecode(context.Background(), env)
	if err != nil {
		return nil, fmt.Errorf("verify configuration: %w: no signature by key %s holds", ErrSignature, key.id)
	}
	return payload, nil
}

// Open verifies an envelope and parses what is in it. The error wraps
// ErrSignature or is a Faults.
func Open(envelope []byte, owner crypto.PublicKey) (*Document, error) {
	payload, err := Verify(envelope, owner)
	if err != nil {
		return nil, err
	}
	return Parse(payload)
}

// IsEnvelope reports whether data looks like an envelope rather than YAML.
func IsEnvelope(data []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{"))
}

// Peek gives the document inside an envelope WITHOUT looking at the signatures.
// It is for checking on a laptop that has no owner's key; a box never calls it.
func Peek(envelope []byte) ([]byte, error) {
	env, err := decodeEnvelope(envelope)
	if err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	payload, err := env.DecodeB64Payload()
	if err != nil {
		return nil, fmt.Errorf("read envelope: %w", err)
	}
	return payload, nil
}

func decodeEnvelope(data []byte) (*dsse.Envelope, error) {
	if len(data) > maxEnvelope {
		return nil, fmt.Errorf("envelope of %d bytes, more than %d", len(data), maxEnvelope)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var env dsse.Envelope
	if err := dec.Decode(&env); err != nil {
		return nil, errors.New("no DSSE envelope")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the envelope")
	}
	if env.PayloadType != PayloadType {
		return nil, fmt.Errorf("envelope holds %s, not %s", quote(env.PayloadType), PayloadType)
	}
	if n := len(env.Signatures); n == 0 || n > maxSignatures {
		return nil, fmt.Errorf("envelope has %d signatures, 1 to %d are allowed", n, maxSignatures)
	}
	return &env, nil
}

// key is a public key with its one way of signing. It implements dsse.Verifier.
type key struct {
	public crypto.PublicKey
	id     string
	hash   crypto.Hash // 0 for Ed25519, which takes the message itself
}

func newKey(public crypto.PublicKey) (key, error) {
	k := key{public: public, hash: crypto.SHA256}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
		case elliptic.P384():
			k.hash = crypto.SHA384
		default:
			return key{}, errors.New("key is on a curve other than P-256 and P-384")
		}
	case ed25519.PublicKey:
		k.hash = 0
	case *rsa.PublicKey:
		if p.N.BitLen() < minRSA {
			return key{}, fmt.Errorf("RSA key of %d bits, less than %d", p.N.BitLen(), minRSA)
		}
	default:
		return key{}, fmt.Errorf("key of type %T cannot sign configurations", public)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return key{}, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	k.id = "sha256:" + hex.EncodeToString(sum[:])
	return k, nil
}

// digest gives what the signature algorithm signs, and its options.
func (k key) digest(message []byte) ([]byte, crypto.SignerOpts) {
	var d []byte
	switch k.hash {
	case crypto.SHA256:
		sum := sha256.Sum256(message)
		d = sum[:]
	case crypto.SHA384:
		sum := sha512.Sum384(message)
		d = sum[:]
	default:
		return message, crypto.Hash(0)
	}
	if _, ok := k.public.(*rsa.PublicKey); ok {
		return d, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: k.hash}
	}
	return d, k.hash
}

// KeyID is the SHA-256 of the key as PKIX DER, so that anyone can compute it.
func (k key) KeyID() (string, error) { return k.id, nil }

func (k key) Public() crypto.PublicKey { return k.public }

func (k key) Verify(_ context.Context, message, sig []byte) error {
	d, opts := k.digest(message)
	ok := false
	switch p := k.public.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(p, d, sig)
	case ed25519.PublicKey:
		ok = ed25519.Verify(p, d, sig)
	case *rsa.PublicKey:
		pss, _ := opts.(*rsa.PSSOptions)
		ok = rsa.VerifyPSS(p, k.hash, d, sig, pss) == nil
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

// dsseSigner is a crypto.Signer as the DSSE library wants it.
type dsseSigner struct {
	key
	signer crypto.Signer
}

func (s dsseSigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	d, opts := s.digest(message)
	return s.signer.Sign(rand.Reader, d, opts)
}
