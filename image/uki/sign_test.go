package uki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"debug/pe"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSignPassesSbverify(t *testing.T) {
	key, stranger := newKey(t, 2048), newKey(t, 2048)
	cert, other := newCertificate(t, key, "Test db"), newCertificate(t, stranger, "Stranger")
	image := must[[]byte](t)(Build(testParts(t)))
	signed := must[[]byte](t)(Sign(image, key, cert))

	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certPath := write("db.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	otherPath := write("other.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Raw}))
	signedPath := write("signed.efi", signed)
	if out, err := tool(t, "sbsigntool", "sbverify", "--cert", certPath, signedPath); err != nil || strings.Contains(out, "warning") {
		t.Errorf("sbverify: %v\n%s", err, out)
	}
	if out, err := tool(t, "sbsigntool", "sbverify", "--cert", otherPath, signedPath); err == nil {
		t.Errorf("sbverify accepts a stranger's certificate:\n%s", out)
	}
	if out, err := tool(t, "sbsigntool", "sbverify", "--cert", certPath, write("plain.efi", image)); err == nil {
		t.Errorf("sbverify accepts an unsigned image:\n%s", out)
	}
	// And the other way round: what sbsign signs, Verify accepts.
	keyPath := write("db.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must[[]byte](t)(x509.MarshalPKCS8PrivateKey(key))}))
	theirs := filepath.Join(dir, "theirs.efi")
	if out, err := tool(t, "sbsigntool", "sbsign", "--key", keyPath, "--cert", certPath, "--output", theirs, filepath.Join(dir, "plain.efi")); err != nil {
		t.Fatalf("sbsign: %v\n%s", err, out)
	}
	if err := Verify(must[[]byte](t)(os.ReadFile(theirs)), cert); err != nil {
		t.Errorf("signed by sbsign: %v", err)
	}
}

func TestSigningKeepsTheContent(t *testing.T) {
	key := newKey(t, 2048)
	image := must[[]byte](t)(Build(testParts(t)))
	signed := must[[]byte](t)(Sign(image, key, newCertificate(t, key, "db")))
	if a, b := must[[]byte](t)(PCR11Of(image)), must[[]byte](t)(PCR11Of(signed)); !bytes.Equal(a, b) {
		t.Error("the signature changes what is measured")
	}
	second := newKey(t, 2048)
	cert := newCertificate(t, second, "second")
	twice := must[[]byte](t)(Sign(signed, second, cert))
	if err := Verify(twice, cert); err != nil {
		t.Errorf("second signature: %v", err)
	}
	if blobs := must[[][]byte](t)(signatures(twice)); len(blobs) != 2 {
		t.Errorf("%d signatures after signing twice", len(blobs))
	}
}

func TestSignRefuses(t *testing.T) {
	image := must[[]byte](t)(Build(testParts(t)))
	key := newKey(t, 2048)
	ec := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if _, err := Sign(image, key, newCertificate(t, newKey(t, 2048), "other")); err == nil {
		t.Error("signed with a key that is not the certificate's")
	}
	if _, err := Sign(image, ec, newCertificate(t, ec, "ec")); err == nil {
		t.Error("signed with an elliptic curve")
	}
	if _, err := Sign(image[:len(image)-1], key, newCertificate(t, key, "db")); err == nil {
		t.Error("signed a truncated image")
	}
}

func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	key := newKey(t, 2048)
	cert := newCertificate(t, key, "db")
	p := testParts(t)
	p.Initrd = []byte("small")
	image := must[[]byte](t)(Build(p))
	signed := must[[]byte](t)(Sign(image, key, cert))
	f := must[*pe.File](t)(pe.NewFile(bytes.NewReader(image)))
	off := must[int](t)(peOffset(image))
	checksum := off + sizeFileHeader + offCheckSum
	for _, s := range f.Sections {
		for _, at := range []int{int(s.Offset), int(s.Offset + s.VirtualSize - 1), int(s.Offset + s.Size - 1)} {
			b := bytes.Clone(signed)
			b[at] ^= 1
			if err := Verify(b, cert); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: byte %d flipped: %v", s.Name, at, err)
			}
		}
	}
	// In the headers each byte matters but the checksum. What the certificate table holds
	// beside the signature does not, yet no change there may upset Verify.
	for at := range signed {
		if at >= checksum && at < checksum+4 || at >= int(f.Sections[0].Offset) && at < len(image) {
			continue
		}
		b := bytes.Clone(signed)
		b[at] ^= 0x10
		if err := Verify(b, cert); err == nil && at < len(image) {
			t.Errorf("byte %d of the headers flipped: accepted", at)
		}
	}
	if err := Verify(image, cert); !errors.Is(err, ErrNotSigned) {
		t.Errorf("unsigned: %v", err)
	}
	if err := Verify(signed, newCertificate(t, newKey(t, 2048), "stranger")); !errors.Is(err, ErrSignature) {
		t.Errorf("stranger: %v", err)
	}
}

// A signature whose attributes name the digest of another content must not count.
func TestVerifyComparesDigestAndContent(t *testing.T) {
	key := newKey(t, 2048)
	cert := newCertificate(t, key, "db")
	p := testParts(t)
	signed := must[[]byte](t)(Sign(must[[]byte](t)(Build(p)), key, cert))
	p.Cmdline = strings.Replace(p.Cmdline, "quiet", "QUIET", 1)
	other := must[[]byte](t)(Build(p))
	oldDigest, newDigest := imageDigest(t, signed), imageDigest(t, other)
	forged := append(bytes.Clone(other), signed[len(other):]...)
	off := must[int](t)(peOffset(signed))
	copy(forged[off+sizeFileHeader+offSecurityEntry:][:8], signed[off+sizeFileHeader+offSecurityEntry:])
	forged = bytes.Replace(forged, oldDigest, newDigest, 1)
	if !bytes.Contains(forged, newDigest) {
		t.Fatal("the forgery was not made")
	}
	if err := Verify(forged, cert); !errors.Is(err, ErrSignature) {
		t.Errorf("forged: %v", err)
	}
}

// imageDigest is the Authenticode digest, computed by hand: everything but the
// checksum, the certificate table entry and the certificate table.
func imageDigest(t *testing.T, image []byte) []byte {
	t.Helper()
	opt := must[int](t)(peOffset(image)) + sizeFileHeader
	end := len(image)
	if at := binary.LittleEndian.Uint32(image[opt+offSecurityEntry:]); at != 0 {
		end = int(at)
	}
	h := sha256.New()
	h.Write(image[:opt+offCheckSum])
	h.Write(image[opt+offCheckSum+4 : opt+offSecurityEntry])
	h.Write(image[opt+offSecurityEntry+8 : end])
	return h.Sum(nil)
}
