package keyclient

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// SelfSigned makes a server certificate that nobody vouches for, for the time
// before the first one is installed: without it nobody could reach the box to
// ask for a certificate request. Whoever connects compares the key's
// fingerprint (hsm.Fingerprint) with the one on the console.
//
// It is valid always (RFC 5280, 4.1.2.5: 99991231235959Z), for the box's clock
// may not be set yet. One signature is made.
func SelfSigned(key crypto.Signer, commonName string, dnsNames []string, addresses []netip.Addr) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: commonName},
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     dnsNames,
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(a.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("self-signed certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("self-signed certificate: %w", err)
	}
	return tls.Certificate{
		Certificate:                  [][]byte{der},
		PrivateKey:                   key,
		SupportedSignatureAlgorithms: signatureSchemes(),
		Leaf:                         leaf,
	}, nil
}
