// Package dmda is the way to the De-Mail provider (DMDA).
//
// How a provider's interface for gateways looks is not published (demail.md §8).
// What the relay needs is therefore one small interface, Provider, and this
// package has one implementation of it: the transport between providers, SMTP
// over implicit TLS on port 1465, both sides with certificates (TR-01201 part 3).
// Another connector (IMAP, a web service) is another implementation.
//
// What the connector promises:
//
//   - A fixed host of the configuration is used; without one, the SRV record
//     _smtp._tcp.<provider domain> (RFC 2782), by priority.
//   - The server's certificate must chain to the provider's authority, carry one
//     of the configured names, and not be revoked. A check that cannot be made
//     fails: no connection (Trust).
//   - Our own certificate is asked for at each handshake, so that a renewed one is
//     used at once. The key stays wherever its crypto.Signer is.
//
// Trust is also what the relay checks the provider's own client certificate with
// when De-Mails come in, and its revocation check serves signature certificates.
//
// Revocation holds what Revocations knows: lists, fetched over HTTP (a list is
// signed; its transport need not be), kept in a state folder, and believed for 24
// hours at most (TR-01201; demail.md §3).
package dmda

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// Provider takes messages over for the De-Mail world.
type Provider interface {
	// Deliver hands m over. There is one result for each recipient, in order.
	Deliver(ctx context.Context, m *nexthop.Message) []nexthop.Result
}

// Trust says which certificates are the provider's.
type Trust struct {
	Roots      *x509.CertPool
	Names      []string // one of which the certificate must carry
	Revocation *Revocation
}

// Verify checks a finished handshake in which the peer used its certificate as
// use says. It fits tls.Config.VerifyConnection.
func (t Trust) Verify(s tls.ConnectionState, use x509.ExtKeyUsage) error {
	chain, err := tlsprofile.VerifyPeer(s, t.Roots, t.Names, use, time.Now())
	if err != nil {
		return err
	}
	return t.Revocation.CheckChain(chain)
}

// SMTPOptions make an SMTP connector.
type SMTPOptions struct {
	Domain      string // the provider's own domain, for SRV
	Host        string // overrides SRV: name or address
	Port        uint16 // with Host
	Trust       Trust
	Certificate func(context.Context) (*tls.Certificate, error) // ours, towards the provider
	Helo        func() string
	Limits      nexthop.Limits
	Resolver    *net.Resolver // nil: the system's
}

// SMTP is the connector over port 1465.
type SMTP struct {
	o     SMTPOptions
	route *nexthop.Route
}

// NewSMTP makes a connector. It does not connect yet.
func NewSMTP(o SMTPOptions) *SMTP {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	s := &SMTP{o: o}
	s.route = nexthop.NewRoute(s.servers, o.Limits)
	return s
}

// Deliver implements Provider.
func (s *SMTP) Deliver(ctx context.Context, m *nexthop.Message) []nexthop.Result {
	return s.route.Deliver(ctx, m)
}

// Close ends connections that wait for more.
func (s *SMTP) Close() { s.route.Close() }

// maxServers bounds how many servers of an SRV answer are tried.
const maxServers = 5

func (s *SMTP) servers(ctx context.Context) ([]nexthop.Server, error) {
	if s.o.Host != "" {
		return []nexthop.Server{s.server(s.o.Host, s.o.Port)}, nil
	}
	_, records, err := s.o.Resolver.LookupSRV(ctx, "smtp", "tcp", s.o.Domain)
	if err != nil {
		return nil, fmt.Errorf("look up the provider's servers: %w", err)
	}
	var all []nexthop.Server
	for _, r := range records[:min(len(records), maxServers)] {
		all = append(all, s.server(strings.TrimSuffix(r.Target, "."), r.Port))
	}
	if len(all) == 0 {
		return nil, errors.New("the provider's SRV record names no server")
	}
	return all, nil
}

func (s *SMTP) server(host string, port uint16) nexthop.Server {
	cfg := tlsprofile.Client()
	cfg.ServerName = s.o.Trust.Names[0]
	cfg.InsecureSkipVerify = true // VerifyConnection checks more: any of several names, and revocation
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		return s.o.Trust.Verify(state, x509.ExtKeyUsageServerAuth)
	}
	cfg.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return s.o.Certificate(info.Context())
	}
	return nexthop.Server{Address: net.JoinHostPort(host, strconv.Itoa(int(port))), Mode: nexthop.Implicit, TLS: cfg, Helo: s.o.Helo()}
}
