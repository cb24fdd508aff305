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

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/mapping"
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

	tenants map[string]*Tenant
	domains map[string]owned
	names   map[string][]*System   // systems by a name their certificate may carry
	prints  map[[32]byte][]*System // systems by fingerprint
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

// System is one client of a tenant that may hand in mail.
type System struct {
	Name     string
	Tenant   *Tenant
	roots    *x509.CertPool
	networks []netip.Prefix
}

// New builds the snapshot of a document.
func New(doc *config.Document) (*Snapshot, error) {
	s := &Snapshot{Serial: doc.Serial, Box: doc.Box, tenants: map[string]*Tenant{}, domains: map[string]owned{},
		names: map[string][]*System{}, prints: map[[32]byte][]*System{}}
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

func provider(p *config.Provider) (Provider, error) {
	certs, pool, err := authorities(p.CA)
	if err != nil {
		return Provider{}, err
	}
	return Provider{Name: p.Name, Host: p.Host, Port: p.Port, Roots: pool, Authorities: certs, ServerNames: p.ServerNames,
		ClientNames: p.ClientNames, Domains: p.Domains, CRL: p.CRL}, nil
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
	t := &Tenant{ID: doc.ID, Name: doc.Name, Postmaster: doc.Postmaster, Language: doc.Language, MaxSize: doc.MaxSize}
	var err error
	if t.Account, err = demail.ParseAddress(doc.Account); err != nil {
		return fmt.Errorf("account: %w", err)
	}
	if t.Table, err = table(doc.Mappings); err != nil {
		return err
	}
	if len(doc.Inbound.Servers) > 0 {
		t.Inbound = Inbound{Servers: doc.Inbound.Servers, Names: doc.Inbound.Names}
		if _, t.Inbound.Roots, err = authorities(doc.Inbound.CA); err != nil {
			return fmt.Errorf("inbound: %w", err)
		}
	}
	if _, taken := s.tenants[t.ID]; taken {
		return fmt.Errorf("stands there twice")
	}
	s.tenants[t.ID] = t
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

func table(list []config.Mapping) (*mapping.Table, error) {
	entries := make([]mapping.Entry, len(list))
	for i, m := range list {
		a, err := demail.ParseAddress(m.DeMail)
		if err != nil {
			return nil, fmt.Errorf("mapping %d: %w", i+1, err)
		}
		entries[i] = mapping.Entry{Mail: m.Mail, DeMail: a}
	}
	return mapping.New(entries)
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
