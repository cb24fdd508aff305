// Package sign makes and extends a TUF repository of releases: the work of the
// vendor and, with a rollout order beside each release, of the owner. The box
// never links it.
//
// A repository is a folder of static files: metadata/<n>.root.json,
// metadata/<n>.targets.json, metadata/<n>.snapshot.json,
// metadata/timestamp.json, and targets/<sha256>.<name>. Any web server or a
// USB stick can carry it. All four roles are held by one key here, given as a
// crypto.Signer (TPM, card or file); later versions may split them by signing
// a new root. Keys are ECDSA P-256 or Ed25519.
package sign

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"gitlab.opencode.de/pforte/pforte/internal/release"
)

// Lifetimes of what is signed. The timestamp is short: it is what tells a box
// that nobody hides newer metadata from it.
const (
	rootLife      = 2 * 365 * 24 * time.Hour
	targetsLife   = 180 * 24 * time.Hour
	timestampLife = 30 * 24 * time.Hour
)

// Root makes the first root metadata for a repository whose every role is held
// by key: what an image carries to trust that repository.
func Root(key crypto.Signer, now time.Time) ([]byte, error) {
	root := metadata.Root(now.Add(rootLife))
	root.Signed.ConsistentSnapshot = true
	public, err := metadata.KeyFromPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign: root: %w", err)
	}
	for _, role := range []string{metadata.ROOT, metadata.TIMESTAMP, metadata.SNAPSHOT, metadata.TARGETS} {
		if err := root.Signed.AddKey(public, role); err != nil {
			return nil, fmt.Errorf("sign: root: %w", err)
		}
	}
	return seal(root, key)
}

// Init writes an empty repository into dir (which must not hold one yet)
// under the given root metadata.
func Init(dir string, root []byte, key crypto.Signer, now time.Time) error {
	meta := filepath.Join(dir, "metadata")
	if _, err := os.Stat(filepath.Join(meta, "1.root.json")); err == nil {
		return fmt.Errorf("sign: %s already holds a repository", dir)
	}
	for _, d := range []string{meta, filepath.Join(dir, "targets")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(meta, "1.root.json"), root, 0o644); err != nil {
		return fmt.Errorf("sign: %w", err)
	}
	return publish(dir, metadata.Targets(now.Add(targetsLife)), key, now)
}

// VendorSays is the custom part of a vendor's target.
type VendorSays struct {
	Version string `json:"version"`
	Epoch   uint64 `json:"epoch"`
}

// Add publishes file as release version in the repository dir. custom becomes
// the custom part of the target: VendorSays in a vendor's repository, a
// rollout order in an owner's. withFile also copies the file into targets/,
// where boxes fetch it; an owner's repository may do without.
func Add(dir, file, version string, custom any, withFile bool, key crypto.Signer, now time.Time) error {
	if !release.ValidVersion(version) {
		return fmt.Errorf("sign: %q is no version: 1 to 64 letters, digits and . + - _, a letter or digit first", version)
	}
	targets, err := latest(dir)
	if err != nil {
		return err
	}
	name := release.Prefix + version + release.Suffix
	target, sum, err := describe(file, name)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(custom)
	if err != nil {
		return fmt.Errorf("sign: %s: %w", name, err)
	}
	target.Custom = (*json.RawMessage)(&raw)
	if withFile {
		if err := copyFile(filepath.Join(dir, "targets", sum+"."+name), file); err != nil {
			return fmt.Errorf("sign: %s: %w", name, err)
		}
	}
	targets.Signed.Targets[name] = target
	targets.Signed.Version++
	targets.Signed.Expires = now.Add(targetsLife).UTC().Truncate(time.Second)
	return publish(dir, targets, key, now)
}

// Remove withdraws a release: boxes that look again will not install it.
func Remove(dir, version string, key crypto.Signer, now time.Time) error {
	targets, err := latest(dir)
	if err != nil {
		return err
	}
	name := release.Prefix + version + release.Suffix
	if _, ok := targets.Signed.Targets[name]; !ok {
		return fmt.Errorf("sign: no release %s in %s", version, dir)
	}
	delete(targets.Signed.Targets, name)
	targets.Signed.Version++
	targets.Signed.Expires = now.Add(targetsLife).UTC().Truncate(time.Second)
	return publish(dir, targets, key, now)
}

// Refresh signs the metadata again with new dates and changes nothing else. It
// must be run before the timestamp expires.
func Refresh(dir string, key crypto.Signer, now time.Time) error {
	targets, err := latest(dir)
	if err != nil {
		return err
	}
	targets.Signed.Version++
	targets.Signed.Expires = now.Add(targetsLife).UTC().Truncate(time.Second)
	return publish(dir, targets, key, now)
}

func describe(file, name string) (*metadata.TargetFiles, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", fmt.Errorf("sign: %w", err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return nil, "", fmt.Errorf("sign: %w", err)
	}
	if n == 0 || n > release.MaxLength {
		return nil, "", fmt.Errorf("sign: %s has %d bytes; a release has 1 to %d", file, n, release.MaxLength)
	}
	t := metadata.TargetFile()
	t.Path, t.Length = name, n
	t.Hashes = metadata.Hashes{"sha256": h.Sum(nil)}
	return t, hex.EncodeToString(h.Sum(nil)), nil
}

// latest reads the newest targets metadata of a repository.
func latest(dir string) (*metadata.Metadata[metadata.TargetsType], error) {
	found, err := filepath.Glob(filepath.Join(dir, "metadata", "*.targets.json"))
	if err != nil || len(found) == 0 {
		return nil, errors.Join(fmt.Errorf("sign: %s holds no repository; make one first", dir), err)
	}
	newest, name := int64(0), ""
	for _, f := range found {
		n, err := strconv.ParseInt(strings.SplitN(filepath.Base(f), ".", 2)[0], 10, 64)
		if err == nil && n > newest {
			newest, name = n, f
		}
	}
	targets, err := metadata.Targets().FromFile(name)
	if err != nil {
		return nil, fmt.Errorf("sign: %s: %w", name, err)
	}
	return targets, nil
}

// publish signs targets, then a snapshot and a timestamp over it, and writes
// them in the order in which a client must never find a reference to nothing.
func publish(dir string, targets *metadata.Metadata[metadata.TargetsType], key crypto.Signer, now time.Time) error {
	version := targets.Signed.Version
	snapshot := metadata.Snapshot(now.Add(targetsLife))
	snapshot.Signed.Version = version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(version)
	timestamp := metadata.Timestamp(now.Add(timestampLife))
	timestamp.Signed.Version = version
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(version)
	number := strconv.FormatInt(version, 10)
	for _, step := range []struct {
		name string
		seal func() ([]byte, error)
	}{
		{number + ".targets.json", func() ([]byte, error) { return seal(targets, key) }},
		{number + ".snapshot.json", func() ([]byte, error) { return seal(snapshot, key) }},
		{"timestamp.json", func() ([]byte, error) { return seal(timestamp, key) }},
	} {
		data, err := step.seal()
		if err != nil {
			return fmt.Errorf("sign: %s: %w", step.name, err)
		}
		if err := replace(filepath.Join(dir, "metadata", step.name), data); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
	}
	return nil
}

// seal signs metadata with the one key and returns its JSON.
func seal[T metadata.Roles](m *metadata.Metadata[T], key crypto.Signer) ([]byte, error) {
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	m.ClearSignatures()
	if _, err := m.Sign(signer); err != nil {
		return nil, err
	}
	return m.ToBytes(true)
}

func replace(name string, data []byte) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func copyFile(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(dst)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
