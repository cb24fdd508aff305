package uki

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/foxboron/go-uefi/authenticode"
)

// ErrNotSigned is returned by Verify for an image without any signature.
var ErrNotSigned = errors.New("image has no signature")

// Sign returns a copy of the image with an Authenticode signature (SHA-256,
// PKCS#1 v1.5) for Secure Boot. The key must be RSA and belong to cert, because
// firmware knows nothing else for sure. The signature carries the current
// time. Signing an image twice keeps both signatures.
func Sign(image []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("sign UKI: certificate has a key of type %T: an RSA key is needed", cert.PublicKey)
	}
	if !pub.Equal(key.Public()) {
		return nil, errors.New("sign UKI: the key does not belong to the certificate")
	}
	bin, err := authenticode.Parse(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	if _, err := bin.Sign(key, cert); err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	signed := bin.Bytes()
	// The signature does not cover the checksum, so it can follow.
	if err := setCheckSum(signed); err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	if err := Verify(signed, cert); err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	return signed, nil
}

// Verify checks that one of the image's signatures covers it and was made with
// the key of cert. It looks at neither dates nor certificate chains; firmware
// does not either.
func Verify(image []byte, cert *x509.Certificate) error {
	bin, err := authenticode.Parse(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("verify UKI: %w", err)
	}
	ok, err := bin.Verify(cert)
	switch {
	case errors.Is(err, authenticode.ErrNoSignatures):
		return fmt.Errorf("verify UKI: %w", ErrNotSigned)
	case err != nil:
		return fmt.Errorf("verify UKI: %w", err)
	case !ok:
		return errors.New("verify UKI: no signature by this certificate")
	}
	return nil
}
