package smtpguard

import (
	"errors"
	"slices"
)

// Claim counts this connection under key, such as a tenant's name, until it ends.
// If limit others are counted there already it returns 421 4.7.0, for Admit or a
// Session's method to return; 0 is no limit. A key counts once per connection.
func (p *Peer) Claim(key string, limit int) error {
	if p.claim == nil {
		return nil // a Peer that no Server made
	}
	return p.claim(key, limit)
}

func (s *Server) claim(c *conn, key string, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case slices.Contains(c.claims, key):
		return nil
	case limit > 0 && s.perKey[key] >= limit:
		return closing(Errorf(421, "4.7.0", "too many connections of yours, please close some"))
	case len(c.claims) == maxClaims:
		return errors.New("smtpguard: a connection claims too many keys")
	}
	c.claims = append(c.claims, key)
	s.perKey[key]++
	return nil
}

// release ends c's claims; s.mu is held.
func (s *Server) release(c *conn) {
	for _, key := range c.claims {
		if s.perKey[key]--; s.perKey[key] == 0 {
			delete(s.perKey, key)
		}
	}
	c.claims = nil
}
