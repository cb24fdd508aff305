package devkeys

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"os"
	"sync"
	"testing"

	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

func TestSameAgain(t *testing.T) {
	dir := t.TempDir()
	publics := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range publics {
		wg.Go(func() {
			s, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			k, err := s.Signer(OwnerConfig)
			if err != nil {
				t.Error(err)
				return
			}
			publics[i], _ = PublicPEM(k)
		})
	}
	wg.Wait()
	for _, p := range publics[1:] {
		if len(p) == 0 || !bytes.Equal(p, publics[0]) {
			t.Fatal("processes that asked at once got different keys")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("folder has %v (%v), want one key and no leftovers", entries, err)
	}
	info, err := entries[0].Info()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), want 0600", info.Mode(), err)
	}
}

func TestCertificates(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		get  func(string) (*x509.Certificate, crypto.Signer, error)
		ca   bool
	}{{PlatformKey, s.Certificate, false}, {"owner-ca", s.CA, true}} {
		first, k, err := tt.get(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		again, _, err := tt.get(tt.name)
		if err != nil || !first.Equal(again) {
			t.Errorf("%s: second call gave another certificate (%v)", tt.name, err)
		}
		if first.IsCA != tt.ca {
			t.Errorf("%s: IsCA = %v", tt.name, first.IsCA)
		}
		if pub, ok := first.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(k.Public()) {
			t.Errorf("%s: certificate does not belong to the key", tt.name)
		}
	}
}

func TestTUFRoot(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.TUFRoot(VendorTUF)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trustedmetadata.New(data); err != nil {
		t.Errorf("go-tuf refuses the root: %v", err)
	}
}

func TestBadNames(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "a/b", ".hidden", "Groß"} {
		if _, err := s.Signer(name); err == nil {
			t.Errorf("Signer(%q) worked", name)
		}
	}
}
