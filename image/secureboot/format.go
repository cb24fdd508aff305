package secureboot

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/foxboron/go-uefi/pkcs7"
)

// MaxUpdate is the largest update, in bytes, that Parse reads.
const MaxUpdate = 64 << 10

const (
	sizeTime       = 16
	sizeGUID       = 16
	sizeCertHeader = 8 + sizeGUID // WIN_CERTIFICATE_UEFI_GUID without its data
	sizeListHeader = sizeGUID + 12
	certRevision   = 0x0200
	certTypeGUID   = 0x0ef1 // WIN_CERT_TYPE_EFI_GUID
	certPKCS7      = "4aafd29d-68df-49ee-8aa9-347d375665a7"
	typeX509       = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"
)

// ErrSignature is returned by Verify.
var ErrSignature = errors.New("the update is not signed by this certificate")

// guid encodes a GUID in text as UEFI stores it: the first three numbers little-endian.
// The text is one of this package's constants.
func guid(text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != sizeGUID {
		panic("secureboot: malformed GUID constant " + text)
	}
	for _, part := range [][2]int{{0, 3}, {1, 2}, {4, 5}, {6, 7}} {
		b[part[0]], b[part[1]] = b[part[1]], b[part[0]]
	}
	return b
}

// encodeTime makes an EFI_TIME. What UEFI 8.2.2 wants as zero is zero.
func encodeTime(at time.Time) ([]byte, error) {
	at = at.UTC()
	if at.Year() < 1970 || at.Year() > 9999 {
		return nil, fmt.Errorf("the year %d cannot be written as EFI_TIME", at.Year())
	}
	b := binary.LittleEndian.AppendUint16(nil, uint16(at.Year()))
	b = append(b, byte(at.Month()), byte(at.Day()), byte(at.Hour()), byte(at.Minute()), byte(at.Second()))
	return append(b, make([]byte, sizeTime-len(b))...), nil
}

// signatureList makes an EFI_SIGNATURE_LIST of one certificate.
func signatureList(cert *x509.Certificate) []byte {
	entry := uint32(sizeGUID + len(cert.Raw))
	b := guid(typeX509)
	b = binary.LittleEndian.AppendUint32(b, sizeListHeader+entry)
	b = binary.LittleEndian.AppendUint32(b, 0) // no list header
	b = binary.LittleEndian.AppendUint32(b, entry)
	b = append(b, guid(Owner)...)
	return append(b, cert.Raw...)
}

// signedBytes is what the signature of an update covers.
func signedBytes(variable string, stamp, content []byte) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(variable)) { // without a final zero
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	b = append(b, guid(VendorGUID(variable))...)
	b = binary.LittleEndian.AppendUint32(b, Attributes)
	b = append(b, stamp...)
	return append(b, content...)
}

// Update is a parsed update.
type Update struct {
	// Time is when the update says that it was signed.
	Time time.Time
	// Certificates are those that the variable will hold.
	Certificates []*x509.Certificate

	stamp, signature, content []byte
}

// Parse reads an update. It fails with the reason if anything is there that Sign
// would not write: another kind of signature, lists of hashes, bytes at the end.
func Parse(b []byte) (*Update, error) {
	if len(b) > MaxUpdate {
		return nil, fmt.Errorf("parse update: %d bytes, at most %d are expected", len(b), MaxUpdate)
	}
	u, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("parse update: %w", err)
	}
	return u, nil
}

func parse(b []byte) (*Update, error) {
	if len(b) < sizeTime+sizeCertHeader {
		return nil, errors.New("shorter than its header")
	}
	le := binary.LittleEndian
	u := &Update{stamp: b[:sizeTime]}
	u.Time = time.Date(int(le.Uint16(b)), time.Month(b[2]), int(b[3]), int(b[4]), int(b[5]), int(b[6]), 0, time.UTC)
	if again, err := encodeTime(u.Time); err != nil || !bytes.Equal(again, u.stamp) {
		return nil, errors.New("time is not a date in UTC with the unused fields zero")
	}
	b = b[sizeTime:]
	n := le.Uint32(b)
	if n <= sizeCertHeader || uint64(n) > uint64(len(b)) {
		return nil, fmt.Errorf("signature of %d bytes where %d are left", n, len(b))
	}
	if le.Uint16(b[4:]) != certRevision || le.Uint16(b[6:]) != certTypeGUID || !bytes.Equal(b[8:sizeCertHeader], guid(certPKCS7)) {
		return nil, errors.New("signature is not PKCS#7 in a WIN_CERTIFICATE_UEFI_GUID")
	}
	u.signature, u.content = b[sizeCertHeader:n], b[n:]
	var err error
	u.Certificates, err = parseLists(u.content)
	return u, err
}

// parseLists reads signature lists of X.509 certificates up to the end of b.
func parseLists(b []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for len(b) > 0 {
		if len(b) < sizeListHeader {
			return nil, errors.New("signature list is shorter than its header")
		}
		le := binary.LittleEndian
		size, header, entry := le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
		switch {
		case !bytes.Equal(b[:sizeGUID], guid(typeX509)) || header != 0:
			return nil, errors.New("signature list holds something else than X.509 certificates")
		case entry <= sizeGUID || uint64(size) != sizeListHeader+uint64(entry) || uint64(size) > uint64(len(b)):
			return nil, fmt.Errorf("signature list of %d bytes with an entry of %d where %d are left", size, entry, len(b))
		}
		cert, err := x509.ParseCertificate(b[sizeListHeader+sizeGUID : size])
		if err != nil {
			return nil, fmt.Errorf("signature list: %w", err)
		}
		certs, b = append(certs, cert), b[size:]
	}
	if len(certs) == 0 {
		return nil, errors.New("no signature list")
	}
	return certs, nil
}

// Verify checks as firmware does that the update of the named variable was signed with
// the key of cert; if not, the error wraps ErrSignature. Tools differ in whether they
// sign the content itself or attributes with its digest; both are accepted.
func (u *Update) Verify(variable string, cert *x509.Certificate) error {
	p, err := pkcs7.ParsePKCS7(u.signature)
	if err != nil {
		return fmt.Errorf("verify update of %s: %w", variable, err)
	}
	content := signedBytes(variable, u.stamp, u.content)
	digest := sha256.Sum256(content)
	for _, si := range p.SignerInfo {
		signed := content
		if attrs := si.AuthenticatedAttributes; attrs != nil {
			if !bytes.Equal(attrs.MessageDigest, digest[:]) {
				continue
			}
			signed = attrs.RawBytes
		}
		if cert.CheckSignature(x509.SHA256WithRSA, signed, si.EncryptedDigest) == nil {
			return nil
		}
	}
	return fmt.Errorf("verify update of %s: %w", variable, ErrSignature)
}
