package dmdatest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"sync"

	"github.com/emersion/go-smtp"
	"golang.org/x/net/netutil"

	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// Serve takes connections from l, which carries plain TCP; TLS is spoken at once.
// It stops when ctx ends, closes l and every connection, waits until no message is
// at work any more, and returns nil; or it returns why l failed. Meanwhile answers
// are handed over; those that could not be before ctx ends wait for the next Serve.
func (p *Provider) Serve(ctx context.Context, l net.Listener) error {
	b := &backend{provider: p, closed: make(chan struct{})}
	srv := smtp.NewServer(b)
	srv.Domain = p.cfg.Host
	srv.MaxRecipients = MaxRecipients
	srv.MaxMessageBytes = MaxMessage + 1
	srv.ReadTimeout, srv.WriteTimeout = idleLimit, idleLimit
	srv.ErrorLog = log.New(io.Discard, "", 0) // handshakes that fail are the client's to report
	tlsConfig := p.serverTLS()

	stop := context.AfterFunc(ctx, func() {
		b.close()
		_ = srv.Close()
	})
	defer stop()
	answering, enough := context.WithCancel(ctx)
	answered := make(chan struct{})
	go func() { defer close(answered); p.deliverAnswers(answering) }()
	defer func() { enough(); <-answered }()
	err := srv.Serve(tls.NewListener(netutil.LimitListener(l, MaxConnections), tlsConfig))
	b.close()
	_ = srv.Close()
	_ = l.Close()
	b.working.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("dmda: serve: %w", err)
}

// serverTLS asks for a client certificate that names a known token.
func (p *Provider) serverTLS() *tls.Config {
	cert := p.cfg.PKI.Server()
	c := tlsprofile.Server(func() (*tls.Certificate, error) { return &cert, nil })
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = p.cfg.PKI.Pool()
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := tlsprofile.CheckState(s); err != nil {
			return err
		}
		_, err := p.token(s.PeerCertificates)
		return err
	}
	c.GetConfigForClient = tlsprofile.PerClient(c.Clone())
	return c
}

// token finds the token of a verified client certificate.
func (p *Provider) token(chain []*x509.Certificate) (*tokenState, error) {
	if len(chain) == 0 {
		return nil, errors.New("no client certificate")
	}
	if p.cfg.PKI.isRevoked(chain[0]) {
		return nil, errors.New("client certificate is revoked")
	}
	t := p.tokens[chain[0].Subject.CommonName]
	if t == nil {
		return nil, errors.New("client certificate names no known token")
	}
	return t, nil
}

// backend makes sessions and knows which are at work.
type backend struct {
	provider *Provider
	once     sync.Once
	closed   chan struct{}
	mu       sync.Mutex
	working  sync.WaitGroup
}

func (b *backend) close() {
	b.once.Do(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		close(b.closed)
	})
}

// begin marks the start of work; false if the server is closing.
func (b *backend) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return false
	default:
		b.working.Add(1)
		return true
	}
}

// NewSession is called at EHLO, after the handshake.
func (b *backend) NewSession(c *smtp.Conn) (smtp.Session, error) {
	state, ok := c.TLSConnectionState()
	if !ok {
		return nil, reply(554, "5.7.0", "TLS only")
	}
	t, err := b.provider.token(state.PeerCertificates)
	if err != nil {
		return nil, reply(554, "5.7.0", err.Error())
	}
	if down, _ := b.provider.state(t); down {
		return nil, reply(421, "4.3.2", "service is down on demand")
	}
	return &session{backend: b, p: b.provider, token: t, conn: c.Conn(), helo: c.Hostname()}, nil
}

// reply is an SMTP answer; enhanced is like "5.7.1".
func reply(code int, enhanced, text string) *smtp.SMTPError {
	var e smtp.EnhancedCode
	_, _ = fmt.Sscanf(enhanced, "%d.%d.%d", &e[0], &e[1], &e[2])
	return &smtp.SMTPError{Code: code, EnhancedCode: e, Message: text}
}
