package apid

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// Role is what the authority that issued a caller's certificate stands for.
type Role string

// The roles of design.md §2; the configuration names an authority for each.
const (
	Owner   Role = config.AuthorityOwner
	Hosting Role = config.AuthorityHosting
	Monitor Role = config.AuthorityMonitor
)

// Reasons why a certificate gives no role.
var (
	errNoCertificate = errors.New("no client certificate")
	errNoRole        = errors.New("no role's authority issued the certificate")
	errTwoRoles      = errors.New("the certificate chains to the authorities of two roles")
)

// maxChain bounds the certificates that a caller may show: a leaf and three
// issuers.
const maxChain = 4

// maxName bounds a caller's name in the record, in characters.
const maxName = 64

// caller is who holds the key of a client certificate.
type caller struct {
	role        Role
	name        string // the certificate's common name
	fingerprint string // "sha256:" and 64 digits, of the certificate
}

// String is the caller as the record names it.
func (c caller) String() string {
	if c.role == "" {
		return "nobody/" + c.name
	}
	return string(c.role) + "/" + c.name
}

// access is who may come in, by one configuration. It never changes.
type access struct {
	doc   *config.Document // nil: no configuration, nobody may
	roles []authority
}

// authority is the roots of one role.
type authority struct {
	role  Role
	roots *x509.CertPool
}

func newAccess(doc *config.Document) (*access, error) {
	a := &access{doc: doc}
	if doc == nil {
		return a, nil
	}
	for _, r := range doc.Management.Roles {
		certs, err := config.Certificates(r.CA)
		if err != nil {
			return nil, fmt.Errorf("authority of role %s: %w", r.Name, err)
		}
		pool := x509.NewCertPool()
		for _, c := range certs {
			pool.AddCert(c)
		}
		a.roles = append(a.roles, authority{Role(r.Name), pool})
	}
	return a, nil
}

// box is the name in the configuration, "" without one.
func (a *access) box() string {
	if a.doc == nil {
		return ""
	}
	return a.doc.Box
}

// identify says who holds the certificate chain[0], for client authentication
// at time now. Exactly one role's authority must vouch for it: a certificate
// that chains to two (an authority that is subordinate to another) gives none,
// because nobody decided which. The caller is named in the record also when it
// is refused.
func (a *access) identify(chain []*x509.Certificate, now time.Time) (caller, error) {
	if len(chain) == 0 {
		return caller{}, errNoCertificate
	}
	leaf := chain[0]
	c := caller{name: printable(leaf.Subject.CommonName), fingerprint: certFingerprint(leaf)}
	if len(chain) > maxChain {
		return c, fmt.Errorf("%d certificates in the chain, more than %d", len(chain), maxChain)
	}
	if err := tlsprofile.CheckKey(leaf); err != nil {
		return c, err
	}
	inter := x509.NewCertPool()
	for _, i := range chain[1:] {
		inter.AddCert(i)
	}
	var last error
	for _, r := range a.roles {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: r.roots, Intermediates: inter, CurrentTime: now,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		switch {
		case err != nil:
			if !errors.As(err, new(x509.UnknownAuthorityError)) {
				last = err // its own authority knows it, and still refuses
			}
		case c.role != "":
			c.role = ""
			return c, errTwoRoles
		default:
			c.role = r.role
		}
	}
	if c.role != "" {
		return c, nil
	}
	if last != nil {
		return c, last
	}
	return c, errNoRole
}

// printable makes a name from outside fit for the record.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxName {
		s = string(r[:maxName]) + "…"
	}
	return s
}

func certFingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}
