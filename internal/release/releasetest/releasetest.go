// Package releasetest makes the two update repositories for tests: a vendor and
// an owner, each with a key of its own and a folder of static files, made by the
// same code (release/sign, rollout/issue) that makes the real ones. It is for
// tests only.
package releasetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
	"gitlab.opencode.de/pforte/pforte/internal/rollout/issue"
)

// Party is the vendor or the owner.
type Party struct {
	Dir  string // its repository
	Root []byte // what an image carries to trust it
	Key  crypto.Signer
}

// Parties are both. Now is the time at which they sign.
type Parties struct {
	Vendor, Owner Party
	Now           time.Time

	t testing.TB
}

// New makes two empty repositories.
func New(t testing.TB) *Parties {
	t.Helper()
	p := &Parties{Now: time.Now(), t: t}
	for _, party := range []*Party{&p.Vendor, &p.Owner} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		p.must(err)
		party.Key, party.Dir = key, t.TempDir()
		party.Root, err = sign.Root(key, p.Now)
		p.must(err)
		p.must(sign.Init(party.Dir, party.Root, key, p.Now))
	}
	return p
}

// Publish makes the vendor sign a release of the given content.
func (p *Parties) Publish(version string, epoch uint64, content []byte) {
	p.t.Helper()
	p.must(sign.Add(p.Vendor.Dir, p.file(content), version, sign.VendorSays{Version: version, Epoch: epoch}, true, p.Vendor.Key, p.Now))
}

// Authorise makes the owner sign an order for a release of the given content.
func (p *Parties) Authorise(version string, order rollout.Order, content []byte) {
	p.t.Helper()
	p.must(issue.Authorise(p.Owner.Dir, p.file(content), version, order, p.Owner.Key, p.Now))
}

// Target is the vendor's copy of a release's file.
func (p *Parties) Target(version string) string {
	p.t.Helper()
	found, err := filepath.Glob(filepath.Join(p.Vendor.Dir, "targets", "*.pforte-"+version+".efi"))
	p.must(err)
	if len(found) != 1 {
		p.t.Fatalf("%d files of release %s", len(found), version)
	}
	return found[0]
}

// Serve serves a folder over HTTP until the test ends.
func Serve(t testing.TB, dir string) (url string) {
	t.Helper()
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL
}

func (p *Parties) file(content []byte) string {
	p.t.Helper()
	name := filepath.Join(p.t.TempDir(), "release.efi")
	p.must(os.WriteFile(name, content, 0o600))
	return name
}

func (p *Parties) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}
