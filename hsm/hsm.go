// Package hsm names the private keys of the box by purpose. Callers speak of
// purposes, never of handles, files or slots, so that a key can move from the
// TPM to a certificate card without any caller noticing.
//
// The keys themselves live in hsm/tpm (and later hsm/pkcs11) and are used by
// one process only, keyd; everybody else goes through hsm/keyclient.
package hsm

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
)

// Purpose says what a key is for. There is at most one key per purpose.
type Purpose string

// The purposes of design.md §7.
const (
	// ProviderClient is the TLS client key towards the De-Mail provider.
	ProviderClient Purpose = "provider-client"
	// TenantServer is the TLS server key towards tenants and for the provider's pushes.
	TenantServer Purpose = "tenant-server"
	// ManagementServer is the TLS server key of the management API.
	ManagementServer Purpose = "management-server"
)

// Purposes lists every purpose that has a signing key.
func Purposes() []Purpose {
	return []Purpose{ProviderClient, TenantServer, ManagementServer}
}

// Valid reports whether p is one of Purposes.
func (p Purpose) Valid() bool {
	for _, q := range Purposes() {
		if p == q {
			return true
		}
	}
	return false
}

// Errors that callers test with errors.Is.
var (
	// ErrUnknownPurpose: the purpose is none of Purposes.
	ErrUnknownPurpose = errors.New("unknown key purpose")
	// ErrNoKey: there is no key for the purpose yet.
	ErrNoKey = errors.New("no key for this purpose")
	// ErrNoCertificate: the key has no certificate yet.
	ErrNoCertificate = errors.New("no certificate for this key")
	// ErrCertificateMismatch: the certificate chain does not fit the key.
	ErrCertificateMismatch = errors.New("certificate does not fit the key")
	// ErrLockedOut: the TPM or card refuses further tries for now.
	ErrLockedOut = errors.New("key device is locked against further tries")
	// ErrDenied: the caller may not use this key.
	ErrDenied = errors.New("caller may not use this key")
	// ErrNoDevice: there is no TPM, or it does not answer.
	ErrNoDevice = errors.New("no key device")
	// ErrDeviceChanged: the keys were made in another TPM, or this one was cleared.
	ErrDeviceChanged = errors.New("the key device is not the one that made the keys")
	// ErrBadCertificate: the certificate fits the key and still cannot serve its purpose.
	ErrBadCertificate = errors.New("certificate cannot serve its purpose")
	// ErrLocked: the data volume is locked, so nothing can be kept.
	ErrLocked = errors.New("the data volume is locked")
	// ErrTooManyUses: the caller used keys faster than the bound allows.
	ErrTooManyUses = errors.New("too many uses of the keys; try again")
)

// Fingerprint is how people compare public keys: "sha256:" and 64 hexadecimal
// digits, over the key's SubjectPublicKeyInfo (RFC 5280, 4.1.2.7).
func Fingerprint(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("fingerprint of a public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
