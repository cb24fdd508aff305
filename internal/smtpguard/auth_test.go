package smtpguard

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// authRecord is a record that does not take mail before it knows who talks.
type authRecord struct {
	*record
	known bool
}

// The one who may, and words that nobody may find in a log.
const (
	goodUser   = "box"
	goodSecret = "geheim-right"
	badSecret  = "geheim-wrong"
)

func b64(s string) string            { return base64.StdEncoding.EncodeToString([]byte(s)) }
func plainOf(user, pw string) string { return b64("\x00" + user + "\x00" + pw) }

func (a *authRecord) AuthMechanisms() []string { return a.mechanisms }

func (a *authRecord) Auth(mechanism string) (sasl.Server, error) {
	check := func(_, user, secret string) error {
		switch {
		case user == "boom":
			panic("auth")
		case user == "down":
			return errors.New("store of secrets: " + secret[:0] + "not readable")
		case user != goodUser || secret != goodSecret:
			return smtp.ErrAuthFailed
		}
		a.known = true
		return nil
	}
	if mechanism == "LOGIN" {
		return &loginServer{check: check}, nil
	}
	return sasl.NewPlainServer(check), nil
}

func (a *authRecord) Mail(from string, o *smtp.MailOptions) error {
	if !a.known {
		return Errorf(530, "5.7.0", "authentication comes first")
	}
	return a.record.Mail(from, o)
}

// loginServer is the LOGIN mechanism, which go-sasl has for clients only.
type loginServer struct {
	check func(_, user, secret string) error
	user  *string
	asked bool
}

func (l *loginServer) Next(response []byte) ([]byte, bool, error) {
	switch {
	case response == nil && !l.asked:
		l.asked = true
		return []byte("Username:"), false, nil
	case l.user == nil:
		user := string(response)
		l.user = &user
		return []byte("Password:"), false, nil
	}
	return nil, true, l.check("", *l.user, string(response))
}

func authServer(t *testing.T, l Limits, change ...func(*Options)) (*record, string) {
	t.Helper()
	r := &record{mechanisms: []string{"PLAIN", "LOGIN"}}
	_, addr := serve(t, r, l, Implicit, change...)
	return r, addr
}

func TestAuthFlows(t *testing.T) {
	for name, flow := range map[string][][2]string{
		"PLAIN with initial response":      {{"AUTH PLAIN " + plainOf(goodUser, goodSecret), "235 2.7.0 authentication succeeded"}},
		"plain in small letters":           {{"auth plain " + plainOf(goodUser, goodSecret), "235 2.7.0"}},
		"PLAIN with an empty challenge":    {{"AUTH PLAIN", "334 \r\n"}, {plainOf(goodUser, goodSecret), "235 2.7.0"}},
		"LOGIN":                            {{"AUTH LOGIN", "334 " + b64("Username:")}, {b64(goodUser), "334 " + b64("Password:")}, {b64(goodSecret), "235 2.7.0"}},
		"LOGIN with the user's name ahead": {{"AUTH LOGIN " + b64(goodUser), "334 " + b64("Password:")}, {b64(goodSecret), "235 2.7.0"}},
		"second try":                       {{"AUTH PLAIN " + plainOf(goodUser, badSecret), "535 5.7.8"}, {"AUTH PLAIN " + plainOf(goodUser, goodSecret), "235 2.7.0"}},
		"cancelled, then again":            {{"AUTH LOGIN", "334"}, {"*", "501 5.7.0"}, {"AUTH PLAIN " + plainOf(goodUser, goodSecret), "235 2.7.0"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := authServer(t, Limits{})
			c := dial(t, addr)
			c.expect("220")
			if caps := c.say("EHLO client.example", "250"); !strings.Contains(caps, "250-AUTH PLAIN LOGIN\r\n") {
				t.Fatalf("capabilities %q", caps)
			}
			c.say("MAIL FROM:<a@x.example>", "530 5.7.0")
			for _, step := range flow {
				c.say(step[0], step[1])
			}
			c.say("AUTH PLAIN "+plainOf(goodUser, goodSecret), "503 5.5.1 already")
			c.open("b@x.example")
			c.put("Subject: x\r\n\r\nx\r\n.\r\n")
			c.expect("250 2.0.0 taken")
		})
	}
}

func TestAuthFaults(t *testing.T) {
	for name, flow := range map[string][][2]string{
		"unknown mechanism":      {{"AUTH CRAM-MD5", "504 5.5.4"}},
		"no mechanism":           {{"AUTH", "501 5.5.4"}},
		"too many words":         {{"AUTH PLAIN AA== BB==", "501 5.5.4"}},
		"not base64 at once":     {{"AUTH PLAIN !!!", "501 5.5.2"}},
		"not base64 later":       {{"AUTH PLAIN", "334"}, {"not base64", "501 5.5.2"}},
		"control characters":     {{"AUTH PLAIN", "334"}, {"AA\x01", "501 5.5.2"}},
		"a command as response":  {{"AUTH LOGIN", "334"}, {"RSET", "334"}, {"RSET", "535 5.7.8"}}, // base64 by chance
		"cancelled":              {{"AUTH PLAIN", "334"}, {"*", "501 5.7.0 authentication cancelled"}},
		"empty initial response": {{"AUTH PLAIN =", "454 4.7.0"}},
		"the session is down":    {{"AUTH PLAIN " + plainOf("down", "x"), "454 4.7.0"}},
		"in a transaction":       {{"AUTH PLAIN " + plainOf(goodUser, goodSecret), "235"}, {"MAIL FROM:<a@x.example>", "250"}, {"AUTH PLAIN", "503 5.5.1"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := authServer(t, Limits{})
			c := greetedPeer(t, addr)
			for _, step := range flow {
				c.say(step[0], step[1])
			}
			c.say("NOOP", "250 2.0.0 OK") // in step
		})
	}
}

func TestAuthEndsTheConnection(t *testing.T) {
	t.Run("over-long response", func(t *testing.T) {
		for _, n := range []int{maxCommandLine - 1, 1 << 20} {
			_, addr := authServer(t, Limits{})
			c := greetedPeer(t, addr)
			c.say("AUTH PLAIN", "334")
			_, _ = io.WriteString(c.Conn, strings.Repeat("A", n)+"\r\n") // the guard may hang up in the middle
			c.expect("500 5.5.6")
			_, _ = io.Copy(io.Discard, c.r)
		}
	})
	t.Run("something sent behind it", func(t *testing.T) {
		r, addr := authServer(t, Limits{})
		c := greetedPeer(t, addr)
		c.put("AUTH PLAIN " + plainOf(goodUser, goodSecret) + "\r\nMAIL FROM:<a@x.example>\r\n")
		c.expect("554 5.5.0")
		c.closed()
		if _, from, _, _ := r.got(); len(from) > 0 {
			t.Errorf("senders %q", from)
		}
	})
	t.Run("panic", func(t *testing.T) {
		_, addr := authServer(t, Limits{})
		c := greetedPeer(t, addr)
		c.say("AUTH PLAIN "+plainOf("boom", "x"), "421 4.3.0")
		c.closed()
	})
	for name, try := range map[string]func(c *talk){
		"refused three times":   func(c *talk) { c.say("AUTH PLAIN "+plainOf(goodUser, badSecret), "535 5.7.8") },
		"cancelled three times": func(c *talk) { c.say("AUTH PLAIN", "334"); c.say("*", "501 5.7.0") },
		"malformed three times": func(c *talk) { c.say("AUTH PLAIN ???", "501 5.5.2") },
		"unknown three times":   func(c *talk) { c.say("AUTH X", "504 5.5.4") },
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := authServer(t, Limits{})
			c := greetedPeer(t, addr)
			for range DefaultAuthErrors {
				try(c)
			}
			c.expect("421 4.7.0 too many refused authentications")
			c.closed()
		})
	}
}

func TestAuthIsNotOffered(t *testing.T) {
	for _, b := range []*record{{}, {mechanisms: nil}} {
		_, addr := serve(t, b, Limits{}, Implicit)
		c := dial(t, addr)
		c.expect("220")
		if caps := c.say("EHLO client.example", "250"); strings.Contains(caps, "AUTH") {
			t.Errorf("AUTH is offered: %q", caps)
		}
		c.say("AUTH PLAIN "+plainOf(goodUser, goodSecret), "502 5.5.1")
	}
	_, addr := authServer(t, Limits{})
	c := dial(t, addr)
	c.expect("220")
	c.say("AUTH PLAIN", "503 5.5.1")
	c.say("HELO client.example", "250")
	c.say("AUTH PLAIN", "503 5.5.1")
}

// Who may send without AUTH may still not change who he is in a transaction.
func TestAuthInATransaction(t *testing.T) {
	r := &record{mechanisms: []string{"PLAIN"}, known: true}
	_, addr := serve(t, r, Limits{}, Implicit)
	c := greetedPeer(t, addr)
	c.say("MAIL FROM:<a@x.example>", "250")
	c.say("AUTH PLAIN "+plainOf(goodUser, goodSecret), "503 5.5.1")
	c.say("RSET", "250")
	c.say("AUTH PLAIN "+plainOf(goodUser, goodSecret), "235")
}

// A listener may ask for a certificate and do without; the Backend sees whether
// one was shown, and decides who must say AUTH.
func TestAuthWithAndWithoutCertificate(t *testing.T) {
	r := &record{}
	var shown []int
	r.admit = func(p *Peer) error {
		shown = append(shown, len(p.TLS.PeerCertificates))
		r.mechanisms = nil
		if len(p.TLS.PeerCertificates) == 0 {
			r.mechanisms = []string{"PLAIN"}
		}
		return nil
	}
	_, addr := serve(t, r, Limits{}, Implicit, func(o *Options) { o.TLS.ClientAuth = tls.RequestClientCert })
	c := greetedPeer(t, addr)
	c.say("MAIL FROM:<a@x.example>", "530 5.7.0")
	c.say("AUTH PLAIN "+plainOf(goodUser, goodSecret), "235")
	c.say("MAIL FROM:<a@x.example>", "250")

	cfg := insecure()
	cfg.Certificates = []tls.Certificate{testCert()}
	c = dialTLS(t, addr, cfg)
	c.expect("220")
	if caps := c.say("EHLO client.example", "250"); strings.Contains(caps, "AUTH") {
		t.Errorf("AUTH is offered to a peer that is known: %q", caps)
	}
	c.say("MAIL FROM:<a@x.example>", "250")
	if fmt.Sprint(shown) != "[0 1]" {
		t.Errorf("certificates shown: %v", shown)
	}
}

func TestAuthSecretsStayOutOfLogs(t *testing.T) {
	var logged lockedBuffer
	_, addr := authServer(t, Limits{AuthErrors: 100, HardErrors: 100, SoftErrors: 100}, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	c := greetedPeer(t, addr)
	c.say("AUTH PLAIN "+plainOf(goodUser, badSecret), "535")
	c.say("AUTH PLAIN "+plainOf("down", badSecret), "454")
	c.say("AUTH PLAIN "+badSecret, "501")
	c.say("AUTH PLAIN", "334")
	c.say(badSecret, "501")
	c.say("AUTH "+badSecret, "504")
	c.say("AUTH LOGIN "+b64(goodUser), "334")
	c.say(b64(goodSecret), "235")
	c.say("QUIT", "221")
	c.closed()
	c = greetedPeer(t, addr)
	c.say("AUTH PLAIN "+plainOf("boom", badSecret), "421")
	c.closed()
	text := logged.String()
	if !strings.Contains(text, "store of secrets") || !strings.Contains(text, "panic") {
		t.Fatalf("the log lacks what it should have: %s", text)
	}
	for _, secret := range []string{badSecret, goodSecret, b64(goodSecret), plainOf(goodUser, badSecret), plainOf("down", badSecret), plainOf("boom", badSecret)} {
		if bytes.Contains([]byte(text), []byte(secret)) {
			t.Errorf("the log has %q: %s", secret, text)
		}
	}
}
