package keyd

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// request asks for a certificate request and checks its signature.
func request(t testing.TB, b *box, p hsm.Purpose, subject keyclient.Subject) *x509.CertificateRequest {
	t.Helper()
	text, err := b.admin.CSR(t.Context(), p, subject)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		t.Fatalf("request %q", text)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := csr.CheckSignature(); err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestCSR(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	b.as(0)
	csr := request(t, b, hsm.TenantServer, keyclient.Subject{
		CommonName: "Gateway Gemeinde Ä",
		DNSNames:   []string{"mail.gemeinde-a.example", "xn--gemeinde--z2a.example"},
		Addresses:  []netip.Addr{netip.MustParseAddr("10.10.0.2"), netip.MustParseAddr("fd10:10::2"), netip.MustParseAddr("::ffff:10.0.0.1")},
	})
	want := []string{"10.10.0.2", "fd10:10::2", "10.0.0.1"}
	var got []string
	for _, ip := range csr.IPAddresses {
		got = append(got, net.IP(ip).String())
	}
	if csr.Subject.CommonName != "Gateway Gemeinde Ä" || len(csr.DNSNames) != 2 || !cmp.Equal(got, want) {
		t.Errorf("request for %v, %v, %v", csr.Subject, csr.DNSNames, got)
	}
	if b.service.uses.of(hsm.TenantServer) != 1 {
		t.Error("the request's signature was not counted")
	}
}

func TestBadCSR(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	b.as(0)
	for name, s := range map[string]keyclient.Subject{
		"no name":        {},
		"long name":      {CommonName: strings.Repeat("x", 65)},
		"control":        {CommonName: "a\nb"},
		"not UTF-8":      {CommonName: "a\xff"},
		"upper case":     {CommonName: "a", DNSNames: []string{"Mail.example"}},
		"wildcard":       {CommonName: "a", DNSNames: []string{"*.example"}},
		"trailing dot":   {CommonName: "a", DNSNames: []string{"mail.example."}},
		"empty label":    {CommonName: "a", DNSNames: []string{"mail..example"}},
		"leading hyphen": {CommonName: "a", DNSNames: []string{"-mail.example"}},
		"long label":     {CommonName: "a", DNSNames: []string{strings.Repeat("x", 64) + ".example"}},
		"empty host":     {CommonName: "a", DNSNames: []string{""}},
		"umlaut":         {CommonName: "a", DNSNames: []string{"gemeinde-ä.example"}},
		"no address":     {CommonName: "a", Addresses: []netip.Addr{{}}},
		"zone":           {CommonName: "a", Addresses: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")}},
		"many":           {CommonName: "a", DNSNames: make([]string, 33)},
	} {
		if _, err := b.admin.CSR(t.Context(), hsm.TenantServer, s); !errors.Is(err, localapi.ErrBadRequest) {
			t.Errorf("%s: %v, want ErrBadRequest", name, err)
		}
	}
	if _, err := b.admin.CSR(t.Context(), "other", keyclient.Subject{CommonName: "a"}); !errors.Is(err, hsm.ErrUnknownPurpose) {
		t.Errorf("unknown purpose: %v", err)
	}
}

func TestInstall(t *testing.T) {
	opts := withKeys(&hsmtest.SoftKeys{})
	opts.Dir = t.TempDir()
	b := start(t, opts)
	b.as(0)
	ca := hsmtest.NewCA(t, "root").Intermediate(t, "issuing")
	public := request(t, b, hsm.TenantServer, keyclient.Subject{CommonName: "mail"}).PublicKey
	install := func() *x509.Certificate {
		leaf := ca.Issue(t, public, x509.ExtKeyUsageServerAuth, []string{"mail.example"}, nil)
		status, err := b.admin.Install(t.Context(), hsm.TenantServer, ca.Chain(leaf))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(keyclient.Describe(leaf), status.Certificate); diff != "" {
			t.Errorf("installed (-want +got):\n%s", diff)
		}
		return leaf
	}
	check := func(leaf *x509.Certificate) {
		t.Helper()
		b.as(903)
		got, err := b.client.Certificate(t.Context(), hsm.TenantServer)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Leaf.Equal(leaf) || len(got.Certificate) != 2 {
			t.Errorf("certificate %v with %d in its chain", got.Leaf.SerialNumber, len(got.Certificate))
		}
		b.as(0)
	}
	check(install())
	leaf := install() // a renewal replaces it
	check(leaf)
	b.stop()
	b = start(t, opts) // and it survives a restart
	check(leaf)

	// A certificate of another key that got into the folder is seen and not used.
	other := ca.Issue(t, hsmtest.NewSoftKey(t).Public(), x509.ExtKeyUsageServerAuth, []string{"mail.example"}, nil)
	if err := os.WriteFile(b.service.chainPath(hsm.TenantServer), ca.Chain(other), 0o600); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b = start(t, opts)
	if _, err := b.client.Certificate(t.Context(), hsm.TenantServer); !errors.Is(err, hsm.ErrNoCertificate) {
		t.Errorf("a foreign certificate: %v, want ErrNoCertificate", err)
	}
	b.as(0)
	if list, err := b.admin.List(t.Context()); err != nil || !strings.Contains(list[1].Fault, "does not fit") {
		t.Errorf("list %+v, %v: want the fault", list, err)
	}
}

// TestRefusedChains: each of these is refused, with a text that helps, and the
// certificate that was there stays.
func TestRefusedChains(t *testing.T) {
	b := start(t, withKeys(&hsmtest.SoftKeys{}))
	b.as(0)
	root := hsmtest.NewCA(t, "root")
	ca := root.Intermediate(t, "issuing")
	stranger := hsmtest.NewCA(t, "root") // same name, another key
	public := request(t, b, hsm.TenantServer, keyclient.Subject{CommonName: "mail"}).PublicKey
	leafWith := func(adjust func(*x509.Certificate)) *x509.Certificate {
		return ca.Issue(t, public, x509.ExtKeyUsageServerAuth, []string{"mail.example"}, adjust)
	}
	leaf := leafWith(nil)
	if _, err := b.admin.Install(t.Context(), hsm.TenantServer, ca.Chain(leaf)); err != nil {
		t.Fatal(err)
	}
	issuer := ca.Certificate
	tests := map[string]struct {
		chain []byte
		kind  error
		text  string
	}{
		"empty":          {nil, hsm.ErrBadCertificate, "no certificate"},
		"no PEM":         {[]byte("hello"), hsm.ErrBadCertificate, "other than PEM"},
		"text before":    {append([]byte("subject=...\n"), hsmtest.PEM(leaf)...), hsm.ErrBadCertificate, "other than PEM"},
		"damaged":        {bytes.Replace(hsmtest.PEM(leaf), []byte("\nMI"), []byte("\n!!"), 1), hsm.ErrBadCertificate, "damaged"},
		"cut off":        {hsmtest.PEM(leaf)[:200], hsm.ErrBadCertificate, "damaged"},
		"private key":    {append(hsmtest.PEM(leaf), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...), hsm.ErrBadCertificate, "never send private keys"},
		"garbage in PEM": {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}), hsm.ErrBadCertificate, "certificate 1"},
		"too many":       {hsmtest.PEM(leaf, issuer, issuer, issuer, issuer, issuer, issuer, issuer, issuer), hsm.ErrBadCertificate, "more than 8"},
		"another key":    {hsmtest.PEM(ca.Issue(t, hsmtest.NewSoftKey(t).Public(), x509.ExtKeyUsageServerAuth, []string{"a"}, nil)), hsm.ErrCertificateMismatch, "new request"},
		"wrong order":    {hsmtest.PEM(issuer, leaf), hsm.ErrCertificateMismatch, "put it first"},
		"gap":            {hsmtest.PEM(leaf, root.Certificate), hsm.ErrBadCertificate, "not issued by number 2"},
		"foreign issuer": {hsmtest.PEM(leaf, issuer, stranger.Certificate), hsm.ErrBadCertificate, "certificate 2 is not issued by number 3"},
		"expired":        {hsmtest.PEM(leafWith(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), hsm.ErrBadCertificate, "expired"},
		"from the future": {hsmtest.PEM(leafWith(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(48*time.Hour), time.Now().Add(72*time.Hour)
		})), hsm.ErrBadCertificate, "begins at"},
		"client only":       {hsmtest.PEM(ca.Issue(t, public, x509.ExtKeyUsageClientAuth, []string{"a"}, nil)), hsm.ErrBadCertificate, "lacks serverAuth"},
		"encipherment only": {hsmtest.PEM(leafWith(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })), hsm.ErrBadCertificate, "digitalSignature"},
		"authority": {hsmtest.PEM(leafWith(func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid = true, true
		})), hsm.ErrBadCertificate, "authority"},
		"no host": {hsmtest.PEM(leafWith(func(c *x509.Certificate) { c.DNSNames = nil })), hsm.ErrBadCertificate, "names no host"},
		"unknown critical": {hsmtest.PEM(leafWith(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})), hsm.ErrBadCertificate, "critical"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := b.admin.Install(t.Context(), hsm.TenantServer, tt.chain)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) || localapi.Remedy(err) == "" {
				t.Errorf("error %v (remedy %q), want %v saying %q", err, localapi.Remedy(err), tt.kind, tt.text)
			}
		})
	}
	// Several faults are told at once.
	_, err := b.admin.Install(t.Context(), hsm.TenantServer, hsmtest.PEM(leafWith(func(c *x509.Certificate) {
		c.NotAfter, c.DNSNames, c.ExtKeyUsage = time.Now().Add(-time.Minute), nil, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	})))
	for _, text := range []string{"expired", "names no host", "lacks serverAuth"} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %v lacks %q", err, text)
		}
	}
	list, err := b.admin.List(t.Context())
	if err != nil || !cmp.Equal(list[1].Certificate, keyclient.Describe(leaf)) {
		t.Errorf("after all that: %+v, %v, want the first certificate", list[1], err)
	}
	// What the client of the provider needs is another usage, and no host name.
	public = request(t, b, hsm.ProviderClient, keyclient.Subject{CommonName: "box"}).PublicKey
	for usage, ok := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageServerAuth: false, x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageAny: true} {
		_, err := b.admin.Install(t.Context(), hsm.ProviderClient, hsmtest.PEM(ca.Issue(t, public, usage, nil, nil)))
		if (err == nil) != ok {
			t.Errorf("provider-client with usage %d: %v", usage, err)
		}
	}
}

func FuzzParseChain(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Add(hsmtest.PEM(hsmtest.NewCA(f, "x").Certificate))
	f.Add([]byte("-----BEGIN "))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseChain(b)
		if err == nil && (len(c.certificates) == 0 || len(c.certificates) > maxChain) {
			t.Errorf("%d certificates", len(c.certificates))
		}
		if err != nil && !errors.Is(err, hsm.ErrBadCertificate) {
			t.Errorf("error %v without a kind", err)
		}
	})
}
