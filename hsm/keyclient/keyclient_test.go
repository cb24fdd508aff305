package keyclient

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// desk answers on the signer socket as keyd does, with one software key.
type desk struct {
	t      *testing.T
	socket string
	key    *ecdsa.PrivateKey

	mu    sync.Mutex
	chain [][]byte
	fault error
	asked int
	stop  func()
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	dir, err := os.MkdirTemp("", "kc") // t.TempDir may exceed the 108 bytes of a socket path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &desk{t: t, socket: filepath.Join(dir, "s"), key: hsmtest.NewSoftKey(t)}
	d.open()
	return d
}

func (d *desk) open() {
	d.t.Helper()
	me := []localapi.Caller{localapi.UID(uint32(os.Getuid()))}
	s, err := localapi.NewServer([]localapi.Method{
		{Name: MethodKey, Allow: me, Handler: localapi.Typed(func(_ context.Context, _ localapi.Peer, in KeyRequest) (KeyResponse, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.asked++
			der, err := x509.MarshalPKIXPublicKey(d.key.Public())
			return KeyResponse{der, d.chain}, errors.Join(err, d.fault)
		})},
		{Name: MethodSign, Allow: me, Handler: localapi.Typed(func(_ context.Context, _ localapi.Peer, in SignRequest) (SignResponse, error) {
			hash, err := ParseHash(in.Hash)
			if err != nil {
				return SignResponse{}, err
			}
			sig, err := d.key.Sign(rand.Reader, in.Digest, hash)
			return SignResponse{sig}, err
		})},
	}, localapi.Options{Codes: Codes(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		d.t.Fatal(err)
	}
	ln, err := net.Listen("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, ln) }()
	d.stop = sync.OnceFunc(func() { cancel(); <-done })
	d.t.Cleanup(d.stop)
}

// certify gives the key a new certificate.
func (d *desk) certify() *x509.Certificate {
	d.t.Helper()
	leaf := hsmtest.NewCA(d.t, "ca").Issue(d.t, d.key.Public(), x509.ExtKeyUsageServerAuth, []string{"box.example"}, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chain = [][]byte{leaf.Raw}
	return leaf
}

func (d *desk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = err
}

func (d *desk) questions() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

// age makes what a source holds as old as it may get.
func age(s *Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked = s.checked.Add(-refreshInterval)
}

func TestSourceFollowsRenewal(t *testing.T) {
	d := newDesk(t)
	s := New(d.socket).Source(hsm.TenantServer)
	if _, err := s.Get(); !errors.Is(err, hsm.ErrNoCertificate) {
		t.Errorf("before the first certificate: %v, want ErrNoCertificate", err)
	}
	if _, err := s.GetClientCertificate(nil); err == nil {
		t.Error("a client without a certificate may go on")
	}
	get := func(want *x509.Certificate) {
		t.Helper()
		got, err := s.GetCertificate(nil)
		if err != nil || !got.Leaf.Equal(want) {
			t.Fatalf("certificate %v, %v, want number %v", got, err, want.SerialNumber)
		}
	}
	first := d.certify()
	get(first)
	asked := d.questions()
	second := d.certify()
	s.mu.Lock()
	s.checked = time.Now()
	s.mu.Unlock()
	get(first) // not due yet
	if d.questions() != asked {
		t.Error("keyd was asked again within the interval")
	}
	age(s)
	get(second)

	d.stop()
	age(s)
	get(second) // keyd is away: the last one stays
	d.open()
	third := d.certify()
	age(s)
	get(third)

	d.fail(hsm.ErrDeviceChanged)
	age(s)
	if _, err := s.Get(); !errors.Is(err, hsm.ErrDeviceChanged) {
		t.Errorf("keyd says no: %v, want ErrDeviceChanged", err)
	}
}

func TestSourceTogether(t *testing.T) {
	d := newDesk(t)
	leaf := d.certify()
	s := New(d.socket).Source(hsm.TenantServer)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if got, err := s.Get(); err != nil || !got.Leaf.Equal(leaf) {
				t.Errorf("certificate %v, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := d.questions(); n != 1 {
		t.Errorf("keyd was asked %d times, want once", n)
	}
}

func TestSignerChecksBeforeItAsks(t *testing.T) {
	d := newDesk(t)
	s, err := New(d.socket).Signer(t.Context(), hsm.TenantServer)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	sig, err := s.Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(&d.key.PublicKey, digest[:], sig) {
		t.Fatalf("signature %x, %v", sig, err)
	}
	d.stop()
	for name, opts := range map[string]crypto.SignerOpts{
		"no hash": nil, "SHA-1": crypto.SHA1, "other length": crypto.SHA384,
		"PSS": &rsa.PSSOptions{Hash: crypto.SHA256},
	} {
		if _, err := s.Sign(nil, digest[:], opts); err == nil || errors.Is(err, localapi.ErrUnavailable) {
			t.Errorf("%s: %v, want a refusal before keyd is asked", name, err)
		}
	}
	if _, err := s.Sign(nil, digest[:], crypto.SHA256); !errors.Is(err, localapi.ErrUnavailable) {
		t.Errorf("keyd is away: %v, want ErrUnavailable", err)
	}
}

func TestCodesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Codes() {
		if seen[c.Name] {
			t.Errorf("code %s twice", c.Name)
		}
		seen[c.Name] = true
	}
	for _, err := range []error{
		hsm.ErrUnknownPurpose, hsm.ErrNoKey, hsm.ErrNoCertificate, hsm.ErrCertificateMismatch, hsm.ErrLockedOut,
		hsm.ErrDenied, hsm.ErrNoDevice, hsm.ErrDeviceChanged, hsm.ErrBadCertificate, hsm.ErrLocked, hsm.ErrTooManyUses,
	} {
		d := newDesk(t)
		d.fail(err)
		if _, got := New(d.socket).Signer(t.Context(), hsm.TenantServer); !errors.Is(got, err) {
			t.Errorf("%v came back as %v", err, got)
		}
	}
}

func TestSelfSigned(t *testing.T) {
	key := hsmtest.NewSoftKey(t)
	cert, err := SelfSigned(key, "box", []string{"box.example"}, []netip.Addr{netip.MustParseAddr("10.30.0.2")})
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	roots := x509.NewCertPool()
	roots.AddCert(cert.Leaf)
	client := tls.Client(a, &tls.Config{ServerName: "10.30.0.2", RootCAs: roots})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(client.ConnectionState().PeerCertificates[0].PublicKey) {
		t.Error("another key")
	}
}
