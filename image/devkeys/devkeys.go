// Package devkeys makes and keeps the throw-away keys of development images:
// those of the vendor, the owner, the hosting provider, the De-Mail provider and
// the tenants, and Secure Boot's.
//
// A [Set] is a folder. A key is made when it is first asked for and read back ever
// after, so that several builds and tests on one host agree. Files are PKCS #8 in
// PEM, readable by their owner only, without a passphrase: whoever reads the folder
// can sign for every development box made with it. No release ever takes a key
// from here; release builds get every key as a crypto.Signer from their caller.
//
// Several processes may use one folder at once; the first to make a key wins.
package devkeys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the keys that go into, or sign, an image. Tests may use any other name
// of lower-case letters, digits and hyphens.
const (
	OwnerConfig = "owner-config" // signs configurations
	VendorTUF   = "vendor-tuf"   // signs the vendor's update repository, all roles
	OwnerTUF    = "owner-tuf"    // signs the owner's
	PlatformKey = "secureboot-pk"
	KeyExchange = "secureboot-kek"
	Database    = "secureboot-db" // signs the image for Secure Boot
	PCRKey      = "pcr"           // signs PCR policies
)

// rsaBits is what firmware and TPMs are sure to know.
const rsaBits = 2048

// lifetime of certificates, in years. They are renewed by throwing the folder away.
const lifetime = 10

// Set is a folder of keys.
type Set struct {
	dir string
}

// Open makes the folder if it is missing.
func Open(dir string) (*Set, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("development keys: %w", err)
	}
	return &Set{dir}, nil
}

// Dir is the folder of the set.
func (s *Set) Dir() string { return s.dir }

// Signer returns the named ECDSA P-256 key.
func (s *Set) Signer(name string) (crypto.Signer, error) {
	return s.key(name, func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
}

// RSA returns the named RSA key of 2048 bits, for Secure Boot and PCR policies.
func (s *Set) RSA(name string) (crypto.Signer, error) {
	return s.key(name, func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, rsaBits) })
}

func (s *Set) key(name string, generate func() (crypto.Signer, error)) (crypto.Signer, error) {
	data, err := s.File(name+".key", func() ([]byte, error) {
		k, err := generate()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	})
	if err != nil {
		return nil, err
	}
	k, err := ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("development key %s: %w", name, err)
	}
	return k, nil
}

// ParseKey reads a PKCS #8 key in PEM.
func ParseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block PRIVATE KEY (PKCS #8)")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, errors.New("key cannot sign")
	}
	return signer, nil
}

// PublicPEM is a key's public half as PKIX in PEM.
func PublicPEM(k crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// File returns the content of a file of the set. If it is missing, generate makes it.
func (s *Set) File(name string, generate func() ([]byte, error)) ([]byte, error) {
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("development keys: name %q has characters that are not allowed", name)
	}
	final := filepath.Join(s.dir, name)
	data, err := os.ReadFile(final)
	if !errors.Is(err, fs.ErrNotExist) {
		return data, err
	}
	if data, err = generate(); err != nil {
		return nil, fmt.Errorf("development keys: make %s: %w", name, err)
	}
	tmp, err := os.CreateTemp(s.dir, ".new-") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Close()); err != nil {
		return nil, err
	}
	// Link fails if another process was faster; then its file counts.
	if err := os.Link(tmp.Name(), final); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(final)
}

// Certificate returns a self-signed certificate of the named RSA key, as Secure
// Boot wants them.
func (s *Set) Certificate(name string) (*x509.Certificate, crypto.Signer, error) {
	k, err := s.RSA(name)
	if err != nil {
		return nil, nil, err
	}
	return s.selfSigned(name, k, false)
}

// CA returns a certification authority with the named ECDSA key, for the people
// of a development world: "owner-ca", "provider-ca", "tenant-ca" ...
func (s *Set) CA(name string) (*x509.Certificate, crypto.Signer, error) {
	k, err := s.Signer(name)
	if err != nil {
		return nil, nil, err
	}
	return s.selfSigned(name, k, true)
}

func (s *Set) selfSigned(name string, k crypto.Signer, ca bool) (*x509.Certificate, crypto.Signer, error) {
	data, err := s.File(name+".crt", func() ([]byte, error) {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
		if err != nil {
			return nil, err
		}
		now := time.Now().UTC().Truncate(time.Hour)
		template := &x509.Certificate{
			SerialNumber:          serial,
			Subject:               pkix.Name{CommonName: "Pforte development " + name, Organization: []string{"NOT FOR PRODUCTION"}},
			NotBefore:             now.AddDate(0, 0, -1),
			NotAfter:              now.AddDate(lifetime, 0, 0),
			KeyUsage:              x509.KeyUsageDigitalSignature,
			BasicConstraintsValid: true,
			IsCA:                  ca,
		}
		if ca {
			template.KeyUsage |= x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
	})
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil, fmt.Errorf("development keys: %s.crt holds no certificate", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	return cert, k, err
}
