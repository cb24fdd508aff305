package demail

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

const sampleHeader = "Received: from a by b; Mon, 2 Nov 2026 09:00:00 +0100\r\n" +
	"FROM:  Poststelle\r\n\t<poststelle@gemeinde-a.de-mail.example>\r\n" +
	"Date: Mon, 2 Nov 2026 09:00:00 +0100\r\n" +
	"Message-ID: <1@gemeinde-a.de-mail.example>\r\n" +
	"subject:Bescheid   zum\r\n  Antrag \r\n" +
	"x-de-mail-confirmation-of-dispatch: yes\r\n" +
	"x-de-mail-confirmation-of-receipt: yes\r\n" +
	"x-de-mail-confirmation-of-retrieve: no\r\n" +
	"x-de-mail-authoritative: no\r\n" +
	"x-de-mail-private: no\r\n" +
	"x-de-mail-sender: poststelle@gemeinde-a.de-mail.example\r\n" +
	"x-de-mail-chosen-recipient: to=poststelle@gemeinde-b.de-mail.example\r\n" +
	"x-de-mail-actual-recipient: to=poststelle@gemeinde-b.de-mail.example\r\n" +
	"x-de-mail-auth-mechanism: certificate\r\n" +
	"x-de-mail-auth-level: high\r\n" +
	"x-de-mail-originator-provider: provider.de-mail.example\r\n" +
	"x-de-mail-message-type: normal\r\n" +
	"x-de-mail-version: 1.8\r\n" +
	"x-de-mail-message-id: 4711@provider.de-mail.example\r\n" +
	"x-de-mail-account-holder: Gemeinde A\r\n" +
	"\r\n"

const sampleBody = "Guten Tag,\r\n\r\n.. und ein Punkt.\r\n\r\n\r\n"

func sample(t testing.TB) *Header {
	t.Helper()
	h, err := ReadHeader(bufio.NewReader(strings.NewReader(sampleHeader)), 0)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// signer is a certificate authority with one signing certificate below it.
type signer struct {
	key       crypto.Signer
	cert      *x509.Certificate
	roots     *x509.CertPool
	notBefore time.Time
}

func newSigner(t testing.TB, key crypto.Signer) signer {
	t.Helper()
	now := time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test signer"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageContentCommitment,
	}
	issue := func(c *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, pub, caKey)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	s := signer{key: key, roots: x509.NewCertPool(), notBefore: now}
	s.roots.AddCert(issue(ca, caKey.Public()))
	s.cert = issue(leaf, key.Public())
	return s
}

func (s signer) verifyOptions() VerifyOptions {
	return VerifyOptions{
		Roots: s.roots, Time: s.notBefore,
		Revocation: func(_, _ *x509.Certificate) error { return nil },
	}
}

func rsaSigner(t testing.TB) signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

func ecSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

// TestIntegrityAlgorithms seals and verifies with every algorithm, and has
// OpenSSL judge the same bytes, put together here by hand and not by the package.
func TestIntegrityAlgorithms(t *testing.T) {
	rs, ec := rsaSigner(t), ecSigner(t)
	for _, hash := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		for _, c := range []struct {
			scheme Scheme
			s      *signer
		}{{Unsigned, nil}, {RSA, &rs}, {RSASSAPSS, &rs}, {ECDSA, &ec}} {
			alg := Algorithm{hash, c.scheme}
			t.Run(alg.String(), func(t *testing.T) {
				h := sample(t)
				opt := IntegrityOptions{Hash: hash, PSS: c.scheme == RSASSAPSS, Time: time.Unix(1793606400, 0)}
				var vopt VerifyOptions
				if c.s != nil {
					opt.Signer, opt.Certificate, vopt = c.s.key, c.s.cert, c.s.verifyOptions()
				}
				if err := Seal(h, strings.NewReader(sampleBody), opt); err != nil {
					t.Fatal(err)
				}
				h = reread(t, h)
				res, err := VerifyIntegrity(h, iotest.OneByteReader(strings.NewReader(sampleBody)), vopt)
				if err != nil {
					t.Fatal(err)
				}
				if res.Algorithm != alg || res.Signed != (c.s != nil) {
					t.Errorf("result %+v, want %v", res, alg)
				}
				opensslJudges(t, h, hash, c.scheme, c.s)
			})
		}
	}
}

// reread writes h and reads it again, as a receiver would.
func reread(t testing.TB, h *Header) *Header {
	t.Helper()
	var b bytes.Buffer
	if _, err := h.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	out, err := ReadHeader(bufio.NewReader(&b), 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// opensslJudges checks bh= and b= of a sealed sample with the openssl command.
func opensslJudges(t *testing.T, h *Header, hash crypto.Hash, scheme Scheme, s *signer) {
	t.Helper()
	field := ""
	for _, f := range h.Fields() {
		if f.Is(FieldIntegrity) {
			field = string(f.Raw())
		}
	}
	tags := map[string]string{}
	_, list, _ := strings.Cut(field, ":")
	for _, part := range strings.Split(list, ";") {
		k, v, _ := strings.Cut(part, "=")
		tags[strings.TrimSpace(k)] = strings.Join(strings.Fields(v), "")
	}
	name := "-" + hashName(hash)
	body := "Guten Tag,\r\n\r\n.. und ein Punkt.\r\n"
	if got := openssl(t, body, "dgst", name, "-binary"); got != unb64(t, tags["bh"]) {
		t.Error("bh= is not what openssl computes")
	}
	signed := signedBytes(t, h, tags["h"]) + field[:strings.Index(field, " b=")+3]
	if scheme == Unsigned {
		if got := openssl(t, signed, "dgst", name, "-binary"); got != unb64(t, tags["b"]) {
			t.Error("b= is not what openssl computes")
		}
		return
	}
	dir := t.TempDir()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	key, sig := filepath.Join(dir, "key.pem"), filepath.Join(dir, "sig")
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	write(t, sig, []byte(unb64(t, tags["b"])))
	args := []string{"dgst", name, "-verify", key, "-signature", sig}
	if scheme == RSASSAPSS {
		args = append(args, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")
	}
	if got := openssl(t, signed, args...); !strings.Contains(got, "Verified OK") {
		t.Errorf("openssl: %s", got)
	}
}

// signedBytes concatenates the raw fields in the order of h=, the first of each.
func signedBytes(t *testing.T, h *Header, names string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range strings.Split(names, ":") {
		for _, f := range h.Fields() {
			if strings.EqualFold(f.Name(), name) {
				b.Write(f.Raw())
				break
			}
		}
	}
	return b.String()
}

func openssl(t *testing.T, in string, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("openssl is missing: apt-get install openssl")
	}
	if err != nil {
		t.Errorf("openssl %s: %v", args[0], err)
	}
	return string(out)
}

func unb64(t *testing.T, s string) string {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
