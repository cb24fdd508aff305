package tenants

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/secret"
)

func hash(t *testing.T, text string) string {
	t.Helper()
	h, err := secret.New(text)
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

const (
	secretA = "secret of the scanner at a"
	secretB = "secret of the scanner at b"
)

// withLogins is document with a system of each tenant that logs in.
func withLogins(t *testing.T) *config.Document {
	t.Helper()
	ca := newAuthority(t, "ca")
	doc := document(ca, ca, ca)
	for i, s := range []string{secretA, secretB} {
		tenant := &doc.Tenants[i]
		tenant.Clients = append(tenant.Clients, config.Client{Name: "scanner", User: tenant.ID + ".scanner", Secret: hash(t, s),
			Networks: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 10, byte(i), 0}), 24)}})
	}
	return doc
}

func TestAuthenticate(t *testing.T) {
	s, err := New(withLogins(t))
	if err != nil {
		t.Fatal(err)
	}
	if !s.Logins() {
		t.Error("nobody logs in")
	}
	atA, atB := netip.MustParseAddr("10.10.0.7"), netip.MustParseAddr("::ffff:10.10.1.7")
	for _, test := range []struct {
		name, user, secret string
		from               netip.Addr
		want               string
	}{
		{"a", "gemeinde-a.scanner", secretA, atA, "gemeinde-a"},
		{"b, upper case, IPv4 in IPv6", "Gemeinde-B.Scanner", secretB, atB, "gemeinde-b"},
		{"wrong secret", "gemeinde-a.scanner", secretB, atA, ""},
		{"no secret", "gemeinde-a.scanner", "", atA, ""},
		{"the hash itself", "gemeinde-a.scanner", s.logins.users["gemeinde-a.scanner"].secret.String(), atA, ""},
		{"another's network", "gemeinde-a.scanner", secretA, atB, ""},
		{"unknown user", "gemeinde-c.scanner", secretA, atA, ""},
		{"no user", "", "", atA, ""},
		{"network of nobody", "gemeinde-a.scanner", secretA, netip.MustParseAddr("192.0.2.1"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			sys, err := s.Authenticate(test.user, test.secret, test.from)
			if (err == nil) != (test.want != "") || err != nil && !errors.Is(err, ErrLogin) {
				t.Fatalf("%v", err)
			}
			if err == nil && sys.Tenant.ID != test.want {
				t.Fatalf("tenant %s", sys.Tenant.ID)
			}
		})
	}
	ca := newAuthority(t, "ca")
	if s, err := New(document(ca, ca, ca)); err != nil || s.Logins() {
		t.Errorf("somebody logs in: %v", err)
	} else if _, err := s.Authenticate("x", "y", atA); !errors.Is(err, ErrLogin) {
		t.Errorf("without logins: %v", err)
	}
}

// TestUnknownUsersCostTheSame: the decoy of a name has the parameters of a real
// hash, always the same ones.
func TestUnknownUsersCostTheSame(t *testing.T) {
	doc := withLogins(t)
	doc.Tenants[0].Clients[1].Secret = strings.Replace(doc.Tenants[0].Clients[1].Secret, "m=19456,t=2", "m=20480,t=3", 1)
	s, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.logins.costs) != 2 || s.logins.costs[0] == s.logins.costs[1] {
		t.Fatalf("costs %v", s.logins.costs)
	}
	for _, name := range []string{"", "a", "b", "nobody"} {
		got := s.logins.decoy(name).Params()
		if !slices.Contains(s.logins.costs, got) || got != s.logins.decoy(name).Params() {
			t.Errorf("decoy of %q costs %v", name, got)
		}
	}
}

// TestVerificationsAreBounded: with every place taken, a login waits; it costs
// nothing to be sent away from a network where nobody logs in.
func TestVerificationsAreBounded(t *testing.T) {
	doc := withLogins(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := New(doc)
		if err != nil {
			t.Fatal(err)
		}
		for range maxVerifications {
			s.logins.places <- struct{}{}
		}
		if _, err := s.Authenticate("gemeinde-a.scanner", secretA, netip.MustParseAddr("192.0.2.1")); !errors.Is(err, ErrLogin) {
			t.Errorf("from afar: %v", err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := s.Authenticate("gemeinde-a.scanner", secretA, netip.MustParseAddr("10.10.0.7"))
			done <- err
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("verified one more than allowed")
		default:
		}
		<-s.logins.places
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestTenantsTakeTurns: who tries secrets in one tenant's network, on however many
// connections, lets another tenant's login pass after one verification.
func TestTenantsTakeTurns(t *testing.T) {
	doc := withLogins(t)
	synctest.Test(t, func(t *testing.T) {
		s, err := New(doc)
		if err != nil {
			t.Fatal(err)
		}
		for range maxVerifications {
			s.logins.places <- struct{}{}
		}
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		login := func(name, user, from string) {
			all.Go(func() {
				_, _ = s.Authenticate(user, secretB, netip.MustParseAddr(from))
				mu.Lock()
				defer mu.Unlock()
				order = append(order, name)
			})
			synctest.Wait()
		}
		for range 10 {
			login("a", "gemeinde-a.scanner", "10.10.0.66")
		}
		login("b", "gemeinde-b.scanner", "10.10.1.7")
		<-s.logins.places // one place, so that they come one after the other
		all.Wait()
		if at := slices.Index(order, "b"); at > 2 {
			t.Errorf("another tenant's login came after %d: %v", at, order)
		}
	})
}
