package issue_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/internal/release"
	"gitlab.opencode.de/pforte/pforte/internal/release/sign"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
	"gitlab.opencode.de/pforte/pforte/internal/rollout/issue"
)

// folder is a Source over a repository's folder.
type folder string

func (f folder) Fetch(path string, _ int64) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(string(f), path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, release.ErrNotFound
	}
	return data, err
}

// parties are a vendor with one release and an owner.
type parties struct {
	t              *testing.T
	vendor, owner  string
	roots          map[string][]byte
	key            *ecdsa.PrivateKey
	file, otherUKI string
	now            time.Time
}

func newParties(t *testing.T) *parties {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &parties{t: t, key: key, now: time.Now(), vendor: t.TempDir(), owner: t.TempDir(), roots: map[string][]byte{}}
	p.file, p.otherUKI = filepath.Join(t.TempDir(), "a.efi"), filepath.Join(t.TempDir(), "b.efi")
	p.must(os.WriteFile(p.file, []byte("release"), 0o600))
	p.must(os.WriteFile(p.otherUKI, []byte("another"), 0o600))
	for _, dir := range []string{p.vendor, p.owner} {
		p.roots[dir], err = sign.Root(key, p.now)
		p.must(err)
		p.must(sign.Init(dir, p.roots[dir], key, p.now))
	}
	p.must(sign.Add(p.vendor, p.file, "1.0.0", sign.VendorSays{Version: "1.0.0", Epoch: 1}, true, key, p.now))
	return p
}

func (p *parties) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// releases is what a box sees.
func (p *parties) releases() ([]release.Release, []release.Refusal) {
	p.t.Helper()
	cache := p.t.TempDir()
	v := release.Verifier{
		Vendor: release.Repository{Name: "vendor", Root: p.roots[p.vendor], Files: folder(p.vendor), Cache: filepath.Join(cache, "v")},
		Owner:  release.Repository{Name: "owner", Root: p.roots[p.owner], Files: folder(p.owner), Cache: filepath.Join(cache, "o")},
	}
	good, bad, err := v.Releases(p.now)
	p.must(err)
	return good, bad
}

func TestAuthoriseAndWithdraw(t *testing.T) {
	p := newParties(t)
	order := rollout.Order{Boxes: []string{"sn-gw-0?"}, NotBefore: p.now.UTC().Truncate(time.Second), AtOnce: 1, MinimumEpoch: 1, Older: true}
	p.must(issue.Authorise(p.owner, p.file, "1.0.0", order, p.key, p.now))
	good, _ := p.releases()
	if len(good) != 1 {
		t.Fatalf("%d releases", len(good))
	}
	got, err := rollout.Parse(good[0].Order)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(order, got); diff != "" {
		t.Error(diff)
	}
	if found, err := filepath.Glob(filepath.Join(p.owner, "targets", "*")); err != nil || len(found) != 0 {
		t.Errorf("files in the owner's repository: %v, %v", found, err)
	}
	order.Boxes = []string{"sn-gw-01"}
	p.must(issue.Authorise(p.owner, p.file, "1.0.0", order, p.key, p.now))
	good, _ = p.releases()
	if got, err := rollout.Parse(good[0].Order); err != nil || got.Boxes[0] != "sn-gw-01" {
		t.Errorf("the later order: %+v, %v", got, err)
	}
	p.must(issue.Withdraw(p.owner, "1.0.0", p.key, p.now))
	if good, bad := p.releases(); len(good) != 0 || len(bad) != 1 || !errors.Is(bad[0].Err, release.ErrOneSided) {
		t.Errorf("after withdrawal: %v, %v", good, bad)
	}
	if err := issue.Withdraw(p.owner, "1.0.0", p.key, p.now); err == nil {
		t.Error("withdrawn twice")
	}
}

// TestAnotherFile: the owner had something else before them than the vendor.
func TestAnotherFile(t *testing.T) {
	p := newParties(t)
	p.must(issue.Authorise(p.owner, p.otherUKI, "1.0.0", rollout.Order{Boxes: []string{"*"}}, p.key, p.now))
	if good, bad := p.releases(); len(good) != 0 || len(bad) != 1 || !errors.Is(bad[0].Err, release.ErrDisagree) {
		t.Errorf("%v, %v", good, bad)
	}
}

func TestOrdersThatAreNotSigned(t *testing.T) {
	p := newParties(t)
	before, err := filepath.Glob(filepath.Join(p.owner, "metadata", "*"))
	p.must(err)
	tests := []struct {
		name    string
		version string
		file    string
		order   rollout.Order
		want    string
	}{
		{"no box", "1.0.0", p.file, rollout.Order{}, "names no box"},
		{"bad pattern", "1.0.0", p.file, rollout.Order{Boxes: []string{"["}}, "no pattern"},
		{"window over", "1.0.0", p.file, rollout.Order{Boxes: []string{"*"}, NotAfter: p.now.Add(-time.Hour)}, "is over"},
		{"window ends first", "1.0.0", p.file, rollout.Order{Boxes: []string{"*"}, NotBefore: p.now.Add(2 * time.Hour), NotAfter: p.now.Add(time.Hour)}, "ends before"},
		{"too large", "1.0.0", p.file, rollout.Order{Boxes: []string{strings.Repeat("a", 70_000)}}, "larger than"},
		{"bad version", "../1", p.file, rollout.Order{Boxes: []string{"*"}}, "no version"},
		{"no file", "1.0.0", p.file + "x", rollout.Order{Boxes: []string{"*"}}, "no such file"},
	}
	for _, tt := range tests {
		if err := issue.Authorise(p.owner, tt.file, tt.version, tt.order, p.key, p.now); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	after, err := filepath.Glob(filepath.Join(p.owner, "metadata", "*"))
	p.must(err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("something was signed:\n%s", diff)
	}
}
