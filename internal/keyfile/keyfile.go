// Package keyfile reads private keys from files on an operator's laptop: PKCS #8
// (RFC 5958) in PEM, without a passphrase. Each refusal says how to convert what
// was given.
//
// The box never links it: its keys are in hardware. Keys on a card or in an HSM
// sign through the same crypto.Signer, without this package.
package keyfile

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
)

// maxFile bounds a key's file in bytes.
const maxFile = 64 << 10

// Load reads the key in a file.
func Load(name string) (crypto.Signer, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return nil, fmt.Errorf("key %s: no PEM; give a private key as PKCS#8 in PEM", name)
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, fmt.Errorf("key %s: it is encrypted; decrypt it with: openssl pkcs8 -in %s -out KEY", name, name)
	case block.Type != "PRIVATE KEY":
		return nil, fmt.Errorf("key %s: it holds %q; convert it with: openssl pkcs8 -topk8 -nocrypt -in %s -out KEY", name, block.Type, name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s: it cannot sign; give an ECDSA, Ed25519 or RSA key", name)
	}
	return signer, nil
}
