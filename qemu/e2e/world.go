// Package e2e holds the world that Pforte lives in, in miniature: the box as a
// virtual machine with the image that would ship, its three networks, two
// tenants with ordinary mail servers, a De-Mail provider by the published rules,
// the update repositories of vendor and owner, and the operators with their
// certificates. Its tests are scenarios that read as stories; `make run` shows
// one of them to a person.
//
// Everything but the box lives in this process, on virtual networks (package
// lan). One box runs at a time. A scenario starts from a clone of a provisioned
// box ([World.Golden]), so that no scenario pays for another's first boot.
package e2e

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/image/devkeys"
	"gitlab.opencode.de/pforte/pforte/image/disk"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/qemu/lan"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// World is everything around one box. Close ends it.
type World struct {
	Dir      string // short path: sockets lie in it
	Image    *image.Result
	Keys     *devkeys.Set
	Firmware vm.Firmware
	KVM      bool

	TenantNet, ProviderNet, ManagementNet *lan.Network

	PKI      *dmdatest.PKI
	Provider *dmdatest.Provider
	ServerA  *MailServer
	ServerB  *MailServer
	Vendor   *Repository
	Owner    *Repository

	auth   authorities
	certs  map[string]tls.Certificate // of operators and tenants' systems, by name
	ctx    context.Context
	cancel context.CancelFunc
	close  []func() error
}

// NewWorld makes a world in a new temporary folder around an image that was
// built with the throw-away keys of keys.
func NewWorld(built *image.Result, keys *devkeys.Set, kvm bool) (w *World, err error) {
	firmware, err := vm.FindFirmware()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pf")
	if err != nil {
		return nil, fmt.Errorf("e2e: %w", err)
	}
	w = &World{Dir: dir, Image: built, Keys: keys, Firmware: firmware, KVM: kvm, certs: map[string]tls.Certificate{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.close = append(w.close, func() error { return os.RemoveAll(dir) })
	for _, step := range []func() error{w.startNetworks, w.startTrust, w.startProvider, w.startTenants, w.startRepositories} {
		if err := step(); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	return w, nil
}

// Close stops everything and removes the folder.
func (w *World) Close() error {
	w.cancel()
	var errs []error
	for i := len(w.close) - 1; i >= 0; i-- {
		errs = append(errs, w.close[i]())
	}
	return errors.Join(errs...)
}

func (w *World) startNetworks() error {
	for _, n := range []struct {
		to    **lan.Network
		name  string
		addrs []netip.Prefix
	}{
		{&w.TenantNet, "t.sock", []netip.Prefix{prefix(partyA().Host, 24), prefix(partyB().Host, 24), netip.MustParsePrefix("fd10:10::11/64")}},
		{&w.ProviderNet, "p.sock", []netip.Prefix{prefix(providerHost(), 24), prefix(crlHost(), 24)}},
		{&w.ManagementNet, "m.sock", []netip.Prefix{prefix(adminHost(), 24), prefix(vendorHost(), 24), prefix(ownerHost(), 24)}},
	} {
		network, err := lan.New(filepath.Join(w.Dir, n.name), n.addrs...)
		if err != nil {
			return err
		}
		*n.to = network
		w.close = append(w.close, network.Close)
	}
	return nil
}

// NICs are the box's three network cards.
func (w *World) NICs() []vm.NIC {
	return []vm.NIC{
		{MAC: tenantMAC, Socket: w.TenantNet.Socket()},
		{MAC: providerMAC, Socket: w.ProviderNet.Socket()},
		{MAC: managementMAC, Socket: w.ManagementNet.Socket()},
	}
}

// startTrust makes the authorities and the certificates of people and systems.
func (w *World) startTrust() (err error) {
	if w.auth, err = newAuthorities(); err != nil {
		return err
	}
	for name, issue := range map[string]struct {
		ca    *Authority
		names []string
	}{
		"owner":   {w.auth.owner, nil},
		"hosting": {w.auth.hosting, nil},
		"monitor": {w.auth.monitor, nil},
		"a":       {w.auth.tenantA, []string{partyA().ServerName()}},
		"b":       {w.auth.tenantB, []string{partyB().ServerName()}},
	} {
		if w.certs[name], err = issue.ca.Issue("world "+name, issue.names...); err != nil {
			return err
		}
		if _, _, err := WritePair(w.Dir, name, w.certs[name]); err != nil {
			return err
		}
	}
	return os.WriteFile(w.path("owner-ca.pem"), []byte(w.auth.owner.PEM()), 0o644)
}

func (w *World) path(name string) string { return filepath.Join(w.Dir, name) }

func (w *World) startProvider() (err error) {
	w.PKI, err = dmdatest.NewPKI(dmdatest.PKIOptions{
		Hosts: []string{"mx." + providerName, "push." + providerName, providerHost().String()},
	})
	if err != nil {
		return err
	}
	account := func(p Party) dmdatest.Account {
		return dmdatest.Account{Address: p.DeMailAddress("poststelle"), Domain: p.DeMail, Holder: p.Name, Public: true}
	}
	w.Provider, err = dmdatest.New(dmdatest.Config{
		Domain:       providerName,
		Host:         "mx." + providerName,
		Domains:      []string{"de-mail.example"},
		Mailboxes:    []string{"*@buerger.de-mail.example"},
		Tokens:       []dmdatest.Token{{Name: boxName, Accounts: []dmdatest.Account{account(partyA()), account(partyB())}}},
		PKI:          w.PKI,
		GatewayRoots: w.auth.owner.Pool(),
		GatewayName:  boxName,
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			return w.ProviderNet.Dial(ctx, providerHost(), to)
		},
	})
	if err != nil {
		return err
	}
	l, err := w.ProviderNet.Listen(netip.AddrPortFrom(providerHost(), layout.PortProvider))
	if err != nil {
		return err
	}
	w.run(func() error { return w.Provider.Serve(w.ctx, l) })
	return w.serveHTTP(w.ProviderNet, crlHost(), w.PKI.CRLHandler())
}

// run starts a service that ends with the world; Close waits for it.
func (w *World) run(f func() error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	w.close = append(w.close, func() error {
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("e2e: a service of the world did not stop")
		}
	})
}

// serveHTTP serves plain files on port 80 of a host on a network.
func (w *World) serveHTTP(n *lan.Network, host netip.Addr, h http.Handler) error {
	l, err := n.Listen(netip.AddrPortFrom(host, 80))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, WriteTimeout: 10 * time.Minute}
	go func() { _ = server.Serve(l) }()
	w.close = append(w.close, server.Close)
	return nil
}

func (w *World) startTenants() error {
	for _, t := range []struct {
		to    **MailServer
		party Party
		cert  string
	}{{&w.ServerA, partyA(), "a"}, {&w.ServerB, partyB(), "b"}} {
		l, err := w.TenantNet.Listen(netip.AddrPortFrom(t.party.Host, 25))
		if err != nil {
			return err
		}
		*t.to = StartMailServer(l, t.party.ServerName(), w.certs[t.cert])
		w.close = append(w.close, (*t.to).Close)
	}
	return nil
}

// Seed makes a seed volume with a configuration of the given serial, signed by
// the owner. change may alter the document, or damage its text.
func (w *World) Seed(name string, serial uint64, change func(doc *config.Document), damage func(text []byte) []byte) (string, error) {
	envelope, err := w.Envelope(serial, change, damage)
	if err != nil {
		return "", err
	}
	file := w.path(name)
	if err := disk.Seed(file, map[string][]byte{layout.SeedConfig: envelope}); err != nil {
		return "", err
	}
	return file, nil
}

// Envelope is a configuration as the owner signs it.
func (w *World) Envelope(serial uint64, change func(doc *config.Document), damage func(text []byte) []byte) ([]byte, error) {
	doc := w.auth.document(serial, string(w.PKI.CAPEM()))
	if change != nil {
		change(doc)
	}
	text, err := config.Marshal(doc)
	if err != nil {
		return nil, err
	}
	if damage != nil {
		text = damage(text)
	}
	key, err := w.ownerKey()
	if err != nil {
		return nil, err
	}
	return sealConfig(text, key)
}

func (w *World) ownerKey() (crypto.Signer, error) { return w.Keys.Signer(devkeys.OwnerConfig) }

// NewMachine makes a factory-new box: empty data partition, firmware in setup
// mode, new TPM.
func (w *World) NewMachine(name, seed string) (*vm.Machine, error) {
	return vm.New(vm.Options{
		Dir: w.path(name), Disk: w.Image.Disk, Seed: seed, Firmware: w.Firmware, KVM: w.KVM, NICs: w.NICs(),
	})
}

// tlsClient is the TLS of a tenant's system ("a" or "b") towards the box.
func (w *World) tlsClient(cert string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{w.certs[cert]},
		RootCAs:      w.auth.owner.Pool(),
		ServerName:   boxName,
		MinVersion:   tls.VersionTLS12,
	}
}

// Submit hands a message in at port 25 as the tenant's system with the named
// certificate ("a", "b"; empty: plain text), from that tenant's host.
func (w *World) Submit(ctx context.Context, cert, from string, to []string, message []byte) (string, error) {
	host := partyA().Host
	if cert == "b" {
		host = partyB().Host
	}
	conn, err := w.TenantNet.Dial(ctx, host, netip.AddrPortFrom(boxTenant(), layout.PortSMTP))
	if err != nil {
		return "", err
	}
	s := Submission{From: from, To: to, Message: message}
	if cert != "" {
		s.TLS = w.tlsClient(cert)
	}
	return s.Send(ctx, conn)
}

// Forward listens on a free port of localhost and passes each connection to an
// address of the box, dialled from a host of that network. It returns the local
// address.
func (w *World) Forward(n *lan.Network, from netip.Addr, to netip.AddrPort) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("e2e: forward: %w", err)
	}
	w.close = append(w.close, l.Close)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.pass(c, n, from, to)
		}
	}()
	return l.Addr().String(), nil
}

func (w *World) pass(c net.Conn, n *lan.Network, from netip.Addr, to netip.AddrPort) {
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	far, err := n.Dial(ctx, from, to)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	go func() {
		_, _ = io.Copy(far, c)
		if half, ok := far.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(c, far)
}
