package tlsprofile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"
)

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "box.example"}, DNSNames: []string{"box.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// handshake runs one handshake over a loopback connection.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	near, far := net.Pipe()
	deadline := time.Now().Add(10 * time.Second)
	_ = near.SetDeadline(deadline)
	_ = far.SetDeadline(deadline)
	defer near.Close()
	done := make(chan error, 1)
	go func() {
		defer far.Close()
		c := tls.Server(far, server)
		err := c.Handshake()
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		done <- err
	}()
	c := tls.Client(near, client)
	err := c.Handshake()
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if serverErr := <-done; err == nil {
		err = serverErr
	}
	return c.ConnectionState(), err
}

func TestHandshakes(t *testing.T) {
	cert := selfSigned(t)
	server := Server(func() (*tls.Certificate, error) { return &cert, nil })
	server.GetConfigForClient = PerClient(server.Clone())
	tests := []struct {
		name   string
		client func(*tls.Config)
		ok     bool
	}{
		{"our own client", func(*tls.Config) {}, true},
		{"tls 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"tls 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		{"tls 1.2 with CBC only", func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, false},
		{"tls 1.2 with ChaCha20 only", func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}
		}, false},
		{"X25519 only", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, false},
		{"P-384", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			client := &tls.Config{InsecureSkipVerify: true}
			if test.name == "our own client" {
				client = Client()
				client.InsecureSkipVerify = true
			}
			test.client(client)
			state, err := handshake(t, server, client)
			if (err == nil) != test.ok {
				t.Fatalf("handshake: %v, want success %v", err, test.ok)
			}
			if err == nil {
				if err := CheckState(state); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestChaChaLoversGetTLS12(t *testing.T) {
	full := &tls.Config{MaxVersion: tls.VersionTLS13}
	choose := PerClient(full)
	cfg, err := choose(&tls.ClientHelloInfo{CipherSuites: []uint16{tls.TLS_CHACHA20_POLY1305_SHA256, tls.TLS_AES_128_GCM_SHA256}})
	if err != nil || cfg.MaxVersion != tls.VersionTLS12 {
		t.Fatalf("a client that prefers ChaCha20 got version %x, %v; want TLS 1.2", cfg.MaxVersion, err)
	}
	cfg, _ = choose(&tls.ClientHelloInfo{CipherSuites: []uint16{0x0a0a, tls.TLS_AES_128_GCM_SHA256, tls.TLS_CHACHA20_POLY1305_SHA256}})
	if fastAES() && cfg != full {
		t.Fatal("a client that prefers AES-GCM did not get the full profile")
	}
}

func TestCheckStateRefusesChaCha(t *testing.T) {
	if CheckState(tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_CHACHA20_POLY1305_SHA256}) == nil {
		t.Fatal("ChaCha20-Poly1305 passed")
	}
}

func TestCheckKey(t *testing.T) {
	weakEC, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	goodEC, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	weakRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		key any
		ok  bool
	}{"P-224": {&weakEC.PublicKey, false}, "P-384": {&goodEC.PublicKey, true}, "RSA 2048": {&weakRSA.PublicKey, false},
		"RSA 3072": {&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 3071), E: 65537}, true}, "none": {nil, false}} {
		if err := CheckKey(&x509.Certificate{PublicKey: test.key}); (err == nil) != test.ok {
			t.Errorf("%s: %v, want success %v", name, err, test.ok)
		}
	}
}
