package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	keyfile "github.com/foxboron/go-tpm-keyfiles"
	"github.com/google/go-tpm/tpm2"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
)

// TestEarlierReleases opens what every release left behind, with the TPM of then.
// WRITE_FIXTURE=v2 leaves the present state for the next ones.
func TestEarlierReleases(t *testing.T) {
	if name := os.Getenv("WRITE_FIXTURE"); name != "" {
		writeFixture(t, filepath.Join("testdata", name))
	}
	fixtures, err := filepath.Glob("testdata/v*")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, fixture := range fixtures {
		t.Run(filepath.Base(fixture), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "keys")
			if err := os.CopyFS(dir, os.DirFS(filepath.Join(fixture, "keys"))); err != nil {
				t.Fatal(err)
			}
			s := open(t, hsmtest.RestoreTPM(t, filepath.Join(fixture, "tpm")), dir)
			for _, p := range hsm.Purposes() {
				k, err := s.Signer(p)
				if err != nil {
					t.Fatal(err)
				}
				mustSign(t, k)
			}
		})
	}
}

func writeFixture(t *testing.T, fixture string) {
	t.Helper()
	dev := hsmtest.StartTPM(t)
	s := open(t, dev, filepath.Join(fixture, "keys"))
	for _, p := range hsm.Purposes() {
		if created, err := s.Create(t.Context(), p); !created {
			t.Fatal(err)
		}
	}
	dev.PowerOff()
	dev.Save(t, filepath.Join(fixture, "tpm"))
}

// TestOpenSSL: fixture v1 holds a request that OpenSSL 3.0.19 with tpm2-openssl
// 1.1.1 made from the fixture's own key file and TPM:
//
//	openssl req -provider tpm2 -provider default -key keys/tenant-server.pem -new -subj /CN=openssl
func TestOpenSSL(t *testing.T) {
	b, err := os.ReadFile("testdata/v1/openssl.csr")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Error(err)
	}
	file, err := os.ReadFile("testdata/v1/keys/tenant-server.pem")
	if err != nil {
		t.Fatal(err)
	}
	k, err := parse(file)
	if err != nil || !k.public.Equal(csr.PublicKey) {
		t.Errorf("OpenSSL reads another key: %v", err)
	}
	if f, err := keyfile.Decode(file); err != nil || f.Description != "" {
		t.Errorf("the key file has a description, which tpm2-openssl 1.1 does not read: %v", err)
	}
}

func TestPin(t *testing.T) {
	dev := hsmtest.StartTPM(t)
	for name, content := range map[string]*string{
		"missing":       nil,
		"empty":         ptr(""),
		"later version": ptr(`{"version":2,"name":"` + strings.Repeat("00", sha256NameSize) + `"}`),
		"short name":    ptr(`{"version":1,"name":"000b"}`),
		"other name":    ptr(`{"version":1,"name":"` + strings.Repeat("00", sha256NameSize) + `"}`),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			create(t, open(t, dev, dir)).Public()
			path := filepath.Join(dir, parentFile)
			if content == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path, []byte(*content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), dev, dir); err == nil {
				t.Error("Open accepted it")
			}
		})
	}
}

func ptr(s string) *string { return &s }

func TestOpenDevice(t *testing.T) {
	for _, path := range []string{filepath.Join(t.TempDir(), "tpm"), t.TempDir()} {
		if _, err := OpenDevice(path); !errors.Is(err, hsm.ErrNoDevice) {
			t.Errorf("OpenDevice = %v, want ErrNoDevice", err)
		}
	}
}

// TestBrokenKeyFiles: what Create did not make is refused before the TPM sees it;
// what only the TPM can tell fails there.
func TestBrokenKeyFiles(t *testing.T) {
	dev, dir := hsmtest.StartTPM(t), t.TempDir()
	s := open(t, dev, dir)
	create(t, s)
	path := filepath.Join(dir, "tenant-server.pem")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	adjust := func(f func(*keyfile.TPMKey, *tpm2.TPMTPublic)) []byte {
		k, err := keyfile.Decode(good)
		if err != nil {
			t.Fatal(err)
		}
		public, err := k.Pubkey.Contents()
		if err != nil {
			t.Fatal(err)
		}
		f(k, public)
		k.Pubkey = tpm2.New2B(*public)
		var b bytes.Buffer
		if err := keyfile.Encode(&b, k); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	tests := map[string][]byte{
		"empty":        {},
		"no PEM":       []byte("not a key"),
		"other PEM":    pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte{0x30, 0}}),
		"no ASN.1":     pem.EncodeToMemory(&pem.Block{Type: "TSS2 PRIVATE KEY", Bytes: []byte("x")}),
		"cut off":      good[:len(good)/2],
		"importable":   adjust(func(k *keyfile.TPMKey, _ *tpm2.TPMTPublic) { k.Keytype = keyfile.OIDImportableKey }),
		"sealed":       adjust(func(k *keyfile.TPMKey, _ *tpm2.TPMTPublic) { k.Keytype = keyfile.OIDSealedKey }),
		"other parent": adjust(func(k *keyfile.TPMKey, _ *tpm2.TPMTPublic) { k.Parent = tpm2.TPMRHNull }),
		"password":     adjust(func(k *keyfile.TPMKey, _ *tpm2.TPMTPublic) { k.EmptyAuth = false }),
		"may decrypt":  adjust(func(_ *keyfile.TPMKey, p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true }),
		"may leave":    adjust(func(_ *keyfile.TPMKey, p *tpm2.TPMTPublic) { p.ObjectAttributes.FixedTPM = false }),
		"came from outside": adjust(func(_ *keyfile.TPMKey, p *tpm2.TPMTPublic) {
			p.ObjectAttributes.SensitiveDataOrigin = false
		}),
		"off the curve": adjust(func(_ *keyfile.TPMKey, p *tpm2.TPMTPublic) {
			p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat([]byte{1}, 32)},
				Y: tpm2.TPM2BECCParameter{Buffer: bytes.Repeat([]byte{2}, 32)},
			})
		}),
		"private area altered": adjust(func(k *keyfile.TPMKey, _ *tpm2.TPMTPublic) { k.Privkey.Buffer[40] ^= 1 }),
	}
	for name, file := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			k, err := s.Signer(hsm.TenantServer)
			if err == nil {
				s.forget() // as after a restart
				_, err = k.Sign(rand.Reader, digest[:], crypto.SHA256)
			}
			if err == nil {
				t.Error("signed")
			}
			if created, err := s.Create(t.Context(), hsm.TenantServer); created {
				t.Errorf("Create wrote over a broken key file: %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"))
	if b, err := os.ReadFile("testdata/v1/keys/tenant-server.pem"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := parse(b); err == nil && k.public == nil {
			t.Error("a key without a public part")
		}
	})
}
