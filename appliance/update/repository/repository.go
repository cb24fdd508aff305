// Package repository fetches releases from the two update repositories, the
// vendor's and the owner's, over HTTP or HTTPS.
//
// What it fetches is not trusted: internal/release verifies metadata by their
// signatures and expiry, and the slot is compared with the signed hash. So plain
// HTTP is fine; HTTPS hides what the box asks for, and needs a server whose
// certificate the image can verify.
//
// A server is asked with GET, without a proxy, without cookies, without
// compression, on connections that are closed afterwards. Every answer is bounded
// in size and time; a redirect is followed only to the same scheme and host, at
// most maxRedirects times. A download that stands still for stallLimit is given up.
//
// Base URLs come from the configuration (config.Updates), anew at each call; the
// roots of trust come from the image. Of the network, only what these two URLs
// name is ever contacted.
package repository

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/release"
)

const (
	dialLimit    = 10 * time.Second
	headerLimit  = 20 * time.Second // from the request to the answer's header
	fileLimit    = 60 * time.Second // for one metadata file
	maxHeader    = 16 << 10         // bytes of an answer's header
	maxRedirects = 3
	cachePerm    = 0o700
)

// ErrNone: the configuration names no repositories.
var ErrNone = errors.New("the configuration names no update repositories")

// Repositories are both. They may be used by several goroutines; only one at a
// time reads metadata.
type Repositories struct {
	// URLs are asked at each call.
	URLs func() (config.Updates, error)
	// VendorRoot and OwnerRoot are the TUF root metadata that the image carries.
	VendorRoot, OwnerRoot []byte
	// Cache is a folder for what was verified last; go-tuf's, one folder per repository.
	Cache string

	mu     sync.Mutex // go-tuf's cache has one user at a time
	client *http.Client
	stall  time.Duration // 0 means stallLimit; for tests
}

// New returns the repositories.
func New(urls func() (config.Updates, error), vendorRoot, ownerRoot []byte, cache string) *Repositories {
	return &Repositories{URLs: urls, VendorRoot: vendorRoot, OwnerRoot: ownerRoot, Cache: cache, client: newClient()}
}

func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: dialLimit}).DialContext,
			TLSHandshakeTimeout:    dialLimit,
			ResponseHeaderTimeout:  headerLimit,
			MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives:      true,
			DisableCompression:     true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			first := via[0].URL
			switch {
			case len(via) > maxRedirects:
				return fmt.Errorf("more than %d redirects", maxRedirects)
			case r.URL.Scheme != first.Scheme || r.URL.Host != first.Host:
				return fmt.Errorf("redirect to another server, %s://%s; put its address into the configuration", r.URL.Scheme, r.URL.Host)
			}
			return nil
		},
	}
}

// List returns what both repositories agree on, newest last, and what not
// (release.Verifier). notBefore is the earliest time that it can be.
func (r *Repositories) List(ctx context.Context, notBefore time.Time) ([]release.Release, []release.Refusal, error) {
	urls, err := r.urls()
	if err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v := release.Verifier{NotBefore: notBefore}
	for _, one := range []struct {
		to   *release.Repository
		name string
		base string
		root []byte
	}{{&v.Vendor, "vendor", urls.Vendor, r.VendorRoot}, {&v.Owner, "owner", urls.Owner, r.OwnerRoot}} {
		cache := filepath.Join(r.Cache, one.name)
		if err := os.MkdirAll(cache, cachePerm); err != nil {
			return nil, nil, fmt.Errorf("%s repository: %w", one.name, err)
		}
		*one.to = release.Repository{Name: one.name, Root: one.root, Cache: cache, Files: source{ctx, r.client, one.base}}
	}
	return v.Releases(time.Now())
}

func (r *Repositories) urls() (config.Updates, error) {
	urls, err := r.URLs()
	if err != nil {
		return urls, err
	}
	if urls.Vendor == "" || urls.Owner == "" {
		return urls, ErrNone
	}
	return urls, nil
}

// source gives one repository's metadata to package release, while ctx lasts.
type source struct {
	ctx    context.Context
	client *http.Client
	base   string
}

// Fetch implements release.Source.
func (s source) Fetch(path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.ctx, fileLimit)
	defer cancel()
	response, err := get(ctx, s.client, s.base, path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch %s: %w", path, err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("fetch %s: more than %d bytes", path, limit)
	}
	return data, nil
}

// get asks for a file below base. The body is the caller's to bound and close.
func get(ctx context.Context, client *http.Client, base, path string) (*http.Response, error) {
	address, err := url.JoinPath(base, path)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", base, err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", base, err)
	}
	request.Header.Set("User-Agent", "pforte")
	response, err := client.Do(request)
	if err != nil {
		return nil, err // names method and URL
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	_ = response.Body.Close()
	if response.StatusCode == http.StatusNotFound || response.StatusCode == http.StatusGone {
		return nil, fmt.Errorf("fetch %s: %w", path, release.ErrNotFound)
	}
	return nil, fmt.Errorf("fetch %s: the server answered %s", path, response.Status)
}
