package tenants

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// Why no system was found for a certificate. The texts are for the log; what the
// client is told is the caller's business.
var (
	ErrNoCertificate = errors.New("client showed no certificate")
	ErrStranger      = errors.New("certificate belongs to no system of a tenant")
	ErrNetwork       = errors.New("certificate comes from a network it does not belong to")
	ErrSeveral       = errors.New("certificate fits systems of several tenants")
)

func (s *Snapshot) addSystem(t *Tenant, doc *config.Client) error {
	sys := &System{Name: doc.Name, Tenant: t, networks: doc.Networks, Application: doc.Application, Class: doc.Class, senders: map[string]bool{}}
	if sys.Class == "" {
		sys.Class = config.ClassNormal
	}
	for _, sender := range doc.Senders {
		sys.senders[strings.ToLower(sender)] = true
	}
	if sys.Application && len(sys.senders) == 0 {
		return errors.New("an application must name its senders")
	}
	if doc.User != "" {
		return s.logins.add(sys, doc)
	}
	if doc.Fingerprint != "" {
		raw, err := hex.DecodeString(doc.Fingerprint)
		if err != nil || len(raw) != sha256.Size {
			return errors.New("fingerprint is not 64 hex digits")
		}
		s.prints[[32]byte(raw)] = append(s.prints[[32]byte(raw)], sys)
		return nil
	}
	if len(doc.Names) == 0 {
		return errors.New("neither fingerprint nor names")
	}
	var err error
	if _, sys.roots, err = authorities(doc.CA); err != nil {
		return err
	}
	for _, name := range doc.Names {
		key := strings.ToLower(name)
		s.names[key] = append(s.names[key], sys)
	}
	return nil
}

// System returns whose system shows this certificate chain (leaf first) from this
// address at this time. The caller has made sure, by a TLS handshake, that the
// peer holds the leaf's key.
func (s *Snapshot) System(chain []*x509.Certificate, from netip.Addr, now time.Time) (*System, error) {
	if len(chain) == 0 {
		return nil, ErrNoCertificate
	}
	var found *System
	reason := ErrStranger
	for _, candidate := range s.candidates(chain[0]) {
		if err := candidate.accepts(chain, now); err != nil {
			reason = fmt.Errorf("%w: %w", ErrStranger, err)
			continue
		}
		if !candidate.from(from) {
			reason = ErrNetwork
			continue
		}
		if found != nil && found.Tenant != candidate.Tenant {
			return nil, ErrSeveral
		}
		if found == nil {
			found = candidate
		}
	}
	if found == nil {
		return nil, reason
	}
	return found, nil
}

func (s *Snapshot) candidates(leaf *x509.Certificate) []*System {
	all := append([]*System(nil), s.prints[sha256.Sum256(leaf.Raw)]...)
	for _, name := range leaf.DNSNames {
		all = append(all, s.names[strings.ToLower(name)]...)
	}
	return all
}

// accepts checks the chain. A pinned certificate needs no authority, but its time
// counts.
func (s *System) accepts(chain []*x509.Certificate, now time.Time) error {
	leaf := chain[0]
	if s.roots == nil {
		if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
			return fmt.Errorf("certificate is valid from %s to %s only", leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly))
		}
		return nil
	}
	inter := x509.NewCertPool()
	for _, c := range chain[1:] {
		inter.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: inter, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func (s *System) from(a netip.Addr) bool {
	if len(s.networks) == 0 {
		return true
	}
	for _, n := range s.networks {
		if n.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}
