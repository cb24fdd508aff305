package hsm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"testing"
)

func TestPurposes(t *testing.T) {
	for _, p := range Purposes() {
		if !p.Valid() {
			t.Errorf("%s is listed and not valid", p)
		}
	}
	for _, p := range []Purpose{"", "data-volume", "Tenant-server", "tenant-server "} {
		if p.Valid() {
			t.Errorf("%q is valid", p)
		}
	}
}

// TestFingerprint: the value is from OpenSSL:
//
//	openssl pkey -pubin -in key.pem -outform DER | openssl dgst -sha256
func TestFingerprint(t *testing.T) {
	// The base point of P-256 (SEC 2, 2.4.2), as a public key.
	point, err := hex.DecodeString("04" +
		"6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296" +
		"4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Fingerprint(key)
	if want := "sha256:5cd252fb0ce8932436faf8ccd1040981b89ee4ad6b9fe9e2a2b7e71aacb27cd3"; err != nil || got != want {
		t.Errorf("Fingerprint = %s, %v, want %s", got, err, want)
	}
	if _, err := Fingerprint("no key"); err == nil {
		t.Error("fingerprint of nothing")
	}
}
