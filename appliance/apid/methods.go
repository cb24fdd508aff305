package apid

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// Times that calls may take. Updates look into both repositories first.
const (
	quickTimeout  = 10 * time.Second
	keyCallLimit  = 30 * time.Second
	configTimeout = 60 * time.Second
	updateTimeout = 90 * time.Second
	queueTimeout  = 60 * time.Second // lists and acts may look at the whole queue
)

// call is one call after everything was checked that does not need to know what
// it means.
type call struct {
	caller caller
	value  string // of the segment in braces
	body   []byte
	detail map[string]string // of the record's last entry about this call
}

// method is one thing that operators can ask for. What no role stands beside,
// nobody may.
type method struct {
	name    string // a constant of package manage
	roles   []Role // who may
	locked  bool   // answered on a locked box, too
	maxBody int64  // bytes; 0: takes no argument
	timeout time.Duration
	handle  func(ctx context.Context, c call) (any, error)
}

// act reports whether the method changes something.
func (m *method) act() bool { return strings.HasPrefix(m.name, http.MethodPost+" ") }

// methods is the whole API with its permissions.
func (s *Service) methods() []method {
	return []method{
		{name: manage.MethodStatus, roles: []Role{Owner, Hosting, Monitor}, locked: true, timeout: quickTimeout, handle: s.handleStatus},
		{name: manage.MethodHealth, roles: []Role{Owner, Hosting, Monitor}, locked: true, timeout: quickTimeout, handle: s.handleHealth},
		{name: manage.MethodKeys, roles: []Role{Owner, Hosting, Monitor}, timeout: quickTimeout, handle: s.handleKeys},
		{name: manage.MethodCSR, roles: []Role{Owner}, maxBody: smallBody, timeout: keyCallLimit, handle: s.handleCSR},
		{name: manage.MethodCertificate, roles: []Role{Owner}, maxBody: chainBody, timeout: keyCallLimit, handle: s.handleCertificate},
		{name: manage.MethodConfig, roles: []Role{Owner}, maxBody: maxEnvelope, timeout: configTimeout, handle: s.handleConfig},
		{name: manage.MethodReleases, roles: []Role{Owner, Hosting, Monitor}, timeout: updateTimeout, handle: s.handleReleases},
		// The third party of the fourth promise: the vendor released, the owner
		// allowed, and only hosting starts.
		{name: manage.MethodUpdate, roles: []Role{Hosting}, maxBody: smallBody, timeout: updateTimeout, handle: s.handleUpdate},
		{name: manage.MethodPowerOff, roles: []Role{Owner, Hosting}, timeout: quickTimeout, handle: s.handlePower("off")},
		{name: manage.MethodReboot, roles: []Role{Owner, Hosting}, timeout: quickTimeout, handle: s.handlePower("reboot")},
		{name: manage.MethodQueue, roles: []Role{Owner, Monitor}, timeout: quickTimeout, handle: s.handleQueue},
		{name: manage.MethodQueueList, roles: []Role{Owner}, maxBody: smallBody, timeout: queueTimeout, handle: pass[manage.QueueFilter, manage.QueuePage](s, manage.MethodQueueList)},
		{name: manage.MethodQueueShow, roles: []Role{Owner}, maxBody: smallBody, timeout: quickTimeout, handle: pass[manage.QueueID, manage.QueueDetail](s, manage.MethodQueueShow)},
		{name: manage.MethodQueueHold, roles: []Role{Owner}, maxBody: idsBody, timeout: queueTimeout, handle: s.handleQueueAct(manage.MethodQueueHold)},
		{name: manage.MethodQueueRelease, roles: []Role{Owner}, maxBody: idsBody, timeout: queueTimeout, handle: s.handleQueueAct(manage.MethodQueueRelease)},
		{name: manage.MethodQueueRetry, roles: []Role{Owner}, maxBody: idsBody, timeout: queueTimeout, handle: s.handleQueueAct(manage.MethodQueueRetry)},
		{name: manage.MethodQueueBounce, roles: []Role{Owner}, maxBody: idsBody, timeout: queueTimeout, handle: s.handleQueueAct(manage.MethodQueueBounce)},
		{name: manage.MethodMailTrace, roles: []Role{Owner}, maxBody: smallBody, timeout: queueTimeout, handle: pass[manage.MailTraceQuery, manage.MailTraces](s, manage.MethodMailTrace)},
		{name: manage.MethodMetrics, roles: []Role{Owner, Monitor}, timeout: quickTimeout, handle: s.handleMetrics},
		{name: manage.MethodAuditHead, roles: []Role{Owner, Hosting, Monitor}, timeout: quickTimeout, handle: s.handleAuditHead},
	}
}

// maxEnvelope bounds a configuration: base64 of the largest document, with room
// for its signatures.
const maxEnvelope = config.MaxSize/3*4 + 64<<10

// find gives the method that a request names and the value in its braces. Paths
// are compared as they came: what is escaped, doubled or has dots names nothing.
func find(all []method, r *http.Request) (m *method, value string) {
	path := r.URL.EscapedPath()
	if r.URL.RawQuery != "" || r.URL.ForceQuery || r.URL.Host != "" {
		return nil, ""
	}
	for i := range all {
		if value, ok := match(all[i].name, r.Method+" "+path); ok {
			return &all[i], value
		}
	}
	return nil, ""
}

// match compares a call with a method's name. The value of a segment in braces
// is lower-case letters and hyphens, as all our words are.
func match(name, asked string) (value string, ok bool) {
	want, have := strings.Split(name, "/"), strings.Split(asked, "/")
	if len(want) != len(have) {
		return "", false
	}
	for i := range want {
		switch {
		case strings.HasPrefix(want[i], "{"):
			if have[i] == "" || strings.Trim(have[i], "abcdefghijklmnopqrstuvwxyz-") != "" {
				return "", false
			}
			value = have[i]
		case want[i] != have[i]:
			return "", false
		}
	}
	return value, true
}

func (s *Service) handleStatus(ctx context.Context, _ call) (any, error) {
	return s.status(ctx), nil
}

func (s *Service) handleHealth(ctx context.Context, _ call) (any, error) {
	status := s.status(ctx)
	h := manage.Health{Healthy: true, Conditions: status.Health}
	if status.Locked != nil {
		h.Conditions = append(h.Conditions, manage.Condition{Code: "locked." + status.Locked.Code, Severity: "fault",
			English: status.Locked.English, German: status.Locked.German})
	}
	for _, f := range status.Silent {
		h.Conditions = append(h.Conditions, manage.Condition{Code: "silent." + f.Service, Severity: "fault",
			English: f.Service + " does not answer", German: f.Service + " antwortet nicht", Remedy: "wait a minute; if it stays so, restart the box"})
	}
	for _, c := range h.Conditions {
		h.Healthy = h.Healthy && c.Severity != "fault"
	}
	return h, nil
}

func (s *Service) handleKeys(ctx context.Context, _ call) (any, error) {
	list, err := s.services.keys.List(ctx)
	return manage.Keys{Keys: keysOf(list)}, err
}

func (s *Service) handleCSR(ctx context.Context, c call) (any, error) {
	purpose, err := purposeOf(c.value)
	if err != nil {
		return nil, err
	}
	var subject manage.Subject
	if err := decode(c.body, &subject); err != nil {
		return nil, err
	}
	if subject.CommonName == "" && len(subject.DNSNames) == 0 && len(subject.Addresses) == 0 {
		subject = s.ownSubject(purpose)
	}
	pem, err := s.services.keys.CSR(ctx, purpose, keyclient.Subject(subject))
	return manage.Request{PEM: string(pem)}, err
}

// ownSubject is the box's own name; the management API also has its addresses,
// because a box without an entry in the DNS is reached by them.
func (s *Service) ownSubject(p hsm.Purpose) manage.Subject {
	n := s.names()
	subject := manage.Subject{CommonName: n.common, DNSNames: n.dns}
	if p == hsm.ManagementServer {
		subject.Addresses = n.addresses
	}
	return subject
}

func (s *Service) handleCertificate(ctx context.Context, c call) (any, error) {
	purpose, err := purposeOf(c.value)
	if err != nil {
		return nil, err
	}
	var chain manage.Chain
	if err := decode(c.body, &chain); err != nil {
		return nil, err
	}
	key, err := s.services.keys.Install(ctx, purpose, []byte(chain.PEM))
	return keyOf(key), err
}

func purposeOf(value string) (hsm.Purpose, error) {
	if p := hsm.Purpose(value); p.Valid() {
		return p, nil
	}
	return "", refuse("unknown-purpose", fmt.Sprintf("there is no key %q", value), fmt.Sprintf("choose one of %s", purposes()))
}

func purposes() string {
	var all []string
	for _, p := range hsm.Purposes() {
		all = append(all, string(p))
	}
	return strings.Join(all, ", ")
}

func (s *Service) handleConfig(ctx context.Context, c call) (any, error) {
	if !config.IsEnvelope(c.body) {
		return nil, refuse(manage.CodeBadRequest, "this is no signed configuration", "sign it with: pforte config sign")
	}
	var taken control.ConfigTaken
	in := control.ConfigPut{Envelope: c.body, Actor: c.caller.String()}
	if err := s.services.updated.Call(ctx, control.MethodConfig, in, &taken); err != nil {
		return nil, err
	}
	if n := len(taken.Faults); n > 0 {
		count := "one fault"
		if n > 1 {
			count = fmt.Sprintf("%d faults", n)
		}
		const remedy = "correct the document and sign it again"
		return nil, &manage.Error{Code: manage.CodeFaults, Faults: faultsOf(taken.Faults), Remedy: remedy,
			Text: "the configuration has " + count + ", and the box keeps what it has; " + remedy}
	}
	c.detail["serial"] = fmt.Sprint(taken.Serial)
	return manage.ConfigTaken{Serial: taken.Serial, Box: taken.Box}, nil
}

func (s *Service) handleReleases(ctx context.Context, _ call) (any, error) {
	var r control.Releases
	err := s.services.updated.Call(ctx, control.MethodList, nil, &r)
	return releasesOf(r), err
}

func (s *Service) handleUpdate(ctx context.Context, c call) (any, error) {
	var start manage.UpdateStart
	if err := decode(c.body, &start); err != nil {
		return nil, err
	}
	c.detail["asked"] = start.Version
	var accepted control.Accepted
	in := control.UpdateStart{Version: start.Version, Actor: c.caller.String()}
	err := s.services.updated.Call(ctx, control.MethodUpdate, in, &accepted)
	if err != nil {
		return nil, err
	}
	c.detail["release"] = accepted.Version
	return manage.UpdateStarted(accepted), nil
}

func (s *Service) handlePower(do string) func(context.Context, call) (any, error) {
	return func(ctx context.Context, c call) (any, error) {
		err := s.services.updated.Call(ctx, control.MethodPower, control.Power{Do: do, Actor: c.caller.String()}, nil)
		return manage.Done{}, err
	}
}

func (s *Service) handleQueue(ctx context.Context, _ call) (any, error) {
	var q manage.Queue
	err := s.services.relayd.Call(ctx, methodQueue, nil, &q)
	return q, err
}

func (s *Service) handleAuditHead(context.Context, call) (any, error) { return s.record.head() }

// decode reads an argument strictly: unknown fields or anything behind the value
// are refused.
func decode(body []byte, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		return refuse(manage.CodeBadRequest, "the argument is not what the method takes: "+err.Error(), "")
	}
	return nil
}
