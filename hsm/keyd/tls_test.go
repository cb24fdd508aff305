package keyd

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// provision has both of relayd's keys certified, as the operator does it.
func provision(t testing.TB, b *box) *hsmtest.CA {
	t.Helper()
	root := hsmtest.NewCA(t, "root")
	ca := root.Intermediate(t, "issuing")
	b.as(layout.UIDApid)
	for p, usage := range map[hsm.Purpose]x509.ExtKeyUsage{
		hsm.ProviderClient: x509.ExtKeyUsageClientAuth,
		hsm.TenantServer:   x509.ExtKeyUsageServerAuth,
	} {
		csr := request(t, b, p, keyclient.Subject{CommonName: "box", DNSNames: []string{"box.example"}})
		leaf := ca.Issue(t, csr.PublicKey, usage, csr.DNSNames, nil)
		if _, err := b.admin.Install(t.Context(), p, ca.Chain(leaf)); err != nil {
			t.Fatal(err)
		}
	}
	b.as(layout.UIDRelayd)
	return root
}

// handshake connects a client and a server over a pipe and passes one line.
func handshake(client, server *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	served := make(chan error, 1)
	go func() {
		s := tls.Server(b, server)
		_, err := io.WriteString(s, "hello")
		served <- err
	}()
	c := tls.Client(a, client)
	got := make([]byte, 5)
	_, err := io.ReadFull(c, got)
	if err != nil {
		a.Close() // the server may wait for us
	}
	return errors.Join(err, <-served)
}

// TestTLSWithTPMKeys: both sides of a mutual handshake sign in one TPM, through
// keyd's socket.
func TestTLSWithTPMKeys(t *testing.T) {
	b := start(t, withKeys(openTPM(t, hsmtest.StartTPM(t), t.TempDir())))
	root := provision(t, b)
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			server := &tls.Config{
				MinVersion:     version,
				MaxVersion:     version,
				GetCertificate: b.client.Source(hsm.TenantServer).GetCertificate,
				ClientAuth:     tls.RequireAndVerifyClientCert,
				ClientCAs:      root.Pool(),
			}
			client := &tls.Config{
				ServerName:           "box.example",
				RootCAs:              root.Pool(),
				GetClientCertificate: b.client.Source(hsm.ProviderClient).GetClientCertificate,
			}
			before := b.service.uses.of(hsm.TenantServer) + b.service.uses.of(hsm.ProviderClient)
			if err := handshake(client, server); err != nil {
				t.Fatal(err)
			}
			if uses := b.service.uses.of(hsm.TenantServer) + b.service.uses.of(hsm.ProviderClient) - before; uses != 2 {
				t.Errorf("%d signatures in the TPM, want one of each side", uses)
			}
			// Without the client's certificate nothing goes.
			client.GetClientCertificate = nil
			if err := handshake(client, server); err == nil {
				t.Error("a client without a certificate got in")
			}
		})
	}
}

// BenchmarkSign compares a TPM's key through keyd with the same through keyd in
// software, and with crypto/ecdsa directly. The ratios are per signature.
func BenchmarkSign(b *testing.B) {
	sign := func(b *testing.B, s crypto.Signer) {
		for b.Loop() {
			if _, err := s.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
	}
	through := func(b *testing.B, keys Keys) {
		box := start(b, withKeys(keys))
		s, err := box.client.Signer(b.Context(), hsm.TenantServer)
		if err != nil {
			b.Fatal(err)
		}
		box.service.bucket = newBuckets(1e9, 1e9) // a benchmark exceeds what one user may
		sign(b, s)
	}
	perOp := map[string]float64{}
	run := func(name string, f func(b *testing.B)) {
		b.Run(name, func(b *testing.B) {
			f(b)
			perOp[name] = float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if direct := perOp["direct"]; direct > 0 {
				b.ReportMetric(perOp[name]/direct, "times-direct")
			}
		})
	}
	run("direct", func(b *testing.B) { sign(b, hsmtest.NewSoftKey(b)) })
	run("keyd-software", func(b *testing.B) { through(b, &hsmtest.SoftKeys{}) })
	run("keyd-TPM", func(b *testing.B) { through(b, openTPM(b, hsmtest.StartTPM(b), b.TempDir())) })
}
