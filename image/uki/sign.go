package uki

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/foxboron/go-uefi/authenticode"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Reasons for which Verify refuses an image.
var (
	// ErrNotSigned means that the image has no signature at all.
	ErrNotSigned = errors.New("image has no signature")
	// ErrSignature means that no signature in the image covers it and is by the
	// key asked for.
	ErrSignature = errors.New("no signature covers the image and is by this certificate")
)

// A WIN_CERTIFICATE is a header of 8 bytes (length, revision, type) and a PKCS#7
// signature, each padded to 8 bytes.
const (
	sizeWinCert     = 8
	winCertRevision = 0x0200
	winCertPKCS7    = 0x0002
)

// Sign returns a copy of the image with an Authenticode signature (SHA-256,
// PKCS#1 v1.5) for Secure Boot. The key must be RSA and belong to cert, because
// firmware knows nothing else for sure. The signature carries the current
// time. Signing an image twice keeps both signatures.
func Sign(image []byte, key crypto.Signer, cert *x509.Certificate) ([]byte, error) {
	pub, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("sign UKI: certificate has a key of type %T: an RSA key is needed", cert.PublicKey)
	}
	if !pub.Equal(key.Public()) {
		return nil, errors.New("sign UKI: the key does not belong to the certificate")
	}
	if _, err := signatures(image); err != nil && !errors.Is(err, ErrNotSigned) {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	bin, err := authenticode.Parse(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	if _, err := bin.Sign(key, cert); err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	signed := bin.Bytes()
	// The signature does not cover the checksum, so it can follow.
	if err := setCheckSum(signed); err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	if err := Verify(signed, cert); err != nil {
		return nil, fmt.Errorf("sign UKI: %w", err)
	}
	return signed, nil
}

// Verify checks that one of the image's signatures covers it and was made with
// the key of cert; if not, the error wraps ErrNotSigned or ErrSignature. It looks
// at neither dates nor certificate chains; firmware does not either.
func Verify(image []byte, cert *x509.Certificate) error {
	blobs, err := signatures(image)
	if err != nil {
		return fmt.Errorf("verify UKI: %w", err)
	}
	bin, err := authenticode.Parse(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("verify UKI: %w", err)
	}
	digest := bin.Hash(crypto.SHA256)
	for _, blob := range blobs {
		if signedBy(blob, digest, cert) {
			return nil
		}
	}
	return fmt.Errorf("verify UKI: %w", ErrSignature)
}

// signatures returns the PKCS#7 signatures in the certificate table, which must
// be the end of the file. go-uefi trusts the numbers in it and would panic.
func signatures(image []byte) ([][]byte, error) {
	table, err := certificateTable(image)
	if err != nil {
		return nil, err
	}
	if len(table) == 0 {
		return nil, ErrNotSigned
	}
	var out [][]byte
	for len(table) > 0 {
		if len(table) < sizeWinCert {
			return nil, errors.New("certificate table ends in the middle of a header")
		}
		n := binary.LittleEndian.Uint32(table)
		padded := (uint64(n) + 7) &^ 7
		if n < sizeWinCert || padded > uint64(len(table)) {
			return nil, fmt.Errorf("certificate table has an entry of %d bytes where %d are left", n, len(table))
		}
		revision, kind := binary.LittleEndian.Uint16(table[4:]), binary.LittleEndian.Uint16(table[6:])
		if revision != winCertRevision {
			return nil, fmt.Errorf("certificate table has an entry of revision %#x", revision)
		}
		if kind == winCertPKCS7 {
			out = append(out, table[sizeWinCert:n])
		}
		table = table[padded:]
	}
	return out, nil
}

func certificateTable(image []byte) ([]byte, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || opt.NumberOfRvaAndSizes <= dirSecurity {
		return nil, errors.New("not a PE32+ file with a certificate table entry")
	}
	content := uint64(opt.SizeOfHeaders)
	for _, s := range f.Sections {
		content += uint64(s.Size)
	}
	dir := opt.DataDirectory[dirSecurity]
	if dir == (pe.DataDirectory{}) {
		if content != uint64(len(image)) {
			return nil, fmt.Errorf("sections end at %d in a file of %d bytes", content, len(image))
		}
		return nil, nil
	}
	start, end := uint64(dir.VirtualAddress), uint64(dir.VirtualAddress)+uint64(dir.Size)
	if start < content || start%8 != 0 || end != uint64(len(image)) {
		return nil, fmt.Errorf("certificate table from %d to %d after %d bytes of content in a file of %d", start, end, content, len(image))
	}
	return image[start:end], nil
}

// signedBy tells whether a PKCS#7 signature is by the key of cert and says
// that the image has the given digest. It checks the whole chain from the key
// over the signed attributes and the content to the digest; go-uefi's own Verify
// (2025-10) does not compare the attribute "message digest" with the content.
func signedBy(blob, digest []byte, cert *x509.Certificate) bool {
	a, err := authenticode.ParseAuthenticode(blob)
	if err != nil || !bytes.Equal(a.Digest, digest) {
		return false
	}
	content := cryptobyte.String(a.Pkcs.ContentInfo)
	var indirectData cryptobyte.String
	if !content.ReadASN1(&indirectData, asn1.SEQUENCE) || !content.Empty() {
		return false
	}
	want := sha256.Sum256(indirectData)
	for _, si := range a.Pkcs.SignerInfo {
		attrs := si.AuthenticatedAttributes
		if attrs == nil || !attrs.ContentType.Equal(authenticode.OIDSpcIndirectDataContent) || !bytes.Equal(attrs.MessageDigest, want[:]) {
			continue
		}
		if cert.CheckSignature(x509.SHA256WithRSA, attrs.RawBytes, si.EncryptedDigest) == nil {
			return true
		}
	}
	return false
}
