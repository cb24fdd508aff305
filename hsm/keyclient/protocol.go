package keyclient

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// The methods of keyd's signer socket (the first two) and control socket.
const (
	MethodSign    = "POST /v1/sign"        // SignRequest → SignResponse
	MethodKey     = "POST /v1/key"         // KeyRequest → KeyResponse
	MethodList    = "GET /v1/keys"         // nothing → ListResponse
	MethodCSR     = "POST /v1/csr"         // CSRRequest → CSRResponse
	MethodInstall = "POST /v1/certificate" // InstallRequest → Status
)

// SignRequest asks for one signature.
type SignRequest struct {
	Purpose hsm.Purpose `json:"purpose"`
	Hash    string      `json:"hash"`   // "sha256", "sha384" or "sha512"
	Digest  []byte      `json:"digest"` // as long as the hash
}

// SignResponse brings it, in ASN.1 (RFC 3279, 2.2.3).
type SignResponse struct {
	Signature []byte `json:"signature"`
}

// KeyRequest asks for the public side of a key.
type KeyRequest struct {
	Purpose hsm.Purpose `json:"purpose"`
}

// KeyResponse brings it. Chain is empty as long as no certificate is installed.
type KeyResponse struct {
	Public []byte   `json:"public"`          // SubjectPublicKeyInfo, DER
	Chain  [][]byte `json:"chain,omitempty"` // certificates, DER, the key's own first
}

// Subject is what a certificate request asks to be certified.
type Subject struct {
	CommonName string       `json:"commonName"` // 1 to 64 characters (RFC 5280, A.1)
	DNSNames   []string     `json:"dnsNames,omitempty"`
	Addresses  []netip.Addr `json:"addresses,omitempty"`
}

// CSRRequest asks for a certificate request.
type CSRRequest struct {
	Purpose hsm.Purpose `json:"purpose"`
	Subject Subject     `json:"subject"`
}

// CSRResponse brings it.
type CSRResponse struct {
	PEM string `json:"pem"` // PKCS #10 (RFC 2986)
}

// InstallRequest brings the certificates for a key.
type InstallRequest struct {
	Purpose hsm.Purpose `json:"purpose"`
	Chain   string      `json:"chain"` // PEM, the key's own first, then its issuers in order
}

// Status is one key for people.
type Status struct {
	Purpose     hsm.Purpose  `json:"purpose"`
	Fingerprint string       `json:"fingerprint,omitempty"` // hsm.Fingerprint; "" without a key
	Uses        uint64       `json:"uses"`                  // signatures since the key exists, see hsm/keyd
	Certificate *Certificate `json:"certificate,omitempty"` // nil: none is installed
	Fault       string       `json:"fault,omitempty"`       // why the key or its certificate cannot be used
}

// Certificate is an installed certificate for people.
type Certificate struct {
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"` // hexadecimal
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	DNSNames  []string  `json:"dnsNames,omitempty"`
}

// ListResponse holds every purpose in the order of hsm.Purposes.
type ListResponse struct {
	Keys []Status `json:"keys"`
}

// Codes are the errors of package hsm as they cross keyd's sockets.
func Codes() []localapi.Code {
	return []localapi.Code{
		{Name: "unknown-purpose", Err: hsm.ErrUnknownPurpose, Status: http.StatusNotFound},
		{Name: "no-key", Err: hsm.ErrNoKey, Status: http.StatusNotFound},
		{Name: "no-certificate", Err: hsm.ErrNoCertificate, Status: http.StatusNotFound},
		{Name: "certificate-mismatch", Err: hsm.ErrCertificateMismatch},
		{Name: "bad-certificate", Err: hsm.ErrBadCertificate},
		{Name: "locked-out", Err: hsm.ErrLockedOut, Status: http.StatusServiceUnavailable},
		{Name: "key-denied", Err: hsm.ErrDenied, Status: http.StatusForbidden},
		{Name: "no-device", Err: hsm.ErrNoDevice, Status: http.StatusServiceUnavailable},
		{Name: "device-changed", Err: hsm.ErrDeviceChanged, Status: http.StatusServiceUnavailable},
		{Name: "volume-locked", Err: hsm.ErrLocked, Status: http.StatusServiceUnavailable},
		{Name: "too-many-uses", Err: hsm.ErrTooManyUses, Status: http.StatusTooManyRequests},
	}
}

// HashName returns the name of a hash on the wire.
func HashName(h crypto.Hash) (string, error) {
	switch h {
	case crypto.SHA256:
		return "sha256", nil
	case crypto.SHA384:
		return "sha384", nil
	case crypto.SHA512:
		return "sha512", nil
	}
	return "", fmt.Errorf("hash %v is not offered; use SHA-256, SHA-384 or SHA-512", h)
}

// ParseHash is the reverse of HashName.
func ParseHash(name string) (crypto.Hash, error) {
	switch name {
	case "sha256":
		return crypto.SHA256, nil
	case "sha384":
		return crypto.SHA384, nil
	case "sha512":
		return crypto.SHA512, nil
	}
	return 0, fmt.Errorf("hash %q is not offered; use sha256, sha384 or sha512", name)
}

// Describe returns a certificate for people.
func Describe(c *x509.Certificate) *Certificate {
	return &Certificate{
		Subject:   c.Subject.String(),
		Issuer:    c.Issuer.String(),
		Serial:    c.SerialNumber.Text(16),
		NotBefore: c.NotBefore,
		NotAfter:  c.NotAfter,
		DNSNames:  c.DNSNames,
	}
}
