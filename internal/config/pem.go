package config

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// maxCertificates bounds one CA entry.
const maxCertificates = 64

// Certificates reads the PEM text of a CA field: certificates of authorities and
// nothing else. Parse has checked every CA field with it, so that it succeeds on
// those of a Document.
func Certificates(text string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	rest := []byte(text)
	for {
		if len(strings.TrimSpace(string(rest))) == 0 {
			break
		}
		block, after := pem.Decode(rest)
		if block == nil || !strings.HasPrefix(strings.TrimSpace(string(rest)), "-----BEGIN ") {
			return nil, errors.New("not PEM, or text beside it")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds %s, and only certificates belong here", quote(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d is damaged", len(certs)+1)
		}
		if !cert.BasicConstraintsValid || !cert.IsCA {
			return nil, fmt.Errorf("certificate %d (%s) is not one of an authority", len(certs)+1, quote(cert.Subject.String()))
		}
		if certs = append(certs, cert); len(certs) > maxCertificates {
			return nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
		rest = after
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	if n := strings.Count(text, "-----BEGIN "); n != len(certs) { // pem.Decode passes over what is damaged
		return nil, fmt.Errorf("%d of %d blocks are damaged", n-len(certs), n)
	}
	return certs, nil
}

// authority checks a CA field and gives the fingerprints of its certificates.
func (c *checker) authority(path, text string) [][sha256.Size]byte {
	if c.missing(path, text, "give the certificate of the authority as PEM") {
		return nil
	}
	certs, err := Certificates(text)
	if err != nil {
		c.fault(path, "give the authority's certificate, or several, as PEM from BEGIN to END", "no usable certificate: %v", err)
		return nil
	}
	prints := make([][sha256.Size]byte, len(certs))
	for i, cert := range certs {
		prints[i] = sha256.Sum256(cert.Raw)
	}
	return prints
}
