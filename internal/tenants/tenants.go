// Package tenants answers whose mail it is: which tenant and system a client
// certificate belongs to, which tenant a De-Mail domain belongs to, and what
// that tenant may do.
//
// What it promises:
//
//   - A Snapshot is immutable and safe for any number of readers. Whoever takes
//     one for a session or a delivery attempt sees one configuration throughout.
//   - A certificate belongs to at most one system; one that fits systems of two
//     tenants belongs to none (TR-01201, security module, chapter 10: nothing may
//     be sent under another tenant's account).
//   - A domain belongs to at most one tenant.
//
// The relay takes snapshots from a Source and knows nothing about where they
// come from. Today that is Live, fed from the provisioned configuration; a
// replicated store would be another Source.
//
// It trusts config.Parse to have checked the document and still refuses one that
// it cannot carry out in full. It does not check revocation of tenants'
// certificates: a lost one is taken out of the configuration.
package tenants

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/mapping"
	"gitlab.opencode.de/pforte/pforte/internal/secret"
)

// Source yields the snapshot that holds now.
type Source interface {
	Snapshot() *Snapshot
	// Changed returns a channel that is closed when a newer snapshot than the one
	// that holds now is there.
	Changed() <-chan struct{}
}

// Live is a Source whose snapshot is replaced by Set.
type Live struct {
	mu      sync.Mutex
	now     *Snapshot
	changed chan struct{}
}

// NewLive starts with s.
func NewLive(s *Snapshot) *Live { return &Live{now: s, changed: make(chan struct{})} }

// Snapshot implements Source.
func (l *Live) Snapshot() *Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// Changed implements Source.
func (l *Live) Changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// Set replaces the snapshot and tells everybody who waits.
func (l *Live) Set(s *Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = s
	close(l.changed)
	l.changed = make(chan struct{})
}

// Snapshot is the tenants and the provider at one moment.
type Snapshot struct {
	Serial   uint64
	Box      string
	Provider Provider
	Delay    []time.Duration // ages of a message at which its sender hears that it waits
	GiveUp   time.Duration   // the age at which it goes back

	tenants map[string]*Tenant
	domains map[string]owned
	names   map[string][]*System   // systems by a name their certificate may carry
	prints  map[[32]byte][]*System // systems by fingerprint
	logins  logins
}

type owned struct {
	tenant *Tenant
	domain Domain
}

// Provider is the De-Mail provider.
type Provider struct {
	Name        string // its own domain
	Host        string
	Port        uint16
	Roots       *x509.CertPool
	Authorities []*x509.Certificate // the certificates in Roots
	ServerNames []string
	ClientNames []string
	Domains     []string
	CRL         []string

	SignatureAuthorities []SignatureAuthority // who may sign De-Mails besides Authorities
}

// SignatureAuthority is another provider's authority.
type SignatureAuthority struct {
	Name        string
	Authorities []*x509.Certificate
	CRL         []string // URLs
}

// Tenant is one authority.
type Tenant struct {
	ID         string
	Name       string
	Account    demail.Address
	Postmaster string
	Language   string // "de" or "en"
	MaxSize    int64
	Domains    []Domain
	Table      *mapping.Table
	Inbound    Inbound

	Integrity    IntegrityPolicy
	KeepReceived bool // internal Received fields go out
	Rates        Rates
	Keywords     []Keyword

	options map[string]demail.Options // by address, "*@domain" or "*"
}

// IntegrityPolicy says what happens to an incoming De-Mail whose integrity is not proved.
type IntegrityPolicy uint8

// Policies. The zero value is the strictest.
const (
	Refuse     IntegrityPolicy = iota
	Quarantine                 // taken, and on hold until somebody decides
	Mark                       // delivered with the result in a trace field
)

// Rates bounds what a tenant's systems together may hand in; 0 is no limit of
// the tenant's own.
type Rates struct {
	Connections         int
	MessagesPerMinute   int
	RecipientsPerMinute int
}

// Keyword in a subject asks for dispatch options.
type Keyword struct {
	Text string
	Ask  demail.Options
}

// Domain is a De-Mail domain of a tenant.
type Domain struct {
	Name     string
	CatchAll string // e-mail address, "" for none
	Sends    bool
	Receives bool
}

// Inbound is where a tenant's De-Mails go.
type Inbound struct {
	Servers []config.Server
	Roots   *x509.CertPool
	Names   []string
}

// System is one client of a tenant that may hand in mail: a mail server, or a
// line-of-business application (Fachverfahren).
type System struct {
	Name        string
	Tenant      *Tenant
	Application bool
	Class       string // "urgent", "normal" or "bulk"

	roots    *x509.CertPool
	networks []netip.Prefix
	senders  map[string]bool // addresses and "*@domain"; empty: all of the tenant's
	secret   secret.Hash
}

// New builds the snapshot of a document.
func New(doc *config.Document) (*Snapshot, error) {
	s := &Snapshot{Serial: doc.Serial, Box: doc.Box, tenants: map[string]*Tenant{}, domains: map[string]owned{},
		names: map[string][]*System{}, prints: map[[32]byte][]*System{}, logins: newLogins()}
	s.schedule(&doc.Relay)
	var err error
	if s.Provider, err = provider(&doc.Provider); err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	for i := range doc.Tenants {
		if err := s.add(&doc.Tenants[i]); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", doc.Tenants[i].ID, err)
		}
	}
	return s, nil
}

// schedule takes over times; a single 0 means no notices.
func (s *Snapshot) schedule(doc *config.Relay) {
	s.GiveUp = time.Duration(doc.GiveUp)
	for _, d := range doc.DelayNotices {
		if d > 0 {
			s.Delay = append(s.Delay, time.Duration(d))
		}
	}
}

func provider(p *config.Provider) (Provider, error) {
	certs, pool, err := authorities(p.CA)
	if err != nil {
		return Provider{}, err
	}
	out := Provider{Name: p.Name, Host: p.Host, Port: p.Port, Roots: pool, Authorities: certs, ServerNames: p.ServerNames,
		ClientNames: p.ClientNames, Domains: p.Domains, CRL: p.CRL}
	for _, a := range p.SignatureAuthorities {
		certs, _, err := authorities(a.CA)
		if err != nil {
			return Provider{}, fmt.Errorf("signature authority %s: %w", a.Name, err)
		}
		out.SignatureAuthorities = append(out.SignatureAuthorities, SignatureAuthority{a.Name, certs, a.CRL})
	}
	return out, nil
}

func authorities(pem string) ([]*x509.Certificate, *x509.CertPool, error) {
	certs, err := config.Certificates(pem)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return certs, pool, nil
}

func (s *Snapshot) add(doc *config.Tenant) error {
	t := &Tenant{ID: doc.ID, Name: doc.Name, Postmaster: doc.Postmaster, Language: doc.Language, MaxSize: doc.MaxSize,
		KeepReceived: doc.KeepReceived, Rates: Rates(doc.Rates)}
	if _, taken := s.tenants[t.ID]; taken {
		return fmt.Errorf("stands there twice")
	}
	s.tenants[t.ID] = t
	var err error
	if t.Account, err = demail.ParseAddress(doc.Account); err != nil {
		return fmt.Errorf("account: %w", err)
	}
	if t.Integrity, err = integrity(doc.Integrity); err != nil {
		return err
	}
	if t.Table, err = doc.Table(); err != nil {
		return err
	}
	if t.Inbound, err = inbound(&doc.Inbound); err != nil {
		return fmt.Errorf("inbound: %w", err)
	}
	if err := t.addOptions(doc); err != nil {
		return err
	}
	for _, d := range doc.Domains {
		if err := s.addDomain(t, d); err != nil {
			return err
		}
	}
	for i := range doc.Clients {
		if err := s.addSystem(t, &doc.Clients[i]); err != nil {
			return fmt.Errorf("client %s: %w", doc.Clients[i].Name, err)
		}
	}
	return nil
}

func integrity(name string) (IntegrityPolicy, error) {
	switch name {
	case "", config.IntegrityRefuse:
		return Refuse, nil
	case config.IntegrityQuarantine:
		return Quarantine, nil
	case config.IntegrityMark:
		return Mark, nil
	}
	return Refuse, fmt.Errorf("unknown integrity policy %q", name)
}

func inbound(doc *config.Inbound) (Inbound, error) {
	if len(doc.Servers) == 0 {
		return Inbound{}, nil
	}
	in := Inbound{Servers: doc.Servers, Names: doc.Names}
	for _, server := range doc.Servers {
		if server.Fingerprint == "" || doc.CA != "" {
			var err error
			_, in.Roots, err = authorities(doc.CA)
			return in, err
		}
	}
	return in, nil // every server's certificate is pinned
}

func (s *Snapshot) addDomain(t *Tenant, doc config.Domain) error {
	name, err := demail.ParseDomain(doc.Name)
	if err != nil {
		return fmt.Errorf("domain: %w", err)
	}
	if other, taken := s.domains[name]; taken {
		return fmt.Errorf("domain %s belongs to tenant %s already", name, other.tenant.ID)
	}
	d := Domain{Name: name, CatchAll: doc.CatchAll}
	switch doc.Direction {
	case config.DirectionBoth, "":
		d.Sends, d.Receives = true, true
	case config.DirectionSend:
		d.Sends = true
	case config.DirectionReceive:
		d.Receives = true
	default:
		return fmt.Errorf("domain %s: unknown direction %q", name, doc.Direction)
	}
	t.Domains = append(t.Domains, d)
	s.domains[name] = owned{t, d}
	return nil
}

// Tenant returns the tenant with this id, nil if there is none (any more).
func (s *Snapshot) Tenant(id string) *Tenant { return s.tenants[id] }

// Tenants is how many there are.
func (s *Snapshot) Tenants() int { return len(s.tenants) }

// Domain returns whose domain it is; name is in lower case.
func (s *Snapshot) Domain(name string) (*Tenant, Domain, bool) {
	o, ok := s.domains[name]
	return o.tenant, o.domain, ok
}

// IsDeMail reports whether a is a De-Mail address at all: in one of the
// provider's De-Mail domains or below.
func (s *Snapshot) IsDeMail(a demail.Address) bool {
	for _, d := range s.Provider.Domains {
		if a.In(d) {
			return true
		}
	}
	return false
}

// Owns reports whether a lies in one of the tenant's domains and belongs to it by
// a mapping or as its account, and gives the domain.
func (t *Tenant) Owns(a demail.Address) (Domain, bool) {
	for _, d := range t.Domains {
		if d.Name == a.Domain() {
			return d, a == t.Account || t.Table.Has(a)
		}
	}
	return Domain{}, false
}

// Largest is the greatest message size that any tenant may have.
func (s *Snapshot) Largest() int64 {
	var n int64
	for _, t := range s.tenants {
		n = max(n, t.MaxSize)
	}
	return n
}
