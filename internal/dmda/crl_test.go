package dmda

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"testing"
	"testing/synctest"
	"time"
)

// A list is believed for 24 hours at most, and never an older one over a newer.
func TestListAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: time.Now(), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if ca, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		crl := func(this, next time.Time) []byte {
			raw, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: this, NextUpdate: next}, ca, key)
			if err != nil {
				t.Fatal(err)
			}
			return raw
		}
		const url = "http://crl.example/"
		r := NewRevocation([]string{url}, []*x509.Certificate{ca}, "", slog.New(slog.DiscardHandler))
		now := time.Now()
		if err := r.take(url, crl(now.Add(time.Hour), now.Add(100*time.Hour)), now); err == nil {
			t.Error("a list from the future was taken")
		}
		if err := r.take(url, []byte("nonsense"), now); !errors.Is(err, errCRLFormat) {
			t.Errorf("nonsense: %v", err)
		}
		if err := r.take(url, crl(now, now.Add(100*time.Hour)), now); err != nil {
			t.Fatal(err)
		}
		if err := r.take(url, crl(now.Add(-time.Hour), now.Add(100*time.Hour)), now); err == nil {
			t.Error("an older list replaced a newer one")
		}
		leaf := &x509.Certificate{SerialNumber: big.NewInt(7)}
		if err := r.Check(leaf, ca); err != nil {
			t.Fatal(err)
		}
		time.Sleep(CRLMaxAge - time.Second)
		if err := r.Check(leaf, ca); err != nil {
			t.Errorf("a second before 24 hours: %v", err)
		}
		time.Sleep(time.Second)
		if err := r.Check(leaf, ca); !errors.Is(err, ErrNoCRL) {
			t.Errorf("after 24 hours: %v", err)
		}
	})
}
