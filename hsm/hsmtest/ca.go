package hsmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// CA is a certificate authority for tests, with its key in memory.
type CA struct {
	Certificate *x509.Certificate
	issuers     []*x509.Certificate // from Certificate upwards, without the root
	key         *ecdsa.PrivateKey
	root        *x509.Certificate
}

// NewCA returns a self-signed authority that is valid for a day around now.
func NewCA(t testing.TB, name string) *CA {
	t.Helper()
	ca := &CA{key: NewSoftKey(t)}
	ca.Certificate = newCertificate(t, caTemplate(name), nil, ca.key.Public(), ca.key)
	ca.root = ca.Certificate
	return ca
}

// Intermediate returns an authority below ca.
func (ca *CA) Intermediate(t testing.TB, name string) *CA {
	t.Helper()
	sub := &CA{key: NewSoftKey(t), root: ca.root}
	sub.Certificate = newCertificate(t, caTemplate(name), ca.Certificate, sub.key.Public(), ca.key)
	sub.issuers = append([]*x509.Certificate{sub.Certificate}, ca.issuers...)
	return sub
}

// Pool holds the root, as somebody has it who trusts this authority.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.root)
	return pool
}

// Issue makes a certificate for a public key with one extended key usage and the
// DNS names given. adjust, which may be nil, changes the template before.
func (ca *CA) Issue(t testing.TB, public crypto.PublicKey, usage x509.ExtKeyUsage, names []string, adjust func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	template := newTemplate("leaf")
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	template.DNSNames = names
	if adjust != nil {
		adjust(template)
	}
	return newCertificate(t, template, ca.Certificate, public, ca.key)
}

// Chain returns leaf and the authorities above it, without the root, as PEM.
func (ca *CA) Chain(leaf *x509.Certificate) []byte {
	return PEM(append([]*x509.Certificate{leaf}, ca.issuers...)...)
}

// PEM encodes certificates in the order given.
func PEM(certificates ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certificates {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func caTemplate(name string) *x509.Certificate {
	c := newTemplate(name)
	c.IsCA = true
	c.BasicConstraintsValid = true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return c
}

func newTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-12 * time.Hour),
		NotAfter:  time.Now().Add(12 * time.Hour),
	}
}

// newCertificate signs template; without a parent it is self-signed.
func newCertificate(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
