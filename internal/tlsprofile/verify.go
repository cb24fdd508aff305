package tlsprofile

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrName: the certificate carries none of the expected names.
var ErrName = errors.New("certificate carries none of the expected names")

// VerifyPeer checks a finished handshake of a caller whose tls.Config left that
// to it: the profile, that the peer's chain ends in roots at this time, that its
// use is allowed, and that the leaf carries one of names (DNS names or IP
// addresses). It returns the chain that holds, leaf first, root last.
func VerifyPeer(s tls.ConnectionState, roots *x509.CertPool, names []string, use x509.ExtKeyUsage, now time.Time) ([]*x509.Certificate, error) {
	if err := CheckState(s); err != nil {
		return nil, err
	}
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("peer showed no certificate")
	}
	leaf, inter := s.PeerCertificates[0], x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		inter.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}})
	if err != nil {
		return nil, fmt.Errorf("peer's certificate: %w", err)
	}
	for _, name := range names {
		if leaf.VerifyHostname(name) == nil {
			return chains[0], nil
		}
	}
	return nil, fmt.Errorf("%w: it carries %s", ErrName, carried(leaf))
}

// carried lists a certificate's names for a message, at most a few.
func carried(c *x509.Certificate) string {
	const most = 5
	all := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "none at all"
	}
	if len(all) > most {
		all = append(all[:most], "...")
	}
	return strings.Join(all, ", ")
}
