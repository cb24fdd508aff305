package tenants

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/secret"
)

// maxVerifications bounds how many secrets are verified at once, and with it the
// memory that logins use: maxVerifications * secret.MaxMemory.
const maxVerifications = 2

// ErrLogin: no system of a tenant logs in like this. What is behind it says why,
// for the log; the client is told nothing more.
var ErrLogin = errors.New("user, secret and network belong to no system")

// logins are the systems that prove themselves by user and secret.
type logins struct {
	users  map[string]*System
	costs  []secret.Params // one for each system, for decoys
	seed   maphash.Seed
	places chan struct{} // taken by who verifies
	turns  *turns
}

// turns are taken before a place: of logins from the same tenants' networks one
// verifies at a time, so that who tries secrets there does not keep others waiting.
type turns struct {
	mu sync.Mutex
	of map[string]chan struct{} // by the tenants' ids; bounded by their networks
}

func (t *turns) get(whose string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of[whose] == nil {
		t.of[whose] = make(chan struct{}, 1)
	}
	return t.of[whose]
}

func newLogins() logins {
	return logins{users: map[string]*System{}, seed: maphash.MakeSeed(), places: make(chan struct{}, maxVerifications),
		turns: &turns{of: map[string]chan struct{}{}}}
}

func (l *logins) add(sys *System, doc *config.Client) error {
	var err error
	if sys.secret, err = secret.Parse(doc.Secret); err != nil {
		return err
	}
	if len(sys.networks) == 0 {
		return errors.New("a login needs networks")
	}
	if other, taken := l.users[doc.User]; taken {
		return fmt.Errorf("user %s belongs to tenant %s already", doc.User, other.Tenant.ID)
	}
	l.users[doc.User] = sys
	l.costs = append(l.costs, sys.secret.Params())
	return nil
}

// Logins reports whether any system logs in with user and secret, so that AUTH
// is worth offering.
func (s *Snapshot) Logins() bool { return len(s.logins.users) > 0 }

// Authenticate returns the system that logs in with this user and secret from
// this address; every refusal wraps ErrLogin.
//
// It says nothing about which part was wrong, neither by its error's kind nor by
// its time: an unknown user, a wrong secret and a wrong network cost the same.
// Only an address from which no system logs in at all is refused without work.
// At most maxVerifications secrets are verified at once, and one of those from the
// networks of the same tenants; others wait.
func (s *Snapshot) Authenticate(user, password string, from netip.Addr) (*System, error) {
	l := &s.logins
	whose := l.whoseFrom(from)
	if whose == "" {
		return nil, fmt.Errorf("%w: nobody logs in from %s", ErrLogin, from)
	}
	sys, known := l.users[strings.ToLower(user)]
	hash := l.decoy(user)
	if known {
		hash = sys.secret
	}
	turn := l.turns.get(whose)
	turn <- struct{}{}
	l.places <- struct{}{}
	right := hash.Matches(password)
	<-l.places
	<-turn
	switch {
	case !known:
		return nil, fmt.Errorf("%w: no such user", ErrLogin)
	case !right:
		return nil, fmt.Errorf("%w: wrong secret of %s, system %q", ErrLogin, sys.Tenant.ID, sys.Name)
	case !sys.from(from):
		return nil, fmt.Errorf("%w: right secret of %s, system %q, from %s, which is none of its networks", ErrLogin, sys.Tenant.ID, sys.Name, from)
	}
	return sys, nil
}

// whoseFrom names the tenants whose systems log in from an address, "" if none does.
func (l *logins) whoseFrom(from netip.Addr) string {
	var ids []string
	for _, sys := range l.users {
		if sys.from(from) {
			ids = append(ids, sys.Tenant.ID)
		}
	}
	slices.Sort(ids)
	return strings.Join(slices.Compact(ids), " ")
}

// decoy costs as much as the hash of some real user, always the same for one name.
func (l *logins) decoy(user string) secret.Hash {
	return secret.Decoy(l.costs[maphash.String(l.seed, user)%uint64(len(l.costs))])
}

// anyOf is "*@domain" for an address, "" for what is none.
func anyOf(address string) string {
	if i := strings.LastIndexByte(address, '@'); i >= 0 {
		return "*" + address[i:]
	}
	return ""
}
