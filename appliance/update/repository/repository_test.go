package repository

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/release"
	"gitlab.opencode.de/pforte/pforte/internal/release/releasetest"
	"gitlab.opencode.de/pforte/pforte/internal/rollout"
)

// open is the box's view of two parties at the given addresses.
func open(t *testing.T, p *releasetest.Parties, vendor, owner string) *Repositories {
	t.Helper()
	return New(func() (config.Updates, error) { return config.Updates{Vendor: vendor, Owner: owner}, nil },
		p.Vendor.Root, p.Owner.Root, t.TempDir())
}

// one is a pair of repositories with one release.
func one(t *testing.T, content string) *releasetest.Parties {
	t.Helper()
	p := releasetest.New(t)
	p.Publish("1.0.0", 1, []byte(content))
	p.Authorise("1.0.0", rollout.Order{Boxes: []string{"*"}}, []byte(content))
	return p
}

func TestListAndOpen(t *testing.T) {
	content := strings.Repeat("release", 1000)
	p := one(t, content)
	for _, slash := range []string{"", "/"} {
		r := open(t, p, releasetest.Serve(t, p.Vendor.Dir)+slash, releasetest.Serve(t, p.Owner.Dir)+slash)
		for range 2 { // the second time the cache is there
			good, bad, err := r.List(t.Context(), time.Time{})
			if err != nil || len(good) != 1 || len(bad) != 0 {
				t.Fatalf("%v, %v, %v", good, bad, err)
			}
			file, err := r.Open(t.Context(), good[0])
			if err != nil {
				t.Fatal(err)
			}
			data, err := io.ReadAll(file)
			if err != nil || string(data) != content {
				t.Errorf("%d bytes, %v", len(data), err)
			}
			if err := file.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestRollback: metadata older than what was seen once is refused.
func TestRollback(t *testing.T) {
	p := one(t, "release")
	old := t.TempDir()
	copyDir(t, old, p.Vendor.Dir)
	p.Publish("1.1.0", 1, []byte("next"))
	now := p.Vendor.Dir
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.FileServer(http.Dir(now)).ServeHTTP(w, r)
	}))
	defer vendor.Close()
	r := open(t, p, vendor.URL, releasetest.Serve(t, p.Owner.Dir))
	if _, _, err := r.List(t.Context(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	now = old
	if _, _, err := r.List(t.Context(), time.Time{}); err == nil || !strings.Contains(err.Error(), "vendor repository") {
		t.Errorf("older metadata: %v", err)
	}
}

// TestBadServers: what a server may do wrong, and that the error says whose.
func TestBadServers(t *testing.T) {
	p := one(t, "release")
	good := http.FileServer(http.Dir(p.Vendor.Dir))
	elsewhere := releasetest.Serve(t, p.Vendor.Dir)
	hung := make(chan struct{})
	tests := []struct {
		name   string
		server http.HandlerFunc
		want   string // "": it works
	}{
		{"redirect within the server", func(w http.ResponseWriter, r *http.Request) {
			if rest, ok := strings.CutPrefix(r.URL.Path, "/moved"); ok {
				r.URL.Path = rest
				good.ServeHTTP(w, r)
				return
			}
			http.Redirect(w, r, "/moved"+r.URL.Path, http.StatusFound)
		}, ""},
		{"redirect elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusFound)
		}, "redirect to another server"},
		{"redirect in circles", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, "more than 3 redirects"},
		{"nothing there", http.NotFound, "vendor repository"},
		{"broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) }, "500"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "root.json") {
				good.ServeHTTP(w, r)
				return
			}
			for _, err := w.Write(make([]byte, 64<<10)); err == nil; _, err = w.Write(make([]byte, 64<<10)) {
			}
		}, "more than"},
		{"nonsense", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, "vendor repository"},
		{"large header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 2*maxHeader))
		}, "vendor repository"},
		{"silent", func(http.ResponseWriter, *http.Request) { <-hung }, "context deadline exceeded"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vendor := httptest.NewServer(tt.server)
			defer vendor.Close()
			if tt.name == "silent" {
				defer close(hung)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			releases, _, err := open(t, p, vendor.URL, releasetest.Serve(t, p.Owner.Dir)).List(ctx, time.Time{})
			if tt.want == "" && (err != nil || len(releases) != 1) {
				t.Errorf("%v, %v", releases, err)
			}
			if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}

func TestBadDownloads(t *testing.T) {
	content := []byte("release")
	p := one(t, string(content))
	rel := release.Release{Version: "1.0.0", Name: "pforte-1.0.0.efi", Length: int64(len(content))}
	hung := make(chan struct{})
	defer close(hung)
	tests := []struct {
		name   string
		server http.HandlerFunc
		want   error
		text   string
	}{
		{"gone", http.NotFound, release.ErrNotFound, ""},
		{"wrong length", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(content[1:]) }, nil, "signed are 7"},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "7")
			_, _ = w.Write(content[1:])
		}, io.ErrUnexpectedEOF, ""},
		{"stalled", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "7")
			_, _ = w.Write(content[1:])
			_ = http.NewResponseController(w).Flush()
			<-hung
		}, errStalled, ""},
		{"never answers", func(http.ResponseWriter, *http.Request) { <-hung }, errStalled, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.server)
			t.Cleanup(server.CloseClientConnections)
			r := open(t, p, server.URL, server.URL)
			r.stall = 200 * time.Millisecond
			file, err := r.Open(t.Context(), rel)
			if err == nil {
				_, err = io.Copy(io.Discard, file)
				_ = file.Close()
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%v, want %v %q", err, tt.want, tt.text)
			}
		})
	}
}

func TestNoRepositories(t *testing.T) {
	p := one(t, "release")
	r := open(t, p, "http://vendor.example", "")
	if _, _, err := r.List(t.Context(), time.Time{}); !errors.Is(err, ErrNone) {
		t.Errorf("List: %v", err)
	}
	if _, err := r.Open(t.Context(), release.Release{}); !errors.Is(err, ErrNone) {
		t.Errorf("Open: %v", err)
	}
}

// TestNoProxy: the environment sends nothing astray.
func TestNoProxy(t *testing.T) {
	var seen bytes.Buffer
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen.WriteString(r.URL.String()) }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("http_proxy", proxy.URL)
	p := one(t, "release")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, _, err := open(t, p, "http://vendor.invalid", "http://owner.invalid").List(ctx, time.Time{})
	if err == nil || seen.Len() > 0 {
		t.Errorf("%v; the proxy saw %q", err, seen.String())
	}
}

func copyDir(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}
