// Package debian fetches Debian packages without being root and without
// installing them, and hands out single files from them.
//
// It works in a private apt root below the cache folder, with the host's
// apt-get and dpkg-deb (any version since Debian 12). The mirror comes from the
// host's own apt configuration or from the caller; the packages themselves are
// of Debian 13 (trixie, trixie-updates, trixie-security) whatever the host runs.
//
// It trusts Debian's archive keys ([Keyring]) for what apt finds, and the lock
// for what a build repeats: a package named in the lock is taken in exactly that
// version with exactly that SHA-256 as long as the mirror or the cache still has
// it. If it has vanished, the newest version is taken instead and reported as a
// [Change]; with Options.Locked that is an error. A build whose packages all lie
// in the cache needs no network.
//
// Maintainer scripts are never run. Unpacked packages lie side by side, each in
// a folder named by the SHA-256 of its .deb; nobody writes there afterwards.
// Set-user-id bits and owners are dropped while unpacking. Several builds may
// share one cache: a lock file serialises them.
package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Options says where packages come from and how strictly the lock binds.
type Options struct {
	Cache string // folder for lists, archives and unpacked packages
	// Mirror is asked for the archives' addresses only if something has to be fetched.
	Mirror func() (Mirror, error)
	Lock   *Lock
	Locked bool // refuse every difference from Lock
	Update bool // take the newest versions whatever Lock says
	// Log is told in one line each what takes time. It may be nil.
	Log func(format string, args ...any)
}

// ErrLocked is returned when Options.Locked forbids what would have to be taken.
var ErrLocked = errors.New("packages differ from debian.lock")

// Package is one fetched and unpacked package.
type Package struct {
	Entry
	Deb  string // path of the .deb
	Root string // folder with its files
}

// Request asks for a package by name. With Follow the name is a metapackage, and
// the first package that it depends on is meant (linux-image-amd64 depends on the
// current kernel, whose name holds its version).
type Request struct {
	Name   string
	Follow bool
}

// Fetch brings the requested packages into the cache and unpacks them.
func Fetch(ctx context.Context, o Options, requests []Request) (*Set, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Lock == nil {
		o.Lock = &Lock{}
	}
	cache, err := filepath.Abs(filepath.Join(o.Cache, "debian"))
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"archives", "unpacked"} {
		if err := os.MkdirAll(filepath.Join(cache, d), 0o755); err != nil {
			return nil, err
		}
	}
	unlock, err := lockFile(ctx, filepath.Join(cache, "lock"), o.Log)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, pattern := range []string{".download-*", "unpacked/.tmp-*"} { // left by a build that was killed
		left, _ := filepath.Glob(filepath.Join(cache, pattern))
		for _, dir := range left {
			if err := os.RemoveAll(dir); err != nil {
				return nil, err
			}
		}
	}
	f := fetcher{o, cache}
	entries, err := f.choose(ctx, requests)
	if err != nil {
		return nil, err
	}
	set := &Set{Changes: o.Lock.Compare(entries)}
	for _, e := range entries {
		p := Package{Entry: e, Deb: f.deb(e)}
		if p.Root, err = unpack(ctx, p.Deb, filepath.Join(cache, "unpacked", e.SHA256)); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", e.Name, err)
		}
		set.Packages = append(set.Packages, p)
	}
	return set, set.index()
}

type fetcher struct {
	Options
	cache string
}

func (f fetcher) deb(e Entry) string {
	return filepath.Join(f.cache, "archives", e.SHA256+".deb")
}

func (f fetcher) cached(e Entry) bool {
	_, err := os.Stat(f.deb(e))
	return err == nil
}

// choose decides on a version for each request and makes sure that it is cached.
func (f fetcher) choose(ctx context.Context, requests []Request) ([]Entry, error) {
	var entries []Entry
	for _, r := range requests {
		if e, ok := f.Lock.Find(r.Name); ok && f.cached(e) && !f.Update {
			entries = append(entries, e)
		}
	}
	if len(entries) < len(requests) {
		m, err := f.Mirror()
		if err != nil {
			return nil, err
		}
		a, err := openApt(filepath.Join(f.cache, "apt"), m)
		if err != nil {
			return nil, err
		}
		f.Log("package lists of Debian %s", Release)
		if err := a.update(ctx, f.Update); err != nil {
			return nil, err
		}
		if entries, err = f.resolve(ctx, a, requests); err != nil {
			return nil, err
		}
		if err := f.refuse(entries); err != nil {
			return nil, err
		}
		if err := f.download(ctx, a, entries); err != nil {
			return nil, err
		}
	}
	return entries, f.refuse(entries)
}

// refuse applies Options.Locked.
func (f fetcher) refuse(entries []Entry) error {
	changes := f.Lock.Compare(entries)
	if !f.Locked || len(changes) == 0 {
		return nil
	}
	var lines []string
	for _, c := range changes {
		lines = append(lines, c.String())
	}
	return fmt.Errorf("%w: %s; build without -locked, or record them with -update", ErrLocked, strings.Join(lines, "; "))
}

// resolve finds an entry for each request: the locked one if it still exists,
// else the newest.
func (f fetcher) resolve(ctx context.Context, a *apt, requests []Request) ([]Entry, error) {
	names := make([]string, len(requests))
	for i, r := range requests {
		names[i] = r.Name
	}
	known, err := a.show(ctx, names)
	if err != nil {
		return nil, err
	}
	if err := f.showTargets(ctx, a, requests, known); err != nil {
		return nil, err
	}
	var out []Entry
	for _, r := range requests {
		e, err := f.resolveOne(r, known)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// showTargets adds to known what metapackages point to now, and what the lock
// says they pointed to (which may be gone from the mirror).
func (f fetcher) showTargets(ctx context.Context, a *apt, requests []Request, known map[string][]record) error {
	for _, r := range requests {
		if !r.Follow || len(known[r.Name]) == 0 {
			continue
		}
		found, err := a.show(ctx, []string{target(known[r.Name][0])})
		if err != nil {
			return err
		}
		maps.Copy(known, found)
		if e, ok := f.Lock.Find(r.Name); ok && !f.Update {
			if found, err := a.show(ctx, []string{e.Name}); err == nil {
				maps.Copy(known, found)
			}
		}
	}
	return nil
}

// target is the first package that a metapackage depends on.
func target(meta record) string {
	name, _, _ := strings.Cut(strings.TrimSpace(meta.depends), " ")
	return strings.TrimRight(name, ",")
}

func (f fetcher) resolveOne(req Request, known map[string][]record) (Entry, error) {
	if e, ok := f.Lock.Find(req.Name); ok && !f.Update {
		if f.cached(e) || slices.ContainsFunc(known[e.Name], func(r record) bool { return r.version == e.Version && r.sha256 == e.SHA256 }) {
			return e, nil
		}
	}
	name := req.Name
	if req.Follow && len(known[name]) > 0 {
		name = target(known[name][0])
	}
	if len(known[name]) == 0 {
		return Entry{}, fmt.Errorf("package %s is not in Debian %s", name, Release)
	}
	r := known[name][0]
	return Entry{Request: req.Name, Name: name, Version: r.version, SHA256: r.sha256, Source: r.source}, nil
}

// download fetches what is not cached, checks each file's hash and only then
// gives it its place.
func (f fetcher) download(ctx context.Context, a *apt, entries []Entry) error {
	missing := slices.DeleteFunc(slices.Clone(entries), f.cached)
	if len(missing) == 0 {
		return nil
	}
	f.Log("download %d packages", len(missing))
	tmp, err := os.MkdirTemp(f.cache, ".download-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := a.download(ctx, tmp, missing); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return err
	}
	got := map[string]string{}
	for _, file := range files {
		sum, err := hashFile(file)
		if err != nil {
			return err
		}
		got[sum] = file
	}
	for _, e := range missing {
		file, ok := got[e.SHA256]
		if !ok {
			return fmt.Errorf("package %s %s: what was downloaded does not have the SHA-256 %s", e.Name, e.Version, e.SHA256)
		}
		if err := os.Rename(file, f.deb(e)); err != nil {
			return err
		}
	}
	return nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// lockPoll is how often a build asks whether the cache is free.
const lockPoll = 200 * time.Millisecond

// lockFile takes an exclusive lock, shared by all processes that use this cache.
// The kernel releases it when the process ends.
func lockFile(ctx context.Context, path string, log func(string, ...any)) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for told := false; ; told = true {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		if !told {
			log("another build uses the cache; waiting for it")
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
