package relay

import (
	"errors"

	"github.com/emersion/go-sasl"

	"gitlab.opencode.de/pforte/pforte/internal/relay/answer"
	"gitlab.opencode.de/pforte/pforte/internal/smtpguard"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// mechanismLogin is no standard, and what many applications speak and nothing
// else. It says no more than PLAIN does, over the same TLS.
const mechanismLogin = "LOGIN"

// identify finds out anew whose session it is when the configuration has changed,
// so that a system that was taken out does not go on on an open connection. A
// certificate is looked up again. A login is not kept, and neither is its secret:
// who logged in under an old configuration does so again.
func (s *outSession) identify() error {
	snap := s.r.o.Tenants.Snapshot()
	if snap == s.snap {
		return nil
	}
	if s.login {
		return closing(smtpguard.Errorf(421, "4.7.0", "the configuration has changed, please log in again / Konfiguration geaendert, bitte neu anmelden"), nil)
	}
	system, err := snap.System(s.peer.TLS.PeerCertificates, s.peer.Remote.Addr(), now())
	if err != nil && !snap.Logins() {
		return closing(smtpguard.Errorf(550, "5.7.1",
			"your certificate is not that of a registered system / Ihr Zertifikat gehoert zu keinem eingetragenen System"), err)
	}
	return s.become(snap, system)
}

// become makes it the session of a system, nil if it is not known yet.
func (s *outSession) become(snap *tenants.Snapshot, system *tenants.System) error {
	id := ""
	if system != nil {
		id = system.Tenant.ID
	}
	if id != s.counted {
		s.uncount()
		if id != "" && !s.r.meters.connect(system.Tenant) {
			return closing(answer.Refuse(system.Tenant, 421, "4.7.0", "zu viele Verbindungen Ihres Mandanten (Grenze %d); schliessen Sie einige, oder lassen Sie die Grenze erhoehen",
				"too many connections of your tenant (limit %d); close some, or have the limit raised", system.Tenant.Rates.Connections), nil)
		}
		s.counted = id
	}
	s.snap, s.system = snap, system
	return nil
}

func (s *outSession) uncount() {
	if s.counted != "" {
		s.r.meters.disconnect(s.counted)
		s.counted = ""
	}
}

func closing(e *smtpguard.Error, cause error) error {
	e.Close, e.Cause = true, cause
	return e
}

// known refuses who has not proved who he is (RFC 4954 §6).
func (s *outSession) known() error {
	if s.system == nil {
		return smtpguard.Errorf(530, "5.7.0", "authentication required: a client certificate, or AUTH / Anmeldung noetig: Client-Zertifikat oder AUTH")
	}
	return nil
}

// AuthMechanisms implements smtpguard.Authenticator. A system that is known by its
// certificate has nothing to prove.
func (s *outSession) AuthMechanisms() []string {
	if s.system != nil || !s.r.o.Tenants.Snapshot().Logins() {
		return nil
	}
	return []string{sasl.Plain, mechanismLogin}
}

// Auth implements smtpguard.Authenticator.
func (s *outSession) Auth(mechanism string) (sasl.Server, error) {
	switch mechanism {
	case sasl.Plain:
		return sasl.NewPlainServer(func(identity, user, secret string) error {
			if identity != "" && identity != user {
				return notAuthenticated(errors.New("asks to act for somebody else"))
			}
			return s.authenticate(user, secret)
		}), nil
	case mechanismLogin:
		return &loginServer{check: s.authenticate}, nil
	}
	return nil, smtpguard.Errorf(504, "5.5.4", "this mechanism is not offered")
}

func (s *outSession) authenticate(user, secret string) error {
	snap := s.r.o.Tenants.Snapshot()
	system, err := snap.Authenticate(user, secret, s.peer.Remote.Addr())
	if err != nil {
		return notAuthenticated(err)
	}
	if err := s.become(snap, system); err != nil {
		return err
	}
	s.login = true
	s.r.o.Log.Info("logged in", "tenant", system.Tenant.ID, "system", system.Name, "remote", s.peer.Remote.String())
	return nil
}

// notAuthenticated says nothing of the cause to the peer (RFC 4954 §6: 535).
func notAuthenticated(cause error) error {
	e := smtpguard.Errorf(535, "5.7.8", "authentication failed: user, secret or network / Anmeldung abgelehnt: Benutzer, Geheimnis oder Netz")
	e.Cause = cause
	return e
}

// loginServer is the server's side of LOGIN: it asks for the user's name, then for
// the secret. A response that comes with the command is the name.
type loginServer struct {
	check func(user, secret string) error
	asked bool
	user  *string
}

// Next implements sasl.Server.
func (l *loginServer) Next(response []byte) (challenge []byte, done bool, err error) {
	switch {
	case response == nil && !l.asked:
		l.asked = true
		return []byte("Username:"), false, nil
	case l.user == nil:
		user := string(response)
		l.user = &user
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check(*l.user, string(response))
}
