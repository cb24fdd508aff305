package dmdatest

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"
)

// crlLifetime: a peer asks every 24 hours at least (TR-01201, demail.md §3).
const crlLifetime = 24 * time.Hour

// CRLMode says what the revocation list is like.
type CRLMode int

// The modes of SetCRL.
const (
	CRLFresh   CRLMode = iota // valid, with everything that was revoked
	CRLExpired                // its next update was due an hour ago
	CRLDown                   // the server answers 503
	CRLForeign                // signed by somebody else
)

// ErrCRLDown: the list is down on demand.
var ErrCRLDown = errors.New("revocation list is down")

// SetCRL changes what CRL and CRLHandler give from now on.
func (p *PKI) SetCRL(mode CRLMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crlMode = mode
}

// Revoke puts certificates on the list; the provider itself refuses them at once.
func (p *PKI) Revoke(certs ...*x509.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range certs {
		p.revoked = append(p.revoked, x509.RevocationListEntry{
			SerialNumber: c.SerialNumber, RevocationTime: time.Now(), ReasonCode: 1, // key compromise, RFC 5280 §5.3.1
		})
	}
}

// isRevoked reports whether c is on the list.
func (p *PKI) isRevoked(c *x509.Certificate) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.revoked {
		if r.SerialNumber.Cmp(c.SerialNumber) == 0 {
			return true
		}
	}
	return false
}

// CRL is the revocation list of now in DER (RFC 5280 §5).
func (p *PKI) CRL() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.crlMode == CRLDown {
		return nil, ErrCRLDown
	}
	p.number++
	now := time.Now()
	list := &x509.RevocationList{
		Number: big.NewInt(p.number), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(crlLifetime),
		RevokedCertificateEntries: p.revoked,
	}
	if p.crlMode == CRLExpired {
		list.ThisUpdate, list.NextUpdate = now.Add(-2*crlLifetime), now.Add(-time.Hour)
	}
	issuer, key := p.ca, p.caKey
	if p.crlMode == CRLForeign {
		other := &PKI{}
		if err := other.makeCA(p.ca.Subject.CommonName); err != nil {
			return nil, fmt.Errorf("make revocation list: %w", err)
		}
		issuer, key = other.ca, other.caKey
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, issuer, key)
	if err != nil {
		return nil, fmt.Errorf("make revocation list: %w", err)
	}
	return der, nil
}

// CRLHandler serves the list at every path.
func (p *PKI) CRLHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		der, err := p.CRL()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/pkix-crl") // RFC 5280 §4.2.1.13
		_, _ = w.Write(der)
	})
}
