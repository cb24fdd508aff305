// Package release decides which releases a box may install.
//
// A release is one file (a signed UKI). It is published in two TUF
// repositories, the vendor's and the owner's, which are plain static files.
// The box accepts it only if both repositories, each verified by its own chain
// of metadata from the root that the running image carries, list a target of
// the same name with the same length and the same SHA-256 (TUF TAP 4 with a
// threshold of two). What the vendor says about it (version, epoch) is in the
// custom part of the vendor's target; what the owner allows (boxes, window,
// see package rollout) in the owner's.
//
// Bytes in, verdict out: files come through a Source, and the only state is
// go-tuf's own metadata cache, a folder per repository, which gives rollback
// protection: metadata older than what was seen once is refused. Signing lives
// in release/sign, which the box never links.
//
// Time: TUF refuses expired metadata. The clock that is asked is the greatest
// of the given time and Verifier.NotBefore, so that a box whose clock was set
// back does not accept what had already expired.
package release

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

// Bounds of what is read from a repository, in bytes and numbers.
const (
	maxRoot       = 256 << 10
	maxTimestamp  = 16 << 10
	maxSnapshot   = 256 << 10
	maxTargets    = 4 << 20
	maxRotations  = 64
	maxReleases   = 1000
	maxCustom     = 64 << 10
	maxVersionLen = 64
	// MaxLength is the size of the largest release a box takes.
	MaxLength = 64 << 20
	// Prefix and Suffix frame a release's target name: pforte-<version>.efi.
	Prefix = "pforte-"
	Suffix = ".efi"
)

// Errors that callers test.
var (
	// ErrNotFound: a Source has no such file.
	ErrNotFound = errors.New("no such file in the repository")
	// ErrDisagree: both repositories list the name, but not the same file.
	ErrDisagree = errors.New("vendor and owner list different files under this name")
	// ErrOneSided: only one of the two repositories lists the release.
	ErrOneSided = errors.New("only one of vendor and owner lists this release")
)

// Source gives a repository's files by their path in it ("metadata/1.root.json",
// "targets/…"). It reads at most limit bytes and returns ErrNotFound for what
// is not there.
type Source interface {
	Fetch(path string, limit int64) ([]byte, error)
}

// Repository is one of the two: its name for messages, the root metadata that
// the running image carries, its files, and a folder for go-tuf's cache.
type Repository struct {
	Name  string
	Root  []byte
	Files Source
	Cache string
}

// Release is one installable file on which both repositories agree.
type Release struct {
	Version string   // free of slashes and white space, at most 64 characters
	Epoch   uint64   // grows when older releases must never come back
	Length  int64    // bytes, at most MaxLength
	SHA256  [32]byte // of the whole file
	Name    string   // target name, pforte-<version>.efi
	Order   []byte   // JSON of the owner's rollout order, see package rollout
}

// Path is where the file lies in either repository (TUF consistent snapshots:
// the hash is part of the name).
func (r Release) Path() string {
	return path.Join("targets", hex.EncodeToString(r.SHA256[:])+"."+r.Name)
}

// Check compares a downloaded file with the release.
func (r Release) Check(length int64, sum [32]byte) error {
	if length != r.Length {
		return fmt.Errorf("release %s: file has %d bytes, signed are %d", r.Version, length, r.Length)
	}
	if sum != r.SHA256 {
		return fmt.Errorf("release %s: SHA-256 of the file is %x, signed is %x", r.Version, sum, r.SHA256)
	}
	return nil
}

// Refusal is a listed release that may not be installed, and why.
type Refusal struct {
	Name string
	Err  error
}

// Verifier reads both repositories.
type Verifier struct {
	Vendor, Owner Repository
	// NotBefore is the latest time known for sure (build time of the image,
	// newest metadata seen); the clock counts as at least that.
	NotBefore time.Time
}

// vendorCustom is what the vendor says of a release.
type vendorCustom struct {
	Version string `json:"version"`
	Epoch   uint64 `json:"epoch"`
}

// Releases refreshes both repositories and returns what both allow, newest
// epoch and then newest version (see Compare) last, and what only one lists or on which they
// differ. An error means that a repository could not be read or verified:
// nothing of it may be used then.
func (v Verifier) Releases(now time.Time) ([]Release, []Refusal, error) {
	if now.Before(v.NotBefore) {
		now = v.NotBefore
	}
	vendor, err := v.Vendor.targets(now)
	if err != nil {
		return nil, nil, err
	}
	owner, err := v.Owner.targets(now)
	if err != nil {
		return nil, nil, err
	}
	var good []Release
	var bad []Refusal
	for _, name := range names(vendor, owner) {
		r, err := agree(name, vendor[name], owner[name])
		if err != nil {
			bad = append(bad, Refusal{name, err})
			continue
		}
		good = append(good, r)
	}
	slices.SortStableFunc(good, func(a, b Release) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), Compare(a.Version, b.Version))
	})
	return good, bad, nil
}

// names are the release names of both, sorted.
func names(a, b map[string]*metadata.TargetFiles) []string {
	seen := map[string]bool{}
	for _, m := range []map[string]*metadata.TargetFiles{a, b} {
		for name := range m {
			if strings.HasPrefix(name, Prefix) && strings.HasSuffix(name, Suffix) {
				seen[name] = true
			}
		}
	}
	out := make([]string, 0, len(seen))
	for name := range seen {
		out = append(out, name)
	}
	sort.Strings(out)
	return out
}

// agree makes a release of two targets that say the same.
func agree(name string, vendor, owner *metadata.TargetFiles) (Release, error) {
	switch {
	case vendor == nil:
		return Release{}, fmt.Errorf("%w: the vendor has not signed it", ErrOneSided)
	case owner == nil:
		return Release{}, fmt.Errorf("%w: the owner has not authorised it", ErrOneSided)
	}
	v, err := digest(vendor)
	if err != nil {
		return Release{}, fmt.Errorf("vendor: %w", err)
	}
	o, err := digest(owner)
	if err != nil {
		return Release{}, fmt.Errorf("owner: %w", err)
	}
	if v != o || vendor.Length != owner.Length {
		return Release{}, ErrDisagree
	}
	if vendor.Length <= 0 || vendor.Length > MaxLength {
		return Release{}, fmt.Errorf("length %d is not within 1 and %d bytes", vendor.Length, MaxLength)
	}
	custom, err := vendorSays(name, vendor)
	if err != nil {
		return Release{}, err
	}
	r := Release{Version: custom.Version, Epoch: custom.Epoch, Length: vendor.Length, SHA256: v, Name: name}
	if owner.Custom != nil {
		if len(*owner.Custom) > maxCustom {
			return Release{}, fmt.Errorf("rollout order is larger than %d bytes", maxCustom)
		}
		r.Order = bytes.Clone(*owner.Custom)
	}
	return r, nil
}

func vendorSays(name string, t *metadata.TargetFiles) (vendorCustom, error) {
	var c vendorCustom
	if t.Custom == nil || len(*t.Custom) > maxCustom {
		return c, errors.New("the vendor's target says neither version nor epoch")
	}
	dec := json.NewDecoder(bytes.NewReader(*t.Custom))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, fmt.Errorf("the vendor's target: %w", err)
	}
	if !ValidVersion(c.Version) || name != Prefix+c.Version+Suffix {
		return c, fmt.Errorf("the vendor's target says version %q under the name %q", c.Version, name)
	}
	return c, nil
}

// ValidVersion reports whether s can be a version: 1 to 64 of the characters
// a-z, A-Z, 0-9 and . + - _, starting with a letter or digit.
func ValidVersion(s string) bool {
	if s == "" || len(s) > maxVersionLen {
		return false
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || !strings.ContainsRune(".+-_", rune(c))) {
			return false
		}
	}
	return true
}

func digest(t *metadata.TargetFiles) (sum [32]byte, err error) {
	h := t.Hashes["sha256"]
	if len(h) != sha256.Size {
		return sum, errors.New("no SHA-256 in the target")
	}
	copy(sum[:], h)
	return sum, nil
}

// targets runs the TUF client workflow (TUF specification 1.0.34, §5) and
// returns the verified top-level targets. Delegations are not followed: each
// repository speaks for itself.
func (r Repository) targets(now time.Time) (map[string]*metadata.TargetFiles, error) {
	cfg, err := config.New(metadataURL, r.Root)
	if err != nil {
		return nil, fmt.Errorf("release: %s repository: %w", r.Name, err)
	}
	cfg.RemoteMetadataURL = metadataURL
	cfg.MaxRootRotations, cfg.MaxDelegations = maxRotations, 0
	cfg.RootMaxLength, cfg.TimestampMaxLength, cfg.SnapshotMaxLength, cfg.TargetsMaxLength = maxRoot, maxTimestamp, maxSnapshot, maxTargets
	cfg.Fetcher = fetcher{r.Files}
	cfg.LocalMetadataDir = r.Cache
	cfg.LocalTargetsDir = r.Cache
	u, err := updater.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("release: %s repository: root: %w", r.Name, err)
	}
	u.UnsafeSetRefTime(now) // the greatest time known, see the package comment
	if err := u.Refresh(); err != nil {
		return nil, fmt.Errorf("release: %s repository: %w", r.Name, err)
	}
	targets := u.GetTopLevelTargets()
	if len(targets) > maxReleases {
		return nil, fmt.Errorf("release: %s repository lists %d targets, more than %d", r.Name, len(targets), maxReleases)
	}
	return targets, nil
}
