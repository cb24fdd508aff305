package keyd

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

const (
	// maxChain certificates may be installed for one key.
	maxChain = 8
	// clockSlack is how far in the future a certificate may begin: the box's
	// clock may be behind before it was set.
	clockSlack = 24 * time.Hour
)

// chain is a certificate and its issuers in order, at least one.
type chain struct {
	certificates []*x509.Certificate
}

// parseChain reads PEM that holds certificates and nothing else.
func parseChain(b []byte) (*chain, error) {
	c := &chain{}
	for rest := bytes.TrimSpace(b); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if !bytes.HasPrefix(rest, []byte("-----BEGIN ")) {
			return nil, badChain(errors.New("there is something other than PEM certificates"))
		}
		if block, rest = pem.Decode(rest); block == nil {
			return nil, badChain(errors.New("the PEM is damaged"))
		}
		if block.Type != "CERTIFICATE" {
			return nil, badChain(fmt.Errorf("there is a PEM block %q; never send private keys", block.Type))
		}
		if len(c.certificates) == maxChain {
			return nil, badChain(fmt.Errorf("more than %d certificates", maxChain))
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, badChain(fmt.Errorf("certificate %d: %w", len(c.certificates)+1, err))
		}
		c.certificates = append(c.certificates, certificate)
	}
	if len(c.certificates) == 0 {
		return nil, badChain(errors.New("there is no certificate"))
	}
	return c, nil
}

func badChain(err error) error {
	return localapi.WithRemedy(fmt.Errorf("%w: %w", hsm.ErrBadCertificate, err),
		"send the certificate and its issuers in order, as PEM")
}

func (c *chain) leaf() *x509.Certificate { return c.certificates[0] }

func (c *chain) der() [][]byte {
	var all [][]byte
	for _, certificate := range c.certificates {
		all = append(all, certificate.Raw)
	}
	return all
}

func (c *chain) pem() []byte {
	var b []byte
	for _, certificate := range c.certificates {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})...)
	}
	return b
}

// fits reports whether the first certificate is for the key.
func (c *chain) fits(public crypto.PublicKey) error {
	key, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	if ok && key.Equal(c.leaf().PublicKey) {
		return nil
	}
	err := hsm.ErrCertificateMismatch
	if i := slices.IndexFunc(c.certificates, func(o *x509.Certificate) bool { return ok && key.Equal(o.PublicKey) }); i > 0 {
		return localapi.WithRemedy(fmt.Errorf("%w: the one for the key is number %d", err, i+1), "put it first")
	}
	return localapi.WithRemedy(err, "make a new request with `pforte key csr` and have that one certified")
}

// serves reports every reason why the chain cannot serve a purpose at a time.
func (c *chain) serves(p hsm.Purpose, now time.Time) error {
	leaf := c.leaf()
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(!now.Before(leaf.NotAfter), "it expired at %s", leaf.NotAfter.Format(time.RFC3339))
	fault(leaf.NotBefore.After(now.Add(clockSlack)), "it begins at %s only", leaf.NotBefore.Format(time.RFC3339))
	fault(leaf.IsCA, "it is an authority's certificate")
	fault(leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0, "its key usage lacks digitalSignature")
	usage, name := x509.ExtKeyUsageServerAuth, "serverAuth"
	if p == hsm.ProviderClient {
		usage, name = x509.ExtKeyUsageClientAuth, "clientAuth"
	} else {
		fault(len(leaf.DNSNames)+len(leaf.IPAddresses) == 0, "it names no host (subjectAltName)")
	}
	fault(!hasUsage(leaf, usage), "its extended key usage lacks %s", name)
	fault(len(leaf.UnhandledCriticalExtensions) > 0, "it has unknown critical extensions %v", leaf.UnhandledCriticalExtensions)
	for i, issuer := range c.certificates[1:] {
		if err := c.certificates[i].CheckSignatureFrom(issuer); err != nil {
			faults = append(faults, fmt.Errorf("certificate %d is not issued by number %d: %w", i+1, i+2, err))
		}
		fault(!now.Before(issuer.NotAfter), "the issuer, number %d, expired at %s", i+2, issuer.NotAfter.Format(time.RFC3339))
	}
	if len(faults) > 0 {
		return localapi.WithRemedy(fmt.Errorf("%w: %w", hsm.ErrBadCertificate, errors.Join(faults...)),
			"have the request certified again, for this purpose")
	}
	return nil
}

// hasUsage reports whether a certificate may be used so. Without the extension
// it may be used for anything (RFC 5280, 4.2.1.12).
func hasUsage(c *x509.Certificate, usage x509.ExtKeyUsage) bool {
	return len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 ||
		slices.Contains(c.ExtKeyUsage, usage) || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}
