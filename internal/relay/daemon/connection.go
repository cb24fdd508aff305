package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"

	"gitlab.opencode.de/pforte/pforte/internal/dmda"
	"gitlab.opencode.de/pforte/pforte/internal/relay"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// connection is everything towards the provider that one configuration makes.
type connection struct {
	smtp       *dmda.SMTP
	revocation *dmda.Revocation
	server     dmda.Trust     // the provider's servers
	client     dmda.Trust     // the provider when it connects to us
	signers    []signer       // of De-Mails; the provider's own authority first
	roots      *x509.CertPool // of all signers
}

// signer is an authority whose certificates may sign De-Mails, with its lists.
type signer struct {
	name        string
	authorities []*x509.Certificate
	revocation  *dmda.Revocation
}

func (d *Daemon) connect(s *tenants.Snapshot) *connection {
	p := s.Provider
	rev := dmda.NewRevocation(p.CRL, p.Authorities, d.o.Dir, d.o.Log)
	c := &connection{revocation: rev,
		server: dmda.Trust{Roots: p.Roots, Names: p.ServerNames, Revocation: rev},
		client: dmda.Trust{Roots: p.Roots, Names: p.ClientNames, Revocation: rev}}
	c.signers = []signer{{p.Name, p.Authorities, rev}}
	for _, a := range p.SignatureAuthorities {
		c.signers = append(c.signers, signer{a.Name, a.Authorities, dmda.NewRevocation(a.CRL, a.Authorities, d.o.Dir, d.o.Log)})
	}
	c.roots = x509.NewCertPool()
	for _, s := range c.signers {
		for _, authority := range s.authorities {
			c.roots.AddCert(authority)
		}
	}
	c.smtp = dmda.NewSMTP(dmda.SMTPOptions{Domain: p.Name, Host: p.Host, Port: p.Port, Trust: c.server, Helo: d.hostname, Limits: d.o.NextHop,
		Certificate: func(context.Context) (*tls.Certificate, error) { return d.o.ClientCertificate() }})
	return c
}

// now returns the connection that holds now.
func (d *Daemon) now() *connection {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.connection
}

// current is the relay's view of it.
func (d *Daemon) current() relay.Connection {
	c := d.now()
	return relay.Connection{Provider: c.smtp, Signers: relay.Signers{Roots: c.roots, Revoked: c.revoked}}
}

// revoked asks the lists of the authority that has issued a certificate.
func (c *connection) revoked(certificate, issuer *x509.Certificate) error {
	for _, s := range c.signers {
		if slices.ContainsFunc(s.authorities, issuer.Equal) {
			return s.revocation.Check(certificate, issuer)
		}
	}
	return fmt.Errorf("%w: %s", dmda.ErrNoCRL, issuer.Subject)
}

// revocations keeps the lists of the connection of now fresh.
func (d *Daemon) revocations(ctx context.Context) {
	for ctx.Err() == nil {
		changed := d.live.Changed()
		run, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			select {
			case <-changed:
				cancel()
			case <-run.Done():
			}
		}()
		var running sync.WaitGroup
		for _, s := range d.now().signers { // the first is the provider's own
			running.Go(func() { _ = s.revocation.Run(run) })
		}
		running.Wait()
		cancel()
		<-stop
	}
}

// guards makes the two SMTP servers: for tenants and for the provider.
func (d *Daemon) guards() (tenant, provider *smtpguard.Server) {
	own := tlsprofile.Server(d.o.ServerCertificate)
	theirs := tlsprofile.Server(d.o.ServerCertificate)
	theirs.ClientAuth = tls.RequireAnyClientCert
	theirs.VerifyConnection = func(s tls.ConnectionState) error {
		if err := d.now().client.Verify(s, x509.ExtKeyUsageClientAuth); err != nil {
			return fmt.Errorf("not the provider: %w", err)
		}
		return nil
	}
	limits := d.o.Guard
	incoming := limits
	incoming.TextLine = incomingTextLine
	own.GetConfigForClient = d.tenantTLS(own)
	theirs.GetConfigForClient = tlsprofile.PerClient(theirs.Clone())
	// Nobody can be sent a report over De-Mail: the provider keeps that duty.
	return d.guard(smtpguard.Options{TLS: own, Backend: d.relay.Outgoing(), Limits: limits}),
		d.guard(smtpguard.Options{TLS: theirs, Backend: d.relay.Incoming(), Limits: incoming, NoDSN: true})
}

// tenantTLS asks tenants' systems for a certificate. Whose it is, is asked at Admit:
// every tenant has its own authority. None is needed only while some system proves
// itself by AUTH instead; otherwise who has none is not even greeted.
func (d *Daemon) tenantTLS(own *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	need, ask := own.Clone(), own.Clone()
	need.ClientAuth, ask.ClientAuth = tls.RequireAnyClientCert, tls.RequestClientCert
	needed, asked := tlsprofile.PerClient(need), tlsprofile.PerClient(ask)
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if d.live.Snapshot().Logins() {
			return asked(hello)
		}
		return needed(hello)
	}
}

// incomingTextLine: what the provider has sealed is not refused for a long line.
const incomingTextLine = 1 << 20

// maxMessage is the greatest message that a configuration may allow; what counts
// is the tenant's own limit.
const maxMessage = 256 << 20

func (d *Daemon) guard(o smtpguard.Options) *smtpguard.Server {
	o.Hostname, o.Log, o.Ready, o.Limits.MessageBytes = d.hostname(), d.o.Log, d.relay.Ready, maxMessage
	return smtpguard.New(o)
}
