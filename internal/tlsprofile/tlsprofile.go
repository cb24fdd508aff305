// Package tlsprofile holds the one TLS profile of the box: what BSI TR-03116-4
// (with the tables of TR-02102-2) allows, and nothing else. Every listener and
// every dialler takes its tls.Config from here and adds only who it is and whom
// it trusts.
//
// What it promises of a finished handshake:
//
//   - TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM. No older version, no static
//     RSA, no CBC, no ChaCha20-Poly1305 (TR-02102-2 does not list it), no
//     compression (Go has none), no renegotiation, no session tickets: every
//     connection proves its certificate anew.
//   - Key agreement on P-256, P-384 or P-521. X25519 is not in the TR's tables
//     and is left out; Go has no brainpool curves.
//   - The peer's own key is ECDSA on one of these curves or RSA with at least
//     3000 bits.
//
// Go does not let a caller choose TLS 1.3 suites, and prefers ChaCha20 when
// either side lacks AES instructions. Such a connection is made with TLS 1.2
// instead, where AES-GCM can be asked for; this is stricter about the cipher, not
// weaker about the key agreement.
//
// What it does not do: chains, names and revocation; callers check those.
package tlsprofile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"

	"golang.org/x/sys/cpu"
)

// MinRSABits is the shortest RSA key a peer may show (demail.md §3).
const MinRSABits = 3000

// Server returns the profile for a listener. certificate is asked at every
// handshake, so that a renewed certificate serves the next connection. The
// caller adds ClientAuth, ClientCAs and VerifyConnection; a VerifyConnection of
// its own must call CheckState.
func Server(certificate func() (*tls.Certificate, error)) *tls.Config {
	c := base()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate() }
	c.VerifyConnection = CheckState
	return c
}

// PerClient is for tls.Config.GetConfigForClient of a listener: it keeps to
// AES-GCM with peers that would rather have ChaCha20 (see the package comment).
// full serves everybody else.
func PerClient(full *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	capped := full.Clone()
	capped.MaxVersion = tls.VersionTLS12
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if fastAES() && prefersAES(hello.CipherSuites) {
			return full, nil
		}
		return capped, nil
	}
}

// Client returns the profile for a dialler. The caller adds ServerName, RootCAs
// and its certificate; a VerifyConnection of its own must call CheckState.
func Client() *tls.Config {
	c := base()
	c.Renegotiation = tls.RenegotiateNever
	c.VerifyConnection = CheckState
	if !fastAES() {
		c.MaxVersion = tls.VersionTLS12
	}
	return c
}

// CheckState refuses a finished handshake that is outside the profile.
func CheckState(s tls.ConnectionState) error {
	if s.Version < tls.VersionTLS12 {
		return fmt.Errorf("tls profile: version %s is too old", tls.VersionName(s.Version))
	}
	if !slices.Contains(suites12(), s.CipherSuite) && !slices.Contains(suites13(), s.CipherSuite) {
		return fmt.Errorf("tls profile: cipher suite %s is not allowed", tls.CipherSuiteName(s.CipherSuite))
	}
	if len(s.PeerCertificates) > 0 {
		return CheckKey(s.PeerCertificates[0])
	}
	return nil
}

// CheckKey refuses a certificate whose own key is too weak.
func CheckKey(cert *x509.Certificate) error {
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return fmt.Errorf("tls profile: certificate key on curve %s is too weak; use P-256 or better", key.Curve.Params().Name)
	case *rsa.PublicKey:
		if key.N.BitLen() < MinRSABits {
			return fmt.Errorf("tls profile: certificate key has %d RSA bits; use at least %d or P-256", key.N.BitLen(), MinRSABits)
		}
		return nil
	}
	return fmt.Errorf("tls profile: certificate key of kind %T is not allowed; use ECDSA P-256 or RSA %d", cert.PublicKey, MinRSABits)
}

func base() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		MaxVersion:             tls.VersionTLS13,
		CipherSuites:           suites12(),
		CurvePreferences:       []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521},
		SessionTicketsDisabled: true,
	}
}

func suites12() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
}

func suites13() []uint16 {
	return []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384}
}

// prefersAES repeats the question that crypto/tls asks of a client's list: it
// takes ChaCha20 unless the first suite it knows there is an AES-GCM one.
func prefersAES(offered []uint16) bool {
	for _, id := range offered {
		if slices.Contains(suites12(), id) || slices.Contains(suites13(), id) {
			return true
		}
		if known(id) {
			return false
		}
	}
	return false
}

func known(id uint16) bool {
	same := func(s *tls.CipherSuite) bool { return s.ID == id }
	return slices.ContainsFunc(tls.CipherSuites(), same) || slices.ContainsFunc(tls.InsecureCipherSuites(), same)
}

// fastAES reports whether crypto/tls will see AES-GCM instructions and so put
// AES first on its own side.
func fastAES() bool {
	amd := cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3
	arm := cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	return amd || arm
}
