package apid

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
)

const (
	// keyTimeout bounds one question to keyd.
	keyTimeout = 5 * time.Second
	// keyRetry is the pause between questions while keyd is not ready.
	keyRetry = time.Second
	// selfSignedFor is how long the self-signed certificate serves before keyd is
	// asked again whether its key is still the same: on a locked box a restarted
	// keyd has a new one.
	selfSignedFor = 5 * time.Second
)

// names are what the self-signed certificate carries.
type names struct {
	common    string
	dns       []string
	addresses []netip.Addr
}

func (n names) equal(m names) bool {
	return n.common == m.common && slices.Equal(n.dns, m.dns) && slices.Equal(n.addresses, m.addresses)
}

// identity is the server certificate of the management API: the installed one,
// or as long as there is none a self-signed one of the same key in keyd.
type identity struct {
	keys   *keyclient.Client
	source *keyclient.Source
	names  func() names

	mu      sync.Mutex
	self    *tls.Certificate
	forKey  string // fingerprint of its key
	by      names
	checked time.Time
}

// get is for tlsprofile.Server: it ends within a few seconds.
func (i *identity) get() (*tls.Certificate, error) {
	cert, err := i.source.Get()
	if errors.Is(err, hsm.ErrNoCertificate) {
		return i.selfSigned()
	}
	return cert, err
}

func (i *identity) selfSigned() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	by := i.names()
	if i.self != nil && time.Since(i.checked) < selfSignedFor && i.by.equal(by) {
		return i.self, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	key, err := i.keys.Signer(ctx, hsm.ManagementServer)
	if err != nil {
		return nil, err
	}
	print, err := hsm.Fingerprint(key.Public())
	if err != nil {
		return nil, err
	}
	if i.self == nil || i.forKey != print || !i.by.equal(by) {
		cert, err := keyclient.SelfSigned(key, by.common, by.dns, by.addresses)
		if err != nil {
			return nil, err
		}
		i.self, i.forKey, i.by = &cert, print, by
	}
	i.checked = time.Now()
	return i.self, nil
}

// fingerprint is that of the certificate's public key (hsm.Fingerprint).
func (i *identity) fingerprint() (string, error) {
	cert, err := i.get()
	if err != nil {
		return "", fmt.Errorf("certificate of the management API: %w", err)
	}
	return hsm.Fingerprint(cert.Leaf.PublicKey)
}

// wait asks until there is a certificate; the error is that ctx ended. waiting
// is told the first fault.
func (i *identity) wait(ctx context.Context, waiting func(error)) (string, error) {
	tick := time.NewTicker(keyRetry)
	defer tick.Stop()
	told := false
	for {
		print, err := i.fingerprint()
		if err == nil {
			return print, nil
		}
		if !told {
			waiting(err)
			told = true
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-tick.C:
		}
	}
}
