package keyclient

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

const (
	// refreshInterval is how old the certificate of a Source may be: a renewed
	// one serves within this time. Asking costs keyd 0.1 ms and the TPM nothing.
	refreshInterval = 2 * time.Second
	// fetchTimeout bounds the question, and so the delay of a TLS handshake.
	fetchTimeout = 5 * time.Second
)

// Source gives the current certificate of one purpose to TLS. Make one with
// Client.Source. It may be used by several goroutines; one of them asks keyd
// while the others go on with the certificate at hand.
type Source struct {
	client  *Client
	purpose hsm.Purpose

	fetching sync.Mutex // held by whoever asks keyd

	mu      sync.Mutex
	current *tls.Certificate // nil: none yet
	checked time.Time        // of the last answer or try
}

// Source returns the certificate of purpose p as a source for TLS. It does not
// ask keyd yet.
func (c *Client) Source(p hsm.Purpose) *Source { return &Source{client: c, purpose: p} }

// Get returns the current certificate, at most two seconds old. When keyd does
// not answer the last one stays; when keyd answers with an error, that is the
// result. It ends within five seconds.
func (s *Source) Get() (*tls.Certificate, error) {
	if cert, fresh := s.cached(); cert != nil {
		if fresh || !s.fetching.TryLock() {
			return cert, nil
		}
	} else {
		s.fetching.Lock()
	}
	defer s.fetching.Unlock()
	cert, fresh := s.cached()
	if cert != nil && fresh {
		return cert, nil // somebody else just asked
	}
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	renewed, err := s.client.Certificate(ctx, s.purpose)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = time.Now()
	switch {
	case err == nil:
		s.current = &renewed
		return &renewed, nil
	case cert != nil && away(err):
		return cert, nil
	}
	s.current = nil
	return nil, err
}

// away reports whether err says that keyd did not answer.
func away(err error) bool {
	return errors.Is(err, localapi.ErrUnavailable) || errors.Is(err, localapi.ErrTimeout) ||
		errors.Is(err, localapi.ErrBusy) || errors.Is(err, context.DeadlineExceeded)
}

func (s *Source) cached() (cert *tls.Certificate, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current, time.Since(s.checked) < refreshInterval
}

// GetCertificate is for the field of this name in a server's tls.Config.
func (s *Source) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Get() }

// GetClientCertificate is for the field of this name in a client's tls.Config.
// Without a certificate the handshake fails: a connection without one is of no
// use to us.
func (s *Source) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return s.Get()
}
