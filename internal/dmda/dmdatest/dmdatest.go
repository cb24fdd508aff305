// Package dmdatest is a De-Mail provider (DMDA) for tests and for a developer's
// desk. It does what BSI TR-01201 version 1.8 publishes of a provider, and can be
// slow, rude or down on demand. It never goes on a box: internal/rules refuses
// that.
//
// # What it does
//
//   - Takes mail over SMTP with implicit TLS and client certificates, in the
//     profile of internal/tlsprofile. A certificate must come from the provider's
//     own authority, must not be revoked, and must name a known Token.
//   - Several accounts hang on one token (TR-01201, security module, chapter 10).
//     The reverse-path, From and x-de-mail-sender must belong to one of them: 550
//     5.7.1 otherwise. Recipients must be known De-Mail addresses.
//   - Refuses dispatch options that the sender may not ask for, and bare CR, bare LF
//     and NUL anywhere in a message.
//   - Sets every provider's field of TR-01201-3.4 §3.1 and replaces what a sender put
//     there, seals with x-de-mail-integrity (signed if the sender asked for
//     "authoritative", §3.1.13), makes a copy of its own for each blind recipient
//     (§3.1.8), and adds envelope-to on delivery (§3.1.22). The body stays as it came.
//   - Keeps deliveries and a ledger of transactions in memory, within MaxStored and
//     MaxStoredBytes; over that it answers 452.
//   - Pushes De-Mails of its own making to a gateway, with its client certificate,
//     sealed by any algorithm of §3.1.21 (PKI.Integrity).
//
// # Confirmations and notifications
//
// What a normal De-Mail asks for by its options, Serve answers on its own
// (TR-01201-3.4 §3.5): a confirmation of dispatch for each copy, a confirmation of
// receipt for each recipient, and a confirmation of retrieve once Retrieve is called.
// Each is a multipart/mixed of XML and a PDF that says the same, sealed with a
// signature (§3.1.21); the XML of confirmations and ident confirmations carries an
// enveloped signature (§3.5.1). They come from the system address of their kind and
// go to the original's Reply-To, else its sender; those of receipt and retrieve also
// to its recipient. Who has an account on a token gets them through the gateway
// (SetGateway); those for other mailboxes stay in Answers. A gateway that is down or
// says 4xx is tried again, 30 times.
//
// Reverse-path: the guideline's public parts do not say whether a provider writes
// MAIL FROM:<>. Here a system message has its system address there, which no gateway
// may answer; DeMail.NullPath makes the other choice. What a gateway hands in with
// MAIL FROM:<> is refused (550 5.1.7): a De-Mail without a sender's account is none,
// and so reports of non-delivery stay among the tenants' own servers.
//
// A locked token (LockToken) gets 550 5.7.1 at MAIL and not an end of the handshake:
// a gateway can then tell "locked" from "certificate not valid", for which there is
// PKI.Revoke, and mail of the other tokens goes on.
//
// # Faults on demand
//
// The local part of a recipient in any De-Mail domain asks for a fault. With "-N"
// behind it (N from 1 to 99) only the first N times, per address:
//
//	temperror         RCPT is answered 451
//	permerror         RCPT is answered 550
//	421 … 599         RCPT is answered with that code
//	lock-token        RCPT is answered 550 5.7.1, and the token is locked from then on
//	data-451 …        the final dot is answered with that code
//	timeout           the final dot gets no answer until somebody closes, HangLimit at most
//	slow              the message is read in small bits and answered late: Config.Slow in all
//	drop-after-data   taken into the ledger, then closed without an answer
//
// or for an answer. These are taken, and but for the last two not delivered:
//
//	malware               a malware-acknowledge comes back
//	malware-notification  a malware-notification comes back
//	unknown-recipient, closed-account, invalid-format, other
//	                      a notification of that type comes back
//	faulty-notification   one of type unknown-recipient comes back, with faults in
//	                      its header that must be tolerated
//	identification        delivered, and an ident confirmation comes back
//	retrieve              delivered and fetched at once
//
// # What it does not do
//
// Accounts at level normal and their daily limits, forwarding, OCSP, the XML of
// ident confirmations as its own guideline describes it. It looks up no SRV record:
// whoever calls Push or SetGateway gives the address.
//
// # Whom it trusts
//
// Its own PKI, made by NewPKI with keys in memory.
package dmdatest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// Bounds of the simulator.
const (
	MaxStored      = 50_000   // deliveries, and transactions in the ledger
	MaxStoredBytes = 1 << 30  // of stored bodies
	MaxMessage     = 64 << 20 // bytes of one message; 45 MiB must pass (TR-01201 part 3)
	MaxRecipients  = 1000     // per transaction
	MaxConnections = 200      // at the same time
	HangLimit      = 15 * time.Minute
	defaultSlow    = 3 * time.Second
	idleLimit      = 10 * time.Minute
)

// Account is one De-Mail account.
type Account struct {
	Address string // its main De-Mail address
	Domain  string // any address in this domain or below may send; empty: Address alone
	Holder  string // x-de-mail-account-holder
	Public  bool   // a public authority: may ask for confirmations of retrieve
}

// Token is what a gateway logs in with: a certificate of the provider's
// authority with this common name.
type Token struct {
	Name     string
	Accounts []Account
}

// Config describes a provider. Nothing in it may change after New.
type Config struct {
	Domain    string   // the provider's own De-Mail domain
	Host      string   // FQDN of its server; empty: Domain
	Domains   []string // De-Mail domains: what lies in or below them is De-Mail
	Mailboxes []string // known recipients besides the accounts: "a@b" or "*@domain"
	Tokens    []Token
	PKI       *PKI

	// Slow is how long a message to slow@… takes; 0 means three seconds.
	Slow time.Duration
	// HashOnly keeps hashes and headers of messages, not their bodies.
	HashOnly bool

	// For Push. Dial is net.Dialer.DialContext if nil; GatewayRoots is the
	// provider's own authority if nil; GatewayName is the host of the address if
	// empty.
	Dial         func(ctx context.Context, network, address string) (net.Conn, error)
	GatewayRoots *x509.CertPool
	GatewayName  string

	// Algorithm seals answers, and its kind of key signs their XML; the zero value
	// is SHA-256 with ECDSA, and without a signature for notifications.
	Algorithm demail.Algorithm
	// Gateway is where answers are pushed to; see SetGateway.
	Gateway string
}

// Provider is a running or still silent provider. Its methods may be called at
// any time from any goroutine.
type Provider struct {
	cfg    Config
	tokens map[string]*tokenState

	mu      sync.Mutex
	changed chan struct{} // closed and renewed whenever something arrived
	stored  []Delivery
	bytes   int64
	ledger  []Receipt
	faults  map[string]int // how often a fault with a count was played, by address
	down    bool
	gateway string
	answers []*Answer
	ended   int          // how many of answers have found their end
	fetched map[int]bool // of stored, by Retrieve

	delivering chan struct{} // filled while answers are handed over
}

type tokenState struct {
	Token
	locked bool // under Provider.mu
}

// New checks the configuration.
func New(cfg Config) (*Provider, error) {
	if cfg.Host == "" {
		cfg.Host = cfg.Domain
	}
	if cfg.Slow == 0 {
		cfg.Slow = defaultSlow
	}
	if cfg.PKI == nil {
		return nil, errors.New("dmda: no PKI")
	}
	for _, d := range append([]string{cfg.Domain, cfg.Host}, cfg.Domains...) {
		if _, err := demail.ParseDomain(d); err != nil {
			return nil, fmt.Errorf("dmda: domain %q: %w", d, err)
		}
	}
	p := &Provider{cfg: cfg, tokens: map[string]*tokenState{}, changed: make(chan struct{}), faults: map[string]int{},
		gateway: cfg.Gateway, fetched: map[int]bool{}, delivering: make(chan struct{}, 1)}
	for _, t := range cfg.Tokens {
		for _, a := range t.Accounts {
			if _, err := demail.ParseAddress(a.Address); err != nil {
				return nil, fmt.Errorf("dmda: account %q: %w", a.Address, err)
			}
		}
		p.tokens[t.Name] = &tokenState{Token: t}
	}
	return p, nil
}

// SetDown makes the provider answer every new session and message with 421, until
// it is called with false.
func (p *Provider) SetDown(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

// LockToken locks or unlocks a token, as a provider does on abuse: its sessions
// get 550 5.7.1 at MAIL. An unknown name is ignored.
func (p *Provider) LockToken(name string, locked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.tokens[name]; t != nil {
		t.locked = locked
	}
}

// state reports whether the provider is down or a token locked.
func (p *Provider) state(t *tokenState) (down, locked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down, t.locked
}

// account finds the token's account that owns a.
func (t *tokenState) account(a demail.Address) (Account, bool) {
	for _, acc := range t.Accounts {
		if acc.owns(a) {
			return acc, true
		}
	}
	return Account{}, false
}

func (acc Account) owns(a demail.Address) bool {
	return strings.EqualFold(acc.Address, a.String()) || acc.Domain != "" && a.In(acc.Domain)
}

// isDeMail reports whether a lies in one of the De-Mail domains.
func (p *Provider) isDeMail(a demail.Address) bool {
	return a.In(p.cfg.Domain) || slices.ContainsFunc(p.cfg.Domains, a.In)
}

// knows reports whether somebody would get mail to a.
func (p *Provider) knows(a demail.Address) bool {
	for _, t := range p.tokens {
		if _, ok := t.account(a); ok {
			return true
		}
	}
	return slices.ContainsFunc(p.cfg.Mailboxes, func(m string) bool {
		if domain, ok := strings.CutPrefix(m, "*@"); ok {
			return strings.EqualFold(domain, a.Domain())
		}
		return strings.EqualFold(m, a.String())
	})
}
