package apid

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/tlsprofile"
)

// serveHTTPS answers operators on all listeners until ctx ends, then gives
// running calls stopGrace.
func (s *Service) serveHTTPS(ctx context.Context) error {
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: handshakeTimeout,
		ReadTimeout:       handshakeTimeout + smallBodyTimeout,
		WriteTimeout:      handshakeTimeout + largeBodyTimeout + updateTimeout + answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelInfo),
		BaseContext:       func(net.Listener) context.Context { return base },
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){}, // HTTP/1.1 alone: one parser less
	}
	open, rates := newCounts(maxConnections, maxConnectionsPerPeer), newRates(connectRate, connectBurst)
	config := s.tlsConfig()
	done := make(chan error, len(s.opts.HTTPS))
	for _, ln := range s.opts.HTTPS {
		go func() { done <- server.Serve(tls.NewListener(&gate{ln, open, rates}, config)) }()
	}
	var fault error
	left := len(s.opts.HTTPS)
	select {
	case <-ctx.Done():
	case fault = <-done:
		left--
	}
	grace, stop := context.WithTimeout(base, stopGrace)
	defer stop()
	if err := server.Shutdown(grace); err != nil {
		cancel()
		_ = server.Close()
	}
	for range left {
		<-done
	}
	if fault != nil {
		return fmt.Errorf("serve the management API: %w", fault)
	}
	return nil
}

// tlsConfig lets in who has a role, and nobody else: a stranger meets TLS and no
// HTTP. The refusal is decided here and not by crypto/tls, so that it can be
// recorded with what the stranger showed.
func (s *Service) tlsConfig() *tls.Config {
	full := tlsprofile.Server(s.identity.get)
	full.ClientAuth = tls.RequestClientCert
	full.NextProtos = []string{"http/1.1"}
	profile := tlsprofile.PerClient(full)
	out := full.Clone()
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := profile(hello)
		if err != nil {
			return nil, err
		}
		c = c.Clone()
		c.VerifyConnection = func(state tls.ConnectionState) error {
			err := s.admit(state, hello.Conn.RemoteAddr().String())
			if g, ok := hello.Conn.(*gated); ok && err != nil {
				g.refused.Store(true)
			}
			return err
		}
		return c, nil
	}
	return out
}

// admit decides on a finished handshake.
func (s *Service) admit(state tls.ConnectionState, from string) error {
	who, err := s.access.Load().identify(state.PeerCertificates, time.Now())
	if err == nil {
		err = tlsprofile.CheckState(state)
	}
	if err != nil {
		s.log.Warn("handshake refused", "from", from, "caller", who.String(), "error", err)
		s.record.refused(who, from, err)
		return fmt.Errorf("client certificate: %w", err)
	}
	return nil
}

// serve answers one request: it finds out who asks for what, does it, records
// it, and answers.
func (s *Service) serve(w http.ResponseWriter, r *http.Request) {
	event := audit.Event{Action: printable(r.Method + " " + r.URL.Path), Detail: map[string]string{"from": r.RemoteAddr}}
	result, err := s.call(w, r, &event)
	var refusal *manage.Error
	if err != nil {
		refusal = refusalOf(err)
		event.Detail["code"] = refusal.Code
	}
	if event.Outcome = outcomeOf(refusal); event.Outcome == outcomeFailed {
		s.log.Error("call failed", "method", event.Action, "caller", event.Actor, "error", err)
	}
	s.record.ended(event)
	s.answer(w, result, refusal)
}

// call checks what must hold before a method's handler runs, in this order: who,
// how often, what, whether the role may, the box's state, how many at once, the
// argument, the record.
func (s *Service) call(w http.ResponseWriter, r *http.Request, event *audit.Event) (any, error) {
	who, err := s.access.Load().identify(r.TLS.PeerCertificates, time.Now())
	event.Actor = who.String()
	event.Detail["certificate"] = who.fingerprint
	if err != nil { // the configuration has changed since the handshake
		w.Header().Set("Connection", "close")
		return nil, refuse(manage.CodeDenied, "client certificate: "+err.Error(), "")
	}
	if !s.rates.take(who.fingerprint) {
		return nil, refuse(manage.CodeTooMany, "too many calls", "wait a few seconds")
	}
	m, value := find(s.table, r)
	switch {
	case m == nil:
		return nil, refuse(manage.CodeUnknownMethod, "there is no such method", "")
	case !m.allows(who.role):
		return nil, refuse(manage.CodeDenied, fmt.Sprintf("the role %s may not do this", who.role), "ask "+m.allowed())
	case r.Header.Get("Origin") != "":
		return nil, refuse(manage.CodeDenied, "a web page asks in its user's name", "use the operator's command")
	case s.opts.Boot.Locked != nil && !m.locked:
		return nil, refuse(manage.CodeLocked, "the box is locked: "+s.opts.Boot.Locked.English, "")
	case !s.running.enter(who.fingerprint):
		return nil, refuse(manage.CodeTooMany, "too many calls at once", "wait for the others")
	}
	defer s.running.leave(who.fingerprint)
	body, err := s.readBody(w, r, m)
	if err != nil {
		return nil, err
	}
	if m.act() {
		if !s.acting.TryLock() {
			return nil, refuse(manage.CodeTooMany, "another change is under way", "try again when it is done")
		}
		defer s.acting.Unlock()
		asked := *event
		asked.Outcome = outcomeAsked
		if err := s.record.write(asked); err != nil {
			return nil, refuse(manage.CodeAudit, "the act cannot be recorded and is not done", "look at the health of the box")
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), m.timeout)
	defer cancel()
	return s.protect(ctx, m, call{who, value, body, event.Detail})
}

// allows reports whether a role stands beside the method.
func (m *method) allows(role Role) bool {
	for _, r := range m.roles {
		if r == role {
			return true
		}
	}
	return false
}

// allowed names who may, for people.
func (m *method) allowed() string {
	var all []string
	for _, r := range m.roles {
		all = append(all, string(r))
	}
	return strings.Join(all, " or ")
}

// readBody reads the argument within its bounds. Afterwards the method's own
// time counts: else net/http would take the end of the read deadline for a
// caller that hung up.
func (s *Service) readBody(w http.ResponseWriter, r *http.Request, m *method) ([]byte, error) {
	limit, deadline := m.maxBody, smallBodyTimeout
	if limit > chainBody {
		deadline = largeBodyTimeout
		if !s.upload.TryLock() {
			return nil, refuse(manage.CodeTooMany, "another upload is under way", "try again when it is done")
		}
		defer s.upload.Unlock()
	}
	if limit > 0 && r.Header.Get("Content-Type") != "application/json" { // a web form cannot send this
		return nil, refuse(manage.CodeBadRequest, "the argument is not declared as application/json", "")
	}
	control := http.NewResponseController(w)
	if err := control.SetReadDeadline(time.Now().Add(deadline)); err != nil {
		return nil, err
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	switch over := (*http.MaxBytesError)(nil); {
	case errors.As(err, &over):
		return nil, tooLarge(limit)
	case err != nil:
		return nil, refuse(manage.CodeBadRequest, "the argument did not arrive in time or in full", "try again")
	}
	return body, control.SetReadDeadline(time.Time{})
}

func tooLarge(limit int64) error {
	if limit == 0 {
		return refuse(manage.CodeBadRequest, "the method takes no argument", "")
	}
	return refuse(manage.CodeTooLarge, fmt.Sprintf("the argument has more than %d bytes", limit), "")
}

// protect runs the handler and turns its panic into an error.
func (s *Service) protect(ctx context.Context, m *method, c call) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, fmt.Errorf("panic in %s: %v\n%s", m.name, p, debug.Stack())
		}
	}()
	return m.handle(ctx, c)
}

// answer writes the result or the refusal.
func (s *Service) answer(w http.ResponseWriter, result any, refusal *manage.Error) {
	status, content := http.StatusOK, result
	if refusal != nil {
		status, content = statusOf(refusal.Code), manage.Refusal{Error: refusal}
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	data, err := json.Marshal(content)
	if text, ok := content.(exposition); ok {
		h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		data, err = bytes.TrimSuffix([]byte(text), []byte("\n")), nil
	}
	if err != nil {
		s.log.Error("answer cannot be marshalled", "error", err)
		status, data = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","text":"internal fault; the box's log says more"}}`)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}
