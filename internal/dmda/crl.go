package dmda

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

// Bounds of revocation lists.
const (
	// CRLMaxAge is how long a fetched list is believed (TR-01201: checked at
	// least every 24 hours), if it does not itself say less.
	CRLMaxAge = 24 * time.Hour
	// CRLRefresh is how often lists are fetched, CRLRetry how soon after a failure.
	CRLRefresh = 6 * time.Hour
	CRLRetry   = 5 * time.Minute
	crlUrgent  = 5 * time.Second
	maxCRL     = 32 << 20
	crlTimeout = time.Minute
	// clockSlack is how far a list may seem to come from the future.
	clockSlack = 10 * time.Minute
)

// Why a certificate was not accepted.
var (
	ErrRevoked   = errors.New("certificate is revoked")
	ErrNoCRL     = errors.New("no current revocation list for the certificate's issuer")
	errCRLFormat = errors.New("not a revocation list")
)

// Revocation knows the revocation lists of one configuration. Without any URL it
// checks nothing, and Condition says so. It is safe for concurrent use.
type Revocation struct {
	urls    []string
	issuers []*x509.Certificate
	dir     string
	log     *slog.Logger
	client  *http.Client

	mu    sync.Mutex
	lists map[string]*list // by URL
	fault error            // of the last fetch
}

type list struct {
	crl     *x509.RevocationList
	issuer  *x509.Certificate
	revoked map[string]bool // serial numbers
	fetched time.Time
}

// NewRevocation makes a check by the lists at urls, issued by one of issuers, and
// reads what dir keeps of them from the time before. An empty dir keeps nothing.
func NewRevocation(urls []string, issuers []*x509.Certificate, dir string, log *slog.Logger) *Revocation {
	r := &Revocation{urls: urls, issuers: issuers, dir: dir, log: log, lists: map[string]*list{},
		client: &http.Client{Timeout: crlTimeout, Transport: &http.Transport{DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}}}
	for _, url := range urls {
		if err := r.load(url); err != nil && !errors.Is(err, os.ErrNotExist) {
			log.Warn("kept revocation list is not usable", "url", url, "error", err)
		}
	}
	return r
}

// Run fetches the lists now and then, until ctx ends.
func (r *Revocation) Run(ctx context.Context) error {
	if len(r.urls) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		wait := CRLRefresh
		if err := r.Refresh(ctx); err != nil {
			r.log.Warn("revocation lists not fetched", "error", err)
			wait = CRLRetry
			if r.Stale() != nil {
				wait = crlUrgent // no mail goes until there is one
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// Refresh fetches every list once. Lists that cannot be fetched stay as they were.
func (r *Revocation) Refresh(ctx context.Context) error {
	var faults []error
	for _, url := range r.urls {
		if err := r.fetch(ctx, url); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", url, err))
		}
	}
	err := errors.Join(faults...)
	r.mu.Lock()
	r.fault = err
	r.mu.Unlock()
	return err
}

// CheckChain checks every certificate of a verified chain but its root.
func (r *Revocation) CheckChain(chain []*x509.Certificate) error {
	for i := 0; i+1 < len(chain); i++ {
		if err := r.Check(chain[i], chain[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// Check reports whether certificate, which issuer signed, is revoked, or that this
// cannot be learned: any error means that it must not be trusted.
func (r *Revocation) Check(certificate, issuer *x509.Certificate) error {
	if r == nil {
		return ErrNoCRL
	}
	if len(r.urls) == 0 {
		return nil
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var best *list
	for _, l := range r.lists {
		if l.issuer.Equal(issuer) && l.current(now) && (best == nil || l.crl.ThisUpdate.After(best.crl.ThisUpdate)) {
			best = l
		}
	}
	switch {
	case best == nil:
		return fmt.Errorf("%w: %s", ErrNoCRL, issuer.Subject)
	case best.revoked[string(certificate.SerialNumber.Bytes())]:
		return fmt.Errorf("%w: %s", ErrRevoked, certificate.Subject)
	}
	return nil
}

// Stale returns why connections to the provider would fail now, or nil.
func (r *Revocation) Stale() error {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, url := range r.urls {
		if l := r.lists[url]; l == nil || !l.current(now) {
			return fmt.Errorf("%w (%s): %w", ErrNoCRL, url, errors.Join(r.fault))
		}
	}
	return nil
}

// Configured reports whether there is any list to check by.
func (r *Revocation) Configured() bool { return len(r.urls) > 0 }

func (l *list) current(now time.Time) bool {
	return now.Before(l.fetched.Add(CRLMaxAge)) && (l.crl.NextUpdate.IsZero() || now.Before(l.crl.NextUpdate))
}

func (r *Revocation) fetch(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("server answered %s", resp.Status)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxCRL+1))
	if err != nil {
		return err
	}
	if len(raw) > maxCRL {
		return fmt.Errorf("list is larger than %d bytes", maxCRL)
	}
	now := time.Now()
	if err := r.take(url, raw, now); err != nil {
		return err
	}
	return r.keep(url, raw, now)
}

// take believes a list if it is signed by one of the issuers, not from the future,
// and not older than what is known.
func (r *Revocation) take(url string, raw []byte, fetched time.Time) error {
	if block, _ := pem.Decode(raw); block != nil {
		raw = block.Bytes
	}
	crl, err := x509.ParseRevocationList(raw)
	if err != nil {
		return fmt.Errorf("%w: %w", errCRLFormat, err)
	}
	issuer, err := r.issuerOf(crl)
	if err != nil {
		return err
	}
	if crl.ThisUpdate.After(fetched.Add(clockSlack)) {
		return fmt.Errorf("list is from the future (%s); check the clock", crl.ThisUpdate.UTC().Format(time.RFC3339))
	}
	l := &list{crl: crl, issuer: issuer, fetched: fetched, revoked: make(map[string]bool, len(crl.RevokedCertificateEntries))}
	for _, e := range crl.RevokedCertificateEntries {
		l.revoked[string(e.SerialNumber.Bytes())] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.lists[url]; old != nil && crl.ThisUpdate.Before(old.crl.ThisUpdate) {
		return errors.New("list is older than the one that is known")
	}
	r.lists[url] = l
	return nil
}

func (r *Revocation) issuerOf(crl *x509.RevocationList) (*x509.Certificate, error) {
	for _, ca := range r.issuers {
		if crl.CheckSignatureFrom(ca) == nil {
			return ca, nil
		}
	}
	return nil, fmt.Errorf("list of %s is not signed by an authority of the provider", crl.Issuer)
}

// kept is the file format of a list in the state folder, version 1.
type kept struct {
	Version int       `json:"version"`
	URL     string    `json:"url"`
	Fetched time.Time `json:"fetched"`
	List    []byte    `json:"list"`
}

func (r *Revocation) file(url string) string {
	sum := sha256.Sum256([]byte(url))
	return filepath.Join(r.dir, "crl-"+hex.EncodeToString(sum[:8])+".json")
}

func (r *Revocation) keep(url string, raw []byte, fetched time.Time) error {
	if r.dir == "" {
		return nil
	}
	data, err := json.Marshal(kept{Version: 1, URL: url, Fetched: fetched, List: raw})
	if err != nil {
		return err
	}
	if err := durable.WriteFile(r.file(url), data, 0o600); err != nil {
		return fmt.Errorf("keep revocation list: %w", err)
	}
	return nil
}

func (r *Revocation) load(url string) error {
	if r.dir == "" {
		return os.ErrNotExist
	}
	data, err := os.ReadFile(r.file(url))
	if err != nil {
		return err
	}
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return err
	}
	if k.Version != 1 || k.URL != url || k.Fetched.After(time.Now().Add(clockSlack)) {
		return errors.New("kept list is of another version, URL or time")
	}
	return r.take(url, k.List, k.Fetched)
}
