package keyd

import (
	"context"
	"crypto"
	"crypto/rand"
	_ "crypto/sha256" // the hashes whose sizes are known here
	_ "crypto/sha512"
	"fmt"
	"io"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

func keyCodes() []localapi.Code { return keyclient.Codes() }

// signMethods are the signer socket's. Whoever may use any key may call them;
// which key, the handlers decide.
func (s *Service) signMethods() []localapi.Method {
	var anyone []localapi.Caller
	for _, p := range hsm.Purposes() {
		anyone = append(anyone, s.opts.Signers[p]...)
	}
	return []localapi.Method{
		{Name: keyclient.MethodSign, Allow: anyone, MaxBody: 1 << 10, Timeout: signTimeout, Handler: localapi.Typed(s.handleSign)},
		{Name: keyclient.MethodKey, Allow: anyone, MaxBody: 1 << 10, Handler: localapi.Typed(s.handleKey)},
	}
}

// permitted returns the key of purpose p for a peer that may use it.
func (s *Service) permitted(peer localapi.Peer, p hsm.Purpose) (*entry, error) {
	if !p.Valid() {
		return nil, fmt.Errorf("%w %q", hsm.ErrUnknownPurpose, p)
	}
	if !localapi.Allowed(s.opts.Signers[p], peer) {
		return nil, fmt.Errorf("key %s (%s): %w", p, peer, hsm.ErrDenied)
	}
	return s.lookup(p)
}

func (s *Service) handleKey(_ context.Context, peer localapi.Peer, in keyclient.KeyRequest) (keyclient.KeyResponse, error) {
	e, err := s.permitted(peer, in.Purpose)
	if err != nil {
		return keyclient.KeyResponse{}, err
	}
	out := keyclient.KeyResponse{Public: e.public}
	if e.chain != nil {
		out.Chain = e.chain.der()
	}
	return out, nil
}

func (s *Service) handleSign(_ context.Context, peer localapi.Peer, in keyclient.SignRequest) (keyclient.SignResponse, error) {
	e, err := s.permitted(peer, in.Purpose)
	if err != nil {
		return keyclient.SignResponse{}, err
	}
	hash, err := keyclient.ParseHash(in.Hash)
	if err == nil && len(in.Digest) != hash.Size() {
		err = fmt.Errorf("a digest of %d bytes is no %s", len(in.Digest), in.Hash)
	}
	if err != nil {
		return keyclient.SignResponse{}, fmt.Errorf("%w: %w", localapi.ErrBadRequest, err)
	}
	sig, err := s.counted(peer, in.Purpose, e.signer).Sign(rand.Reader, in.Digest, hash)
	if err != nil {
		return keyclient.SignResponse{}, err
	}
	return keyclient.SignResponse{Signature: sig}, nil
}

// countedSigner is a key in the hands of one caller: each use is bounded, counted
// and logged.
type countedSigner struct {
	crypto.Signer
	use func(sign func() ([]byte, error)) ([]byte, error)
}

// counted returns the key for one caller.
func (s *Service) counted(peer localapi.Peer, p hsm.Purpose, key crypto.Signer) crypto.Signer {
	return countedSigner{key, func(sign func() ([]byte, error)) ([]byte, error) {
		if !s.bucket.take(peer.UID) {
			return nil, fmt.Errorf("key %s (%s): %w", p, peer, hsm.ErrTooManyUses)
		}
		sig, err := sign()
		if err != nil {
			return nil, err
		}
		s.log.Info("key used", "purpose", p, "uid", peer.UID, "pid", peer.PID, "count", s.uses.add(p))
		return sig, nil
	}}
}

// Sign implements crypto.Signer.
func (c countedSigner) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return c.use(func() ([]byte, error) { return c.Signer.Sign(random, digest, opts) })
}
