package release_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/release"
	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
)

// folder is a Source over a repository's folder.
type folder string

func (f folder) Fetch(path string, limit int64) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(f), filepath.FromSlash(path)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, release.ErrNotFound
	}
	if int64(len(data)) > limit {
		return nil, errors.New("too large")
	}
	return data, err
}

// party is the vendor or the owner: a key and a repository.
type party struct {
	t    *testing.T
	name string
	dir  string
	root []byte
	key  crypto.Signer
	now  time.Time
}

func newParty(t *testing.T, name string, now time.Time) *party {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &party{t: t, name: name, dir: t.TempDir(), key: key, now: now}
	if p.root, err = sign.Root(key, now); err != nil {
		t.Fatal(err)
	}
	if err := sign.Init(p.dir, p.root, key, now); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *party) add(content, version string, custom any) {
	p.t.Helper()
	file := filepath.Join(p.t.TempDir(), "uki")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := sign.Add(p.dir, file, version, custom, true, p.key, p.now); err != nil {
		p.t.Fatal(err)
	}
}

func (p *party) repository(cache string) release.Repository {
	return release.Repository{Name: p.name, Root: p.root, Files: folder(p.dir), Cache: filepath.Join(cache, p.name)}
}

type order struct {
	Boxes []string `json:"boxes"`
}

func TestBothMustList(t *testing.T) {
	now := time.Now()
	vendor, owner := newParty(t, "vendor", now), newParty(t, "owner", now)
	vendor.add("one", "1.0.0", sign.VendorSays{Version: "1.0.0", Epoch: 1})
	owner.add("one", "1.0.0", order{[]string{"*"}})
	vendor.add("two", "2.0.0", sign.VendorSays{Version: "2.0.0", Epoch: 2})
	owner.add("other", "3.0.0", order{})
	vendor.add("mine", "4.0.0", sign.VendorSays{Version: "4.0.0", Epoch: 2})
	owner.add("yours", "4.0.0", order{})
	cache := t.TempDir()
	v := release.Verifier{Vendor: vendor.repository(cache), Owner: owner.repository(cache)}
	good, bad, err := v.Releases(now)
	if err != nil {
		t.Fatal(err)
	}
	if len(good) != 1 || good[0].Version != "1.0.0" || good[0].Epoch != 1 || good[0].Length != 3 {
		t.Fatalf("good: %+v", good)
	}
	var o order
	if err := json.Unmarshal(good[0].Order, &o); err != nil || len(o.Boxes) != 1 {
		t.Errorf("order %s: %v", good[0].Order, err)
	}
	data, err := folder(owner.dir).Fetch(good[0].Path(), 10)
	if err != nil || !bytes.Equal(data, []byte("one")) {
		t.Errorf("file at %s: %q, %v", good[0].Path(), data, err)
	}
	want := map[string]error{"pforte-2.0.0.efi": release.ErrOneSided, "pforte-3.0.0.efi": release.ErrOneSided, "pforte-4.0.0.efi": release.ErrDisagree}
	if len(bad) != len(want) {
		t.Fatalf("refused: %v", bad)
	}
	for _, b := range bad {
		if !errors.Is(b.Err, want[b.Name]) {
			t.Errorf("%s: %v, want %v", b.Name, b.Err, want[b.Name])
		}
	}
}

func TestRefused(t *testing.T) {
	now := time.Now()
	tests := []struct {
		name   string
		damage func(t *testing.T, vendor, owner *party, v *release.Verifier) time.Time
		want   string
	}{
		{"timestamp expired", func(*testing.T, *party, *party, *release.Verifier) time.Time {
			return now.Add(60 * 24 * time.Hour)
		}, "expired"},
		{"clock set back", func(_ *testing.T, _, _ *party, v *release.Verifier) time.Time {
			v.NotBefore = now.Add(60 * 24 * time.Hour)
			return now
		}, "expired"},
		{"signed by a stranger", func(t *testing.T, _, owner *party, _ *release.Verifier) time.Time {
			stranger := newParty(t, "stranger", now)
			stranger.add("one", "1.0.0", order{})
			owner.dir = stranger.dir
			return now
		}, "owner repository"},
		{"vendor signs the owner's part", func(_ *testing.T, vendor, owner *party, _ *release.Verifier) time.Time {
			owner.dir = vendor.dir
			return now
		}, "owner repository"},
		{"flipped byte in targets", func(t *testing.T, vendor, _ *party, _ *release.Verifier) time.Time {
			name := filepath.Join(vendor.dir, "metadata", "2.targets.json")
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			data = bytes.Replace(data, []byte(`"epoch": 1`), []byte(`"epoch": 9`), 1)
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
			return now
		}, "vendor repository"},
		{"nothing there", func(t *testing.T, _, owner *party, _ *release.Verifier) time.Time {
			owner.dir = t.TempDir()
			return now
		}, "owner repository"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vendor, owner := newParty(t, "vendor", now), newParty(t, "owner", now)
			vendor.add("one", "1.0.0", sign.VendorSays{Version: "1.0.0", Epoch: 1})
			owner.add("one", "1.0.0", order{})
			var v release.Verifier
			at := tt.damage(t, vendor, owner, &v)
			cache := t.TempDir()
			v.Vendor, v.Owner = vendor.repository(cache), owner.repository(cache)
			good, _, err := v.Releases(at)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("releases %v, error %v, want one with %q", good, err, tt.want)
			}
		})
	}
}

// TestRollback: metadata older than what the box has seen is refused.
func TestRollback(t *testing.T) {
	now := time.Now()
	vendor, owner := newParty(t, "vendor", now), newParty(t, "owner", now)
	vendor.add("one", "1.0.0", sign.VendorSays{Version: "1.0.0", Epoch: 1})
	owner.add("one", "1.0.0", order{})
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(owner.dir)); err != nil {
		t.Fatal(err)
	}
	if err := sign.Remove(owner.dir, "1.0.0", owner.key, now); err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	good, bad, err := release.Verifier{Vendor: vendor.repository(cache), Owner: owner.repository(cache)}.Releases(now)
	if err != nil || len(good) != 0 || len(bad) != 1 {
		t.Fatalf("after the owner's withdrawal: %v, %v, %v", good, bad, err)
	}
	owner.dir = old // somebody serves the older, validly signed repository again
	if good, _, err := (release.Verifier{Vendor: vendor.repository(cache), Owner: owner.repository(cache)}).Releases(now); err == nil {
		t.Fatalf("a withdrawn release came back: %v", good)
	}
}

func TestValidVersion(t *testing.T) {
	for s, want := range map[string]bool{"1.2.3": true, "2026.11+dev-1_a": true, "": false, "../x": false, "a b": false, ".a": false, strings.Repeat("1", 65): false} {
		if got := release.ValidVersion(s); got != want {
			t.Errorf("ValidVersion(%q) = %v", s, got)
		}
	}
}
