package secureboot

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"time"
)

// KeyBits is the size of the keys that NewKeys makes. Firmware knows RSA-2048
// everywhere, longer keys and other kinds not.
const KeyBits = 2048

// Validity is how long a certificate from NewKeys is valid. Firmware does not look.
const Validity = 10 * 365 * 24 * time.Hour

// NewKeys makes a set of keys in memory, for development and tests: whoever ships
// boxes keeps them in hardware. The certificates are self-signed, named "<name> PK"
// and so on, and valid from the given time for Validity.
func NewKeys(name string, from time.Time) (*Keys, error) {
	var keys Keys
	for _, pair := range []struct {
		out  *Pair
		role string
	}{{&keys.PK, PK}, {&keys.KEK, KEK}, {&keys.DB, DB}} {
		var err error
		if *pair.out, err = NewPair(name+" "+pair.role, from); err != nil {
			return nil, err
		}
	}
	return &keys, nil
}

// NewPair makes one RSA key of KeyBits in memory with a self-signed certificate.
func NewPair(name string, from time.Time) (Pair, error) {
	key, err := rsa.GenerateKey(rand.Reader, KeyBits)
	if err != nil {
		return Pair{}, fmt.Errorf("make key %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return Pair{}, fmt.Errorf("make key %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             from.UTC().Truncate(time.Second),
		NotAfter:              from.UTC().Truncate(time.Second).Add(Validity),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Pair{}, fmt.Errorf("make certificate %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, fmt.Errorf("make certificate %s: %w", name, err)
	}
	return Pair{cert, key}, nil
}
