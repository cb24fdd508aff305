package relay

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// Next hops, as the queue's lanes name them. Together with the tenant's id they
// say where a message goes; the address behind them is the configuration's.
const (
	hopProvider = "provider"
	hopTenant   = "tenant"
)

// deliverer is a next hop that takes messages.
type deliverer interface {
	Deliver(ctx context.Context, m *nexthop.Message) []nexthop.Result
}

// routes keeps one route for each tenant's servers, as long as they stay as they
// are in the configuration.
type routes struct {
	open func(*tenants.Tenant) *nexthop.Route

	mu  sync.Mutex
	all map[string]*tenantRoute // by tenant id
}

type tenantRoute struct {
	inbound tenants.Inbound
	route   *nexthop.Route
}

// to returns the route to a tenant's servers.
func (r *routes) to(t *tenants.Tenant) *nexthop.Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string]*tenantRoute{}
	}
	old := r.all[t.ID]
	if old != nil && sameInbound(old.inbound, t.Inbound) {
		return old.route
	}
	if old != nil {
		old.route.Close()
	}
	n := &tenantRoute{t.Inbound, r.open(t)}
	r.all[t.ID] = n
	return n.route
}

func sameInbound(a, b tenants.Inbound) bool {
	return reflect.DeepEqual(a.Servers, b.Servers) && reflect.DeepEqual(a.Names, b.Names) && a.Roots.Equal(b.Roots)
}

// close ends the connections that wait for more.
func (r *routes) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.all {
		t.route.Close()
	}
	r.all = nil
}

// tenantRoute makes the route to a tenant's servers, each with verified TLS; the
// route chooses among them by order, weight and fallback.
func (r *Relay) tenantRoute(t *tenants.Tenant) *nexthop.Route {
	in := t.Inbound
	return nexthop.NewRoute(func(context.Context) ([]nexthop.Server, error) {
		all := make([]nexthop.Server, len(in.Servers))
		for i, s := range in.Servers {
			all[i] = nexthop.Server{Address: net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))), Mode: nexthop.StartTLS,
				TLS: serverTLS(in, s), Helo: r.o.Hostname(), Order: s.Order, Weight: s.Weight, Fallback: s.Fallback}
			if s.TLS == config.TLSImplicit {
				all[i].Mode = nexthop.Implicit
			}
		}
		return all, nil
	}, r.o.Limits)
}

// serverTLS accepts a server by its pinned certificate; without one, by one of its
// own names, of the tenant's, or by its host's.
func serverTLS(in tenants.Inbound, server config.Server) *tls.Config {
	names := server.Names
	if len(names) == 0 {
		names = in.Names
	}
	if len(names) == 0 {
		names = []string{server.Host}
	}
	cfg := tlsprofile.Client()
	cfg.ServerName = names[0]
	cfg.InsecureSkipVerify = true // VerifyConnection checks more: any of several names, or the pin
	cfg.VerifyConnection = func(s tls.ConnectionState) error {
		if server.Fingerprint != "" {
			return verifyPin(s, server.Fingerprint)
		}
		_, err := tlsprofile.VerifyPeer(s, in.Roots, names, x509.ExtKeyUsageServerAuth, time.Now())
		return err
	}
	return cfg
}

// verifyPin accepts exactly one certificate, as long as it is valid.
func verifyPin(s tls.ConnectionState, pin string) error {
	if err := tlsprofile.CheckState(s); err != nil {
		return err
	}
	if len(s.PeerCertificates) == 0 {
		return errors.New("server showed no certificate")
	}
	leaf := s.PeerCertificates[0]
	sum := sha256.Sum256(leaf.Raw)
	if want, err := hex.DecodeString(pin); err != nil || subtle.ConstantTimeCompare(want, sum[:]) != 1 {
		return fmt.Errorf("server's certificate is not the pinned one: its fingerprint is %x", sum)
	}
	if now := time.Now(); now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("server's pinned certificate was valid from %s to %s", leaf.NotBefore.Format(time.DateOnly), leaf.NotAfter.Format(time.DateOnly))
	}
	return nil
}
