// Package keyclient uses the keys that keyd holds: as a crypto.Signer, and as the
// certificate of a TLS client or server. It also is the definition of keyd's
// protocol, which hsm/keyd serves.
//
// It links neither the TPM nor any key: what a broken process can do through it
// is ask keyd, over a Unix socket (internal/localapi), for one signature after
// another, for its own purposes, counted and bounded.
//
// Promises: every call ends within its time bound; what keyd refused satisfies
// errors.Is with the sentinels of package hsm; a renewed certificate serves new
// TLS connections within two seconds, without a restart; a keyd that is away
// for a moment does not take the certificate away.
//
// It does not verify signatures (the TPM's side and the TLS peer do) and does
// not check whom a certificate names (keyd did when it was installed).
package keyclient

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// signTimeout bounds one signature with its wait for a busy TPM.
const signTimeout = 20 * time.Second

// Client talks to keyd's signer socket. It may be used by several goroutines.
type Client struct {
	api *localapi.Client
}

// New returns a client of the signer socket at path (layout.KeydSignSocket). It
// does not connect yet.
func New(socket string) *Client {
	return &Client{localapi.Dial(socket, Codes()...)}
}

// Signer returns the key of purpose p. Its public part is fetched now; a key in
// keyd never changes while keyd's data volume lives.
//
// The signer takes digests of SHA-256, SHA-384 and SHA-512, ends within 20 s, and
// may be used by several goroutines at once. It has its own randomness.
func (c *Client) Signer(ctx context.Context, p hsm.Purpose) (crypto.Signer, error) {
	public, _, err := c.key(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", p, err)
	}
	return &signer{c.api, p, public}, nil
}

// Certificate returns the certificate of purpose p with its chain, and the key
// as its private key. Without a certificate it is hsm.ErrNoCertificate. Use
// Source where the certificate may be renewed meanwhile.
func (c *Client) Certificate(ctx context.Context, p hsm.Purpose) (tls.Certificate, error) {
	public, chain, err := c.key(ctx, p)
	if err == nil && len(chain) == 0 {
		err = hsm.ErrNoCertificate
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s: %w", p, err)
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("certificate %s: %w", p, err)
	}
	return tls.Certificate{
		Certificate:                  chain,
		PrivateKey:                   &signer{c.api, p, public},
		SupportedSignatureAlgorithms: signatureSchemes(),
		Leaf:                         leaf,
	}, nil
}

// signatureSchemes are what every TPM of the PC Client profile can do: SHA-512
// is optional there, so TLS must not choose it.
func signatureSchemes() []tls.SignatureScheme {
	return []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256, tls.ECDSAWithP384AndSHA384}
}

// key asks for the public side of a key.
func (c *Client) key(ctx context.Context, p hsm.Purpose) (crypto.PublicKey, [][]byte, error) {
	var r KeyResponse
	if err := c.api.Call(ctx, MethodKey, KeyRequest{p}, &r); err != nil {
		return nil, nil, err
	}
	public, err := x509.ParsePKIXPublicKey(r.Public)
	if err != nil {
		return nil, nil, err
	}
	return public, r.Chain, nil
}

// signer is a key in keyd.
type signer struct {
	api     *localapi.Client
	purpose hsm.Purpose
	public  crypto.PublicKey
}

// Public returns the public key that was fetched when the signer was made.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign asks keyd for a signature; see Client.Signer.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := s.sign(digest, opts)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.purpose, err)
	}
	return sig, nil
}

func (s *signer) sign(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		return nil, errors.New("no hash named")
	}
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, errors.New("RSA-PSS is not offered")
	}
	name, err := HashName(opts.HashFunc())
	if err != nil {
		return nil, err
	}
	if len(digest) != opts.HashFunc().Size() {
		return nil, fmt.Errorf("a digest of %d bytes is no %s", len(digest), name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	var r SignResponse
	if err := s.api.Call(ctx, MethodSign, SignRequest{s.purpose, name, digest}, &r); err != nil {
		return nil, err
	}
	return r.Signature, nil
}
