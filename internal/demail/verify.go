package demail

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"
)

// Why a message's integrity is not proved. Every error of VerifyIntegrity but
// those of reading the body wraps exactly one of them and adds the reason.
var (
	// ErrNoIntegrity: there is no x-de-mail-integrity field.
	ErrNoIntegrity = errors.New("no integrity field")
	// ErrIntegrityField: the field cannot be read or protects too little.
	ErrIntegrityField = errors.New("bad integrity field")
	// ErrBodyHash: the body is not the one that was hashed.
	ErrBodyHash = errors.New("body hash does not match")
	// ErrHeaderHash: unsigned, and the header is not the one that was hashed.
	ErrHeaderHash = errors.New("header hash does not match")
	// ErrSignature: signed, and the signature does not fit header and key.
	ErrSignature = errors.New("signature does not verify")
	// ErrCertificate: the signature certificate is missing, unreadable, not valid
	// at that time, not from a trusted root, or revoked.
	ErrCertificate = errors.New("signature certificate is not valid")
	// ErrUnsigned: x-de-mail-authoritative is yes and the message is only hashed
	// (TR-01201-3.4 §3.1.13 wants a signature).
	ErrUnsigned = errors.New("message with confirmed sender is not signed")
)

// maxCertificate bounds the certificate's field, in base64 characters.
const maxCertificate = 64 << 10

// VerifyOptions say under which circumstances a signature counts. They are used
// for signed messages only.
type VerifyOptions struct {
	Roots         *x509.CertPool // nil: no signature certificate is trusted
	Intermediates *x509.CertPool
	Time          time.Time // of the check; zero: now
	// Revocation reports whether certificate, issued by issuer, is revoked, or
	// that this cannot be learned: any error fails the check. nil fails too, so
	// that nobody leaves the check out by accident (TR-01201-3.4 §3.1.21).
	Revocation func(certificate, issuer *x509.Certificate) error
}

// Result is what a successful check proved.
type Result struct {
	Algorithm   Algorithm
	Signed      bool
	Certificate *x509.Certificate   // nil if unsigned
	Chain       []*x509.Certificate // leaf first; nil if unsigned
	BodyHash    []byte
}

// VerifyIntegrity checks a message against its own x-de-mail-integrity field
// (TR-01201-3.4 §3.1.21). It always reads body to its end, whatever it finds, so
// that an io.TeeReader may store the body on the way; memory does not grow with
// the body. nil is an empty body.
//
// An unsigned message proves that nothing was changed by accident, no more:
// whoever changes it can compute the field anew. Result.Signed tells the two apart.
func VerifyIntegrity(h *Header, body io.Reader, opt VerifyOptions) (Result, error) {
	in, fieldErr := findIntegrity(h)
	alg := Algorithm{Hash: crypto.SHA256}
	if fieldErr == nil {
		alg = in.alg
	}
	bodyHash, err := hashBody(alg.Hash.New, body)
	if err != nil {
		return Result{}, fmt.Errorf("verify integrity: %w", err)
	}
	res := Result{Algorithm: alg, BodyHash: bodyHash}
	if err = fieldErr; err == nil {
		err = in.check(h, &res, opt)
	}
	if err != nil {
		return Result{}, fmt.Errorf("verify integrity: %w", err)
	}
	return res, nil
}

// findIntegrity parses the first integrity field from the top.
func findIntegrity(h *Header) (*integrity, error) {
	i := h.first(FieldIntegrity)
	if i < 0 {
		return nil, ErrNoIntegrity
	}
	in, err := parseIntegrity(h.fields[i])
	if err == nil {
		err = in.covers(h)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrIntegrityField, err)
	}
	return in, nil
}

// check compares hashes, then the signature and its certificate.
func (in *integrity) check(h *Header, res *Result, opt VerifyOptions) error {
	if !bytes.Equal(in.bh, res.BodyHash) {
		return ErrBodyHash
	}
	digest := in.headerHash(h)
	if in.alg.Scheme == Unsigned {
		if !bytes.Equal(in.b, digest) {
			return ErrHeaderHash
		}
		if h.Get(FieldAuthoritative) == "yes" {
			return ErrUnsigned
		}
		return nil
	}
	i := h.first(FieldSignatureCertificate)
	if i < 0 {
		return fmt.Errorf("%w: field is missing", ErrCertificate)
	}
	cert, err := parseCertificate(h.fields[i].Value())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if err := in.alg.verify(cert.PublicKey, digest, in.b); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	res.Signed, res.Certificate = true, cert
	res.Chain, err = opt.Chain(cert)
	return err
}

// Chain finds a chain from cert, which must be one for signatures, to a root that
// is valid at o.Time and not revoked; leaf first. Errors wrap ErrCertificate.
func (o VerifyOptions) Chain(cert *x509.Certificate) ([]*x509.Certificate, error) {
	chain, err := o.chain(cert)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return chain, nil
}

func (o VerifyOptions) chain(cert *x509.Certificate) ([]*x509.Certificate, error) {
	const usages = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	if cert.KeyUsage != 0 && cert.KeyUsage&usages == 0 {
		return nil, errors.New("certificate is not for signatures")
	}
	roots := o.Roots
	if roots == nil {
		roots = x509.NewCertPool() // nil would mean the system's roots
	}
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: o.Intermediates, CurrentTime: o.Time,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, err
	}
	if o.Revocation == nil {
		return nil, errors.New("no revocation check is set up")
	}
	for _, chain := range chains {
		if err = o.notRevoked(chain); err == nil {
			return chain, nil
		}
	}
	return nil, err
}

// notRevoked asks for every certificate below the root.
func (o VerifyOptions) notRevoked(chain []*x509.Certificate) error {
	for i := 0; i+1 < len(chain); i++ {
		if err := o.Revocation(chain[i], chain[i+1]); err != nil {
			return fmt.Errorf("revocation: %w", err)
		}
	}
	return nil
}

// parseCertificate reads exactly one certificate in base64 (TR-01201-3.4 §3.1.14).
func parseCertificate(value string) (*x509.Certificate, error) {
	if len(value) > maxCertificate {
		return nil, fmt.Errorf("field over %d characters", maxCertificate)
	}
	der, err := base64.StdEncoding.DecodeString(dropSpace(value))
	if err != nil {
		return nil, errors.New("field is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("field holds no X.509 certificate")
	}
	return c, nil
}

func checkCertificateField(v string) error {
	_, err := parseCertificate(v)
	return err
}

// checkIntegrityField judges the form alone.
func checkIntegrityField(v string) error {
	_, err := parseIntegrity(integrityField(v))
	return err
}

// integrityField makes a field of a bare value.
func integrityField(v string) Field {
	return Field{raw: []byte(FieldIntegrity + ": " + v), name: len(FieldIntegrity), value: len(FieldIntegrity) + 1}
}
