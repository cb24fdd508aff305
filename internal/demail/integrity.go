package demail

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"
)

// IntegrityOptions say how ComputeIntegrity proves a message. The zero value
// makes an unsigned SHA-256 field.
type IntegrityOptions struct {
	Hash        crypto.Hash       // SHA256 (also for 0), SHA384 or SHA512
	Signer      crypto.Signer     // nil: hash only
	PSS         bool              // with an RSA key: RSASSA-PSS in place of PKCS #1 v1.5
	Certificate *x509.Certificate // of Signer's key; needed with Signer
	Domain      string            // d=; empty: x-de-mail-originator-provider of the header
	Selector    string            // s=; empty: "de-mail"
	Time        time.Time         // t=; zero: none
}

// ComputeIntegrity gives the folded value of x-de-mail-integrity for a message
// (TR-01201-3.4 §3.1.21). All other fields must be in h already, as they will be
// sent; body is read to its end. The value fits a field that is named exactly
// FieldIntegrity: h.Replace(FieldIntegrity, value). A certificate's field is not
// written; Seal does both.
func ComputeIntegrity(h *Header, body io.Reader, opt IntegrityOptions) (string, error) {
	alg, err := opt.algorithm()
	if err != nil {
		return "", fmt.Errorf("compute integrity: %w", err)
	}
	if opt.Domain == "" {
		opt.Domain = h.Get(FieldOriginatorProvider)
	}
	if opt.Selector == "" {
		opt.Selector = "de-mail"
	}
	bodyHash, err := hashBody(alg.Hash.New, body)
	if err != nil {
		return "", fmt.Errorf("compute integrity: %w", err)
	}
	value := formatIntegrity(alg, opt, h, bodyHash)
	in := &integrity{alg: alg, raw: []byte(FieldIntegrity + ": " + value)}
	in.bFrom, in.bTo = len(in.raw), len(in.raw)
	for _, name := range IntegrityFields() {
		in.fields = append(in.fields, lowerASCII(name))
	}
	b, err := alg.sign(opt.Signer, in.headerHash(h))
	if err != nil {
		return "", fmt.Errorf("compute integrity: %w", err)
	}
	return value + foldBlob(base64.StdEncoding.EncodeToString(b), len(" b=")), nil
}

// Seal computes the integrity of a finished message and writes it into h, with
// the certificate's field if the message is signed and without if not.
func Seal(h *Header, body io.Reader, opt IntegrityOptions) error {
	value, err := ComputeIntegrity(h, body, opt)
	if err != nil {
		return err
	}
	h.Remove(FieldSignatureCertificate)
	if opt.Signer != nil {
		err = h.Replace(FieldSignatureCertificate, FormatCertificate(opt.Certificate))
	}
	if err == nil {
		err = h.Replace(FieldIntegrity, value)
	}
	if err != nil {
		return fmt.Errorf("seal message: %w", err)
	}
	return nil
}

// FormatCertificate is the folded value of x-de-mail-signature-certificate.
func FormatCertificate(c *x509.Certificate) string {
	return foldBlob(base64.StdEncoding.EncodeToString(c.Raw), len(FieldSignatureCertificate)+2)
}

// algorithm chooses the scheme by the kind of key.
func (o IntegrityOptions) algorithm() (Algorithm, error) {
	alg := Algorithm{Hash: o.Hash}
	if alg.Hash == 0 {
		alg.Hash = crypto.SHA256
	}
	if hashName(alg.Hash) == "" {
		return alg, fmt.Errorf("hash %v is not allowed", alg.Hash)
	}
	if o.Signer == nil {
		return alg, nil
	}
	if o.Certificate == nil {
		return alg, errors.New("signer without certificate")
	}
	switch key := o.Signer.Public().(type) {
	case *ecdsa.PublicKey:
		alg.Scheme = ECDSA
		if !key.Equal(o.Certificate.PublicKey) {
			return alg, errors.New("certificate does not fit the signer")
		}
	case *rsa.PublicKey:
		alg.Scheme = RSA
		if o.PSS {
			alg.Scheme = RSASSAPSS
		}
		if !key.Equal(o.Certificate.PublicKey) {
			return alg, errors.New("certificate does not fit the signer")
		}
	default:
		return alg, fmt.Errorf("no signature scheme for a key of type %T", key)
	}
	return alg, nil
}
