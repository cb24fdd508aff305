package dmdatest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"fmt"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// rsaBits is what BSI TR-03116-4 asks of new keys at least.
const rsaBits = 3072

// Algorithms are all that TR-01201-3.4 §3.1.21 names: three hashes, each unsigned
// and with three kinds of signature.
func Algorithms() []demail.Algorithm {
	var out []demail.Algorithm
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for _, s := range []demail.Scheme{demail.Unsigned, demail.RSA, demail.ECDSA, demail.RSASSAPSS} {
			out = append(out, demail.Algorithm{Hash: h, Scheme: s})
		}
	}
	return out
}

// Integrity gives the options that seal a message by this algorithm; they fit
// DeMail.Integrity. The RSA key is made when it is first asked for.
func (p *PKI) Integrity(a demail.Algorithm) (demail.IntegrityOptions, error) {
	opt := demail.IntegrityOptions{Hash: a.Hash, PSS: a.Scheme == demail.RSASSAPSS, Time: time.Now()}
	if a.Scheme == demail.Unsigned {
		return opt, nil
	}
	cert, err := p.signerFor(a.Scheme)
	if err != nil {
		return demail.IntegrityOptions{}, err
	}
	opt.Certificate = cert.Leaf
	opt.Signer, _ = cert.PrivateKey.(crypto.Signer)
	return opt, nil
}

// signerFor is the certificate with the kind of key that a scheme needs.
func (p *PKI) signerFor(s demail.Scheme) (tls.Certificate, error) {
	if s == demail.ECDSA || s == demail.Unsigned {
		return p.signer, nil
	}
	p.rsaOnce.Do(func() { p.rsaSigner, p.rsaErr = p.newRSASigner() })
	return p.rsaSigner, p.rsaErr
}

func (p *PKI) newRSASigner() (tls.Certificate, error) {
	key, err := rsa.GenerateKey(rand.Reader, rsaBits)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make RSA signer: %w", err)
	}
	cert, err := p.IssueSigner(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make RSA signer: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}
