package secureboot

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tool runs a program of the host and fails the test, naming the package that
// has it, if it is missing or exits with an error.
func tool(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skipf("SHORT=1: %s is missing", name)
		}
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func writePEM(t *testing.T, kind string, der []byte) string {
	return write(t, "file.pem", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

var at = time.Date(2026, 11, 3, 4, 5, 6, 789, time.UTC)

func testKeys(t testing.TB) *Keys {
	t.Helper()
	keys, err := NewKeys("Pforte test", at)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestSignAndParse(t *testing.T) {
	keys := testKeys(t)
	updates, err := Sign(keys, at)
	if err != nil {
		t.Fatal(err)
	}
	files := updates.Files()
	for _, tc := range []struct {
		variable    string
		content, by Pair
	}{{PK, keys.PK, keys.PK}, {KEK, keys.KEK, keys.PK}, {DB, keys.DB, keys.KEK}} {
		u, err := Parse(files[tc.variable+".auth"])
		if err != nil {
			t.Fatal(err)
		}
		if !u.Time.Equal(at.Truncate(time.Second)) {
			t.Errorf("%s: time %v", tc.variable, u.Time)
		}
		if len(u.Certificates) != 1 || !u.Certificates[0].Equal(tc.content.Certificate) {
			t.Errorf("%s: holds other certificates", tc.variable)
		}
		if err := u.Verify(tc.variable, tc.by.Certificate); err != nil {
			t.Error(err)
		}
		if err := u.Verify(tc.variable, keys.DB.Certificate); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: verified by another certificate: %v", tc.variable, err)
		}
		if err := u.Verify("dbx", tc.by.Certificate); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: verified for another variable: %v", tc.variable, err)
		}
	}
}

func TestSignIsReproducible(t *testing.T) {
	keys := testKeys(t)
	a, err := Sign(keys, at)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Sign(keys, at.In(time.FixedZone("elsewhere", 3600)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("the same keys and time give other bytes")
	}
}

// The signature must hold for a reader that is not ours: OpenSSL, given the
// SignedData with the wrapping that firmware adds before it checks.
func TestOpenSSLVerifies(t *testing.T) {
	keys := testKeys(t)
	updates, err := Sign(keys, at)
	if err != nil {
		t.Fatal(err)
	}
	for variable, tc := range map[string]struct {
		update []byte
		by     Pair
	}{PK: {updates.PK, keys.PK}, KEK: {updates.KEK, keys.PK}, DB: {updates.DB, keys.KEK}} {
		u, err := Parse(tc.update)
		if err != nil {
			t.Fatal(err)
		}
		wrapped, err := asn1.Marshal(struct {
			Type    asn1.ObjectIdentifier
			Content asn1.RawValue
		}{
			asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2},
			asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: u.signature},
		})
		if err != nil {
			t.Fatal(err)
		}
		tool(t, "openssl", "openssl", "smime", "-verify", "-binary", "-inform", "DER", "-in", write(t, "sig.der", wrapped),
			"-content", write(t, "content", signedBytes(variable, u.stamp, u.content)), "-nointern", "-noverify",
			"-certfile", writePEM(t, "CERTIFICATE", tc.by.Certificate.Raw), "-out", os.DevNull)
	}
}

// What sbsigntool makes of the same certificate and key must be what we make, but
// for its time and the attributes that it signs.
func TestSbsigntoolMakesTheSame(t *testing.T) {
	keys := testKeys(t)
	list := filepath.Join(t.TempDir(), "list")
	tool(t, "sbsigntool", "sbsiglist", "--owner", Owner, "--type", "x509", "--output", list, write(t, "kek.der", keys.KEK.Certificate.Raw))
	theirs, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(theirs, signatureList(keys.KEK.Certificate)) {
		t.Error("sbsiglist makes another signature list")
	}
	key, err := x509.MarshalPKCS8PrivateKey(keys.PK.Signer)
	if err != nil {
		t.Fatal(err)
	}
	auth := filepath.Join(t.TempDir(), "KEK.auth")
	tool(t, "sbsigntool", "sbvarsign", "--key", writePEM(t, "PRIVATE KEY", key), "--cert", writePEM(t, "CERTIFICATE", keys.PK.Certificate.Raw),
		"--attrs", "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS",
		"--output", auth, KEK, list)
	signed, err := os.ReadFile(auth)
	if err != nil {
		t.Fatal(err)
	}
	u, err := Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	if err := u.Verify(KEK, keys.PK.Certificate); err != nil {
		t.Errorf("signed by sbvarsign: %v", err)
	}
	if !bytes.Equal(u.content, theirs) {
		t.Error("parsed another content")
	}
}

func TestSignRefuses(t *testing.T) {
	good := testKeys(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ec"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*Keys)
		at     time.Time
		want   string
	}{
		"no certificate":     {func(k *Keys) { k.DB.Certificate = nil }, at, "db: a certificate or the signer is missing"},
		"no signer":          {func(k *Keys) { k.KEK.Signer = nil }, at, "db: a certificate or the signer is missing"},
		"another key":        {func(k *Keys) { k.PK.Signer = k.DB.Signer }, at, "does not belong"},
		"elliptic curve":     {func(k *Keys) { k.DB.Certificate = ec }, at, "needs RSA"},
		"elliptic curve key": {func(k *Keys) { k.PK = Pair{ec, key} }, at, "needs RSA"},
		"no time":            {func(*Keys) {}, time.Time{}, "EFI_TIME"},
	} {
		t.Run(name, func(t *testing.T) {
			keys := *good
			tc.change(&keys)
			if _, err := Sign(&keys, tc.at); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	keys := *good
	keys.DB.Signer = nil
	if _, err := Sign(&keys, at); err != nil {
		t.Errorf("the key of db is not needed, but: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	updates, err := Sign(testKeys(t), at)
	if err != nil {
		t.Fatal(err)
	}
	good := updates.DB
	u, err := Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	listAt := len(good) - len(u.content)
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":                {func(b []byte) []byte { return nil }, "shorter"},
		"too long":             {func(b []byte) []byte { return make([]byte, MaxUpdate+1) }, "at most"},
		"no month":             {func(b []byte) []byte { b[2] = 13; return b }, "time is not a date"},
		"time zone":            {func(b []byte) []byte { b[12] = 1; return b }, "time is not a date"},
		"signature length 0":   {func(b []byte) []byte { b[16], b[17], b[18] = 0, 0, 0; return b }, "signature of 0 bytes"},
		"signature too long":   {func(b []byte) []byte { b[18] = 1; return b }, "are left"},
		"not a GUID signature": {func(b []byte) []byte { b[22] = 0xf0; return b }, "not PKCS#7"},
		"not PKCS#7":           {func(b []byte) []byte { b[24]++; return b }, "not PKCS#7"},
		"no list":              {func(b []byte) []byte { return b[:listAt] }, "no signature list"},
		"cut":                  {func(b []byte) []byte { return b[:len(b)-1] }, "are left"},
		"more at the end":      {func(b []byte) []byte { return append(b, 0) }, "shorter than its header"},
		"list of hashes":       {func(b []byte) []byte { b[listAt]++; return b }, "something else than X.509"},
		"two in one list":      {func(b []byte) []byte { b[listAt+24]--; return b }, "signature list of"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse(tc.change(bytes.Clone(good))); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestEveryFlippedBitOfTheContentIsFound(t *testing.T) {
	keys := testKeys(t)
	updates, err := Sign(keys, at)
	if err != nil {
		t.Fatal(err)
	}
	u, err := Parse(updates.DB)
	if err != nil {
		t.Fatal(err)
	}
	for i := range updates.DB {
		signed := i < sizeTime || i >= len(updates.DB)-len(u.content)
		if !signed {
			continue
		}
		b := bytes.Clone(updates.DB)
		b[i] ^= 1
		if other, err := Parse(b); err == nil && other.Verify(DB, keys.KEK.Certificate) == nil {
			t.Errorf("byte %d flipped: accepted", i)
		}
	}
}

func TestGUIDs(t *testing.T) {
	// From the UEFI specification's table of the boot variables' vendor.
	if got := hex.EncodeToString(guid(globalVariable)); got != "61dfe48bca93d211aa0d00e098032b8c" {
		t.Errorf("encoded as %s", got)
	}
	if VendorGUID(PK) != VendorGUID(KEK) || VendorGUID(DB) == VendorGUID(PK) {
		t.Error("db has a GUID of its own, PK and KEK share one")
	}
}

// FuzzParse: nothing makes it panic, and what is parsed can be verified without panic.
func FuzzParse(f *testing.F) {
	keys := testKeys(f)
	updates, err := Sign(keys, at)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(updates.PK)
	f.Add(updates.DB)
	f.Add(updates.DB[:60])
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := Parse(b)
		if err != nil {
			return
		}
		if u.Verify(DB, keys.KEK.Certificate) == nil && !bytes.Equal(b, updates.DB) {
			v, err := Parse(updates.DB)
			if err != nil || !bytes.Equal(u.content, v.content) || !bytes.Equal(u.stamp, v.stamp) {
				t.Error("an update that was not signed is verified")
			}
		}
	})
}
