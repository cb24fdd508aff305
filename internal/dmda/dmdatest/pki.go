package dmdatest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"time"
)

// How long certificates run; they begin a day ago, because a guest's clock may lag.
const (
	backdate = 24 * time.Hour
	lifetime = 365 * 24 * time.Hour
)

// PKI is the provider's certificate authority and what it issued to the provider
// itself. Keys are ECDSA P-256 in memory. Safe for concurrent use.
type PKI struct {
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	server tls.Certificate
	client tls.Certificate
	signer tls.Certificate
	crlURL string

	rsaOnce   sync.Once // see signerFor
	rsaSigner tls.Certificate
	rsaErr    error

	mu      sync.Mutex
	revoked []x509.RevocationListEntry
	number  int64
	crlMode CRLMode
}

// PKIOptions name the provider in its certificates.
type PKIOptions struct {
	Name   string   // common name of the authority; empty: "De-Mail provider (simulated)"
	Hosts  []string // DNS names and IP addresses of the server; the first is also the client's name
	CRLURL string   // goes into every certificate; empty: none
}

// NewPKI makes an authority, a server certificate, a client certificate for
// pushes and one for signing messages.
func NewPKI(opt PKIOptions) (*PKI, error) {
	if len(opt.Hosts) == 0 {
		return nil, errors.New("make PKI: no host name")
	}
	if opt.Name == "" {
		opt.Name = "De-Mail provider (simulated)"
	}
	p := &PKI{crlURL: opt.CRLURL}
	if err := p.makeCA(opt.Name); err != nil {
		return nil, fmt.Errorf("make PKI: %w", err)
	}
	for _, c := range []struct {
		to   *tls.Certificate
		tmpl *x509.Certificate
	}{
		{&p.server, hostTemplate(opt.Hosts, x509.ExtKeyUsageServerAuth)},
		{&p.client, hostTemplate(opt.Hosts, x509.ExtKeyUsageClientAuth)},
		{&p.signer, signerTemplate(opt.Name + " signer")},
	} {
		cert, err := p.withKey(c.tmpl)
		if err != nil {
			return nil, fmt.Errorf("make PKI: %w", err)
		}
		*c.to = cert
	}
	return p, nil
}

func (p *PKI) makeCA(name string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	p.caKey = key
	p.ca = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	p.ca, err = p.issue(p.ca, key.Public())
	return err
}

func hostTemplate(hosts []string, use x509.ExtKeyUsage) *x509.Certificate {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return t
}

func signerTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
	}
}

// clientTemplate is the certificate of a token.
func clientTemplate(token string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: token}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// issue signs a certificate for pub; serial and validity are set here.
func (p *PKI) issue(t *x509.Certificate, pub crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	now := time.Now()
	t.SerialNumber = serial
	t.NotBefore, t.NotAfter = now.Add(-backdate), now.Add(lifetime)
	if p.crlURL != "" && !t.IsCA {
		t.CRLDistributionPoints = []string{p.crlURL}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.ca, pub, p.caKey)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// withKey issues a certificate for a new key.
func (p *PKI) withKey(t *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := p.issue(t, key.Public())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

// CAPEM is the authority's certificate, for a gateway's configuration.
func (p *PKI) CAPEM() []byte { return certPEM(p.ca) }

// Pool holds the authority alone.
func (p *PKI) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return pool
}

// Server is the provider's server certificate; Client the one it pushes with;
// Signer the one it signs messages with.
func (p *PKI) Server() tls.Certificate { return p.server }

// Client is the certificate that the provider pushes with.
func (p *PKI) Client() tls.Certificate { return p.client }

// Signer is the certificate that the provider signs messages with.
func (p *PKI) Signer() tls.Certificate { return p.signer }

// IssueClient makes a key in memory and a certificate for a token.
func (p *PKI) IssueClient(token string) (tls.Certificate, error) {
	cert, err := p.withKey(clientTemplate(token))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("issue for token %s: %w", token, err)
	}
	return cert, nil
}

// IssueFromCSR answers a PEM certificate request with a PEM chain for a token.
// The request proves the key; its subject is ignored, the token's name counts.
func (p *PKI) IssueFromCSR(csrPEM []byte, token string) ([]byte, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil {
		return nil, errors.New("issue from CSR: no PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("issue from CSR: %w", err)
	}
	cert, err := p.issue(clientTemplate(token), csr.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("issue from CSR: %w", err)
	}
	return append(certPEM(cert), p.CAPEM()...), nil
}

// IssueSigner certifies a key for signing messages, for instance an RSA one.
func (p *PKI) IssueSigner(key crypto.Signer) (*x509.Certificate, error) {
	return p.issue(signerTemplate("signer of messages (simulated)"), key.Public())
}

// certPEM is the certificate as a PEM block.
func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// CACertificate is the authority's certificate.
func (p *PKI) CACertificate() *x509.Certificate { return p.ca }
