package config

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxKeyFile bounds a file that holds one public key, in bytes.
const maxKeyFile = 64 << 10

// ParseOwnerKey reads one PEM "PUBLIC KEY" (PKIX) of a kind that Sign takes, and
// nothing beside it.
func ParseOwnerKey(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("owner's key: not one PEM block of type PUBLIC KEY")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("owner's key: %w", err)
	}
	if _, err := newKey(public); err != nil {
		return nil, fmt.Errorf("owner's key: %w", err)
	}
	return public, nil
}

// LoadOwnerKey reads the owner's public key from a file, on a box layout.OwnerKey.
func LoadOwnerKey(path string) (crypto.PublicKey, error) {
	text, err := readBounded(path, maxKeyFile)
	if err != nil {
		return nil, fmt.Errorf("owner's key: %w", err)
	}
	return ParseOwnerKey(text)
}

// readBounded reads a whole file of at most max bytes.
func readBounded(path string, max int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("read %s: more than %d bytes", path, max)
	}
	return data, nil
}
