// Package secureboot makes what puts a box under its owner's Secure Boot keys:
// the signed updates of the firmware's variables PK, KEK and db.
//
// # What it does
//
// Sign makes the three updates. Our init writes each to efivarfs while the
// firmware is in setup mode, db first, then KEK, and PK last, because PK ends setup
// mode. NewKeys makes a throw-away set of keys for development. Parse and Verify
// read an update back.
//
// # What it promises
//
//   - The same keys and time give the same bytes, so that the image that carries the
//     updates is reproducible. The signatures have no time or random number in them.
//   - Every private key is reached through a crypto.Signer alone.
//   - PK is signed by itself, KEK by PK, db by KEK, so that the updates would also be
//     accepted in user mode from whoever holds those keys.
//
// # What it does not do
//
// It does not write variables, and it revokes nothing (dbx). db holds the one
// certificate that signs our images: neither Microsoft's certificates nor those
// of vendors of plug-in cards, whose option ROMs then do not run.
//
// # Format
//
// UEFI 2.10, 8.2.2: EFI_VARIABLE_AUTHENTICATION_2 (EFI_TIME, WIN_CERTIFICATE_UEFI_GUID
// with a detached PKCS#7 SignedData, SHA-256 and RSA) followed by the variable's new
// content, an EFI_SIGNATURE_LIST (32.4.1) of one X.509 certificate. This is what
// tools call an .auth file. To write it to efivarfs, put Attributes before it in
// four bytes, little-endian.
package secureboot

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/foxboron/go-uefi/pkcs7"
	"golang.org/x/crypto/cryptobyte"
)

// Attributes are the UEFI attributes of PK, KEK and db: non-volatile, boot
// service, runtime, time-based authenticated.
const Attributes = 0x27

// Owner is the GUID that marks our certificates in KEK and db.
const Owner = "531a09da-1870-442b-aaf7-4700a7b60685"

// Names and vendor GUIDs of the variables.
const (
	PK  = "PK"
	KEK = "KEK"
	DB  = "db"

	globalVariable   = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	securityDatabase = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
)

// VendorGUID returns the GUID that belongs to one of the three names. In efivarfs
// a variable's file is called name-GUID.
func VendorGUID(variable string) string {
	if variable == DB {
		return securityDatabase
	}
	return globalVariable
}

// Pair is a certificate and the signer that has its key.
type Pair struct {
	Certificate *x509.Certificate
	Signer      crypto.Signer
}

// Keys are the keys of one owner of boxes.
type Keys struct {
	// PK, the platform key, may change KEK; KEK may change db; DB signs images.
	PK, KEK, DB Pair
}

// Updates are the signed updates of the three variables.
type Updates struct {
	PK, KEK, DB []byte
}

// Files returns the updates by the names that init looks for.
func (u *Updates) Files() map[string][]byte {
	return map[string][]byte{PK + ".auth": u.PK, KEK + ".auth": u.KEK, DB + ".auth": u.DB}
}

// Sign makes the updates. The time at goes into them, in UTC, without fractions of a
// second; firmware refuses an update that is not newer than the variable is. DB's
// Signer is not used and may be nil. Keys must be RSA.
func Sign(keys *Keys, at time.Time) (*Updates, error) {
	var u Updates
	for _, step := range []struct {
		out      *[]byte
		variable string
		content  *x509.Certificate
		signer   Pair
	}{
		{&u.PK, PK, keys.PK.Certificate, keys.PK},
		{&u.KEK, KEK, keys.KEK.Certificate, keys.PK},
		{&u.DB, DB, keys.DB.Certificate, keys.KEK},
	} {
		update, err := sign(step.variable, step.content, step.signer, at)
		if err != nil {
			return nil, fmt.Errorf("sign update of %s: %w", step.variable, err)
		}
		*step.out = update
	}
	return &u, nil
}

func sign(variable string, content *x509.Certificate, by Pair, at time.Time) ([]byte, error) {
	if content == nil || by.Certificate == nil || by.Signer == nil {
		return nil, errors.New("a certificate or the signer is missing")
	}
	for _, cert := range []*x509.Certificate{content, by.Certificate} {
		if _, ok := cert.PublicKey.(*rsa.PublicKey); !ok {
			return nil, fmt.Errorf("certificate %s has a key of type %T: firmware needs RSA", cert.Subject, cert.PublicKey)
		}
	}
	if !by.Certificate.PublicKey.(*rsa.PublicKey).Equal(by.Signer.Public()) {
		return nil, fmt.Errorf("the key does not belong to the certificate %s", by.Certificate.Subject)
	}
	stamp, err := encodeTime(at)
	if err != nil {
		return nil, err
	}
	list := signatureList(content)
	der, err := pkcs7.SignPKCS7(by.Signer, by.Certificate, pkcs7.OIDData, signedBytes(variable, stamp, list), pkcs7.NoAttr())
	if err != nil {
		return nil, err
	}
	// Firmware wants the SignedData without the ContentInfo around it.
	outer := cryptobyte.String(der)
	_, signedData, err := pkcs7.ParseContentInfo(&outer)
	if err != nil {
		return nil, err
	}
	out := append([]byte{}, stamp...)
	out = binary.LittleEndian.AppendUint32(out, uint32(sizeCertHeader+len(signedData)))
	out = binary.LittleEndian.AppendUint16(out, certRevision)
	out = binary.LittleEndian.AppendUint16(out, certTypeGUID)
	out = append(out, guid(certPKCS7)...)
	out = append(out, signedData...)
	out = append(out, list...)
	update, err := Parse(out)
	if err == nil {
		err = update.Verify(variable, by.Certificate)
	}
	if err != nil {
		return nil, fmt.Errorf("the signer's own certificate refuses its signature: %w", err)
	}
	return out, nil
}
