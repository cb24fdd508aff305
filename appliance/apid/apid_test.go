package apid_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/hsmtest"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// TestStrangers: who has no role does not get past the handshake, and the
// record tells what they showed.
func TestStrangers(t *testing.T) {
	b := ready(t, apidtest.Options{})
	owner := b.Authorities[apid.Owner]
	issue := func(ca *hsmtest.CA, usage x509.ExtKeyUsage, change func(*x509.Certificate)) tls.Certificate {
		key := hsmtest.NewSoftKey(t)
		leaf := ca.Issue(t, key.Public(), usage, nil, func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "stranger"}
			if change != nil {
				change(c)
			}
		})
		return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	}
	self := func() tls.Certificate { // names the owner's authority as its issuer, and is not from it
		pretender := hsmtest.NewCA(t, "owner CA")
		return issue(pretender, x509.ExtKeyUsageClientAuth, nil)
	}
	tests := map[string]struct {
		certs []tls.Certificate
		why   string
	}{
		"no certificate":        {nil, "no client certificate"},
		"stranger's authority":  {[]tls.Certificate{apidtest.Client(t, b.Stranger, "stranger")}, "no role's authority"},
		"same name, other key":  {[]tls.Certificate{self()}, "no role's authority"},
		"server certificate":    {[]tls.Certificate{issue(owner, x509.ExtKeyUsageServerAuth, nil)}, "incompatible key usage"},
		"expired":               {[]tls.Certificate{issue(owner, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })}, "expired"},
		"not yet valid":         {[]tls.Certificate{issue(owner, x509.ExtKeyUsageClientAuth, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })}, "not yet valid"},
		"authority below owner": {[]tls.Certificate{issue(owner.Intermediate(t, "unsent"), x509.ExtKeyUsageClientAuth, nil)}, "no role's authority"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res, err := client(t, tt.certs...).Get("https://" + b.Address + "/v1/status")
			if err == nil {
				res.Body.Close()
				t.Fatalf("got in: %s", res.Status)
			}
			if !strings.Contains(err.Error(), "remote error: tls") {
				t.Errorf("the stranger is not told by an alert: %v", err)
			}
			all := entries(t, b)
			last := all[len(all)-1]
			if last.Action != "connect" || last.Outcome != "refused" || !strings.Contains(last.Detail["why"], tt.why) {
				t.Errorf("record: %+v, want why %q", last.Event, tt.why)
			}
		})
	}
}

// TestTwoRoles: an authority below another role's would have both roles, so it
// has none.
func TestTwoRoles(t *testing.T) {
	b := ready(t, apidtest.Options{})
	below := b.Authorities[apid.Owner].Intermediate(t, "hosting below owner")
	doc := *b.Document
	doc.Management.Roles = append([]config.RoleAuthority(nil), doc.Management.Roles...)
	for i := range doc.Management.Roles {
		if doc.Management.Roles[i].Name == string(apid.Hosting) {
			doc.Management.Roles[i].CA = string(hsmtest.PEM(below.Certificate))
		}
	}
	b.Document = &doc
	if err := b.Service.Reload(); err != nil {
		t.Fatal(err)
	}
	cert := apidtest.Client(t, below, "somebody") // with the intermediate in its chain
	if res, err := client(t, cert).Get("https://" + b.Address + "/v1/status"); err == nil {
		res.Body.Close()
		t.Fatalf("got in: %s", res.Status)
	}
	all := entries(t, b)
	if last := all[len(all)-1]; !strings.Contains(last.Detail["why"], "two roles") {
		t.Errorf("record: %+v", last.Event)
	}
}

// TestReload: a role that is taken away is gone at once, also on a connection
// that is open; a configuration that cannot be read changes nothing.
func TestReload(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Monitor))
	status := func() (int, string) {
		n, _, code := ask(t, c, "GET", "https://"+b.Address+"/v1/status", nil)
		return n, code
	}
	if n, _ := status(); n != http.StatusOK {
		t.Fatalf("before: %d", n)
	}
	before := b.Document
	b.Document = &config.Document{Management: config.Management{Roles: []config.RoleAuthority{{Name: "owner", CA: "no PEM"}}}}
	if err := b.Service.Reload(); err == nil {
		t.Error("a configuration without usable authorities was taken")
	}
	if n, _ := status(); n != http.StatusOK {
		t.Errorf("after a failed reload: %d", n)
	}
	doc := *before
	doc.Management.Roles = nil
	b.Document = &doc
	if err := b.Service.Reload(); err != nil {
		t.Fatal(err)
	}
	if n, code := status(); n != http.StatusForbidden || code != manage.CodeDenied {
		t.Errorf("without its role: %d %s", n, code)
	}
}

// TestPaths: only the exact name of a method is that method.
func TestPaths(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Owner))
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, tt := range []struct{ verb, path string }{
		{"GET", "/"}, {"GET", ""}, {"GET", "/v1/status/"}, {"GET", "//v1/status"}, {"GET", "/v1//status"},
		{"GET", "/v1/../v1/status"}, {"GET", "/v1/./status"}, {"GET", "/v1/%73tatus"}, {"GET", "/v1%2fstatus"},
		{"GET", "/V1/status"}, {"GET", "/v1/status?x=1"}, {"GET", "/v1/status?"}, {"GET", "/v1/status%00"}, {"GET", "/v1/status;x"},
		{"HEAD", "/v1/status"}, {"POST", "/v1/status"}, {"OPTIONS", "/v1/status"}, {"DELETE", "/v1/keys"}, {"TRACE", "/v1/status"},
		{"POST", "/v1/keys//csr"}, {"POST", "/v1/keys/../csr"}, {"POST", "/v1/keys/tenant-server%2fcsr"}, {"POST", "/v1/keys/Tenant/csr"},
		{"POST", "/v1/power/halt"}, {"POST", "/v1/power/"}, {"GET", "/v1/power/off"},
	} {
		r, err := http.NewRequest(tt.verb, "https://"+b.Address+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s %s: %s", tt.verb, tt.path, res.Status)
		}
	}
	if n, _, code := ask(t, c, "POST", "https://"+b.Address+"/v1/keys/data-volume/csr", []byte("{}")); n != http.StatusNotFound || code != "unknown-purpose" {
		t.Errorf("unknown purpose: %d %s", n, code)
	}
	if calls := b.Behind.Calls(); len(calls) > 0 {
		t.Errorf("something was done: %q", calls)
	}
}

// TestArguments: what is not the argument is refused before anything is asked.
func TestArguments(t *testing.T) {
	b := ready(t, apidtest.Options{})
	owner, hosting := client(t, b.Certificate(apid.Owner)), client(t, b.Certificate(apid.Hosting))
	large := []byte(`{"version":"` + strings.Repeat("1", 64<<10) + `"}`)
	for name, tt := range map[string]struct {
		c            *http.Client
		verb, path   string
		body         string
		header       []string
		status       int
		code, reason string
	}{
		"GET with body":     {owner, "GET", "/v1/status", "{}", nil, 400, manage.CodeBadRequest, "no argument"},
		"power with body":   {owner, "POST", "/v1/power/off", `{"now":true}`, nil, 400, manage.CodeBadRequest, "no argument"},
		"unknown field":     {hosting, "POST", "/v1/update/start", `{"versoin":"1"}`, nil, 400, manage.CodeBadRequest, "versoin"},
		"two values":        {hosting, "POST", "/v1/update/start", `{}{}`, nil, 400, manage.CodeBadRequest, "more than one"},
		"no JSON":           {hosting, "POST", "/v1/update/start", `version=1`, nil, 400, manage.CodeBadRequest, ""},
		"a form":            {hosting, "POST", "/v1/update/start", `{}`, []string{"Content-Type", "text/plain"}, 400, manage.CodeBadRequest, "application/json"},
		"a web page":        {hosting, "POST", "/v1/update/start", `{}`, []string{"Origin", "https://attacker.example"}, 403, manage.CodeDenied, "web page"},
		"too large":         {hosting, "POST", "/v1/update/start", string(large), nil, 413, manage.CodeTooLarge, ""},
		"YAML as config":    {owner, "POST", "/v1/config", "version: 1\n", nil, 400, manage.CodeBadRequest, "pforte config sign"},
		"subject, bad name": {owner, "POST", "/v1/keys/tenant-server/csr", `{"commonName":"x","dnsNames":["A_B"]}`, nil, 400, manage.CodeBadRequest, "DNS name"},
		"certificate, none": {owner, "POST", "/v1/keys/tenant-server/certificate", `{"pem":"x"}`, nil, 422, "bad-certificate", ""},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, code := ask(t, tt.c, tt.verb, "https://"+b.Address+tt.path, []byte(tt.body), tt.header...)
			if status != tt.status || code != tt.code || !strings.Contains(string(body), tt.reason) {
				t.Errorf("%d %s %s; want %d %s with %q", status, code, body, tt.status, tt.code, tt.reason)
			}
		})
	}
	if calls := b.Behind.Calls(); len(calls) > 0 {
		t.Errorf("something was done: %q", calls)
	}
}

// TestWhatServicesSay: refusals of the services behind apid keep code, text and
// remedy; a configuration's faults come all.
func TestWhatServicesSay(t *testing.T) {
	b := ready(t, apidtest.Options{})
	owner, hosting := client(t, b.Certificate(apid.Owner)), client(t, b.Certificate(apid.Hosting))
	url := "https://" + b.Address
	b.Behind.Set(func(s *apidtest.Behind) {
		s.Err = localapi.WithRemedy(errors.Join(control.ErrRefused, errors.New("outside the window")), "wait until Monday")
	})
	status, body, code := ask(t, hosting, "POST", url+"/v1/update/start", nil)
	if status != 409 || code != "update-refused" || !strings.Contains(string(body), "wait until Monday") {
		t.Errorf("refused update: %d %s %s", status, code, body)
	}
	b.Behind.Set(func(s *apidtest.Behind) {
		s.Err = nil
		s.Config = control.ConfigTaken{Faults: []config.Fault{{Line: 3, Path: "box", Text: "box is missing", Remedy: "name the box"}, {Line: 9, Text: "b"}}}
	})
	status, body, code = ask(t, owner, "POST", url+"/v1/config", []byte(`{"payload":""}`))
	var refusal manage.Refusal
	if err := json.Unmarshal(body, &refusal); err != nil || status != 422 || code != manage.CodeFaults || len(refusal.Error.Faults) != 2 || refusal.Error.Faults[0].Line != 3 {
		t.Errorf("faulty configuration: %d %s %s", status, code, body)
	}
	b.Behind.Set(func(s *apidtest.Behind) { s.Config = control.ConfigTaken{Serial: 8, Box: "x"} })
	if status, body, _ = ask(t, owner, "POST", url+"/v1/config", []byte(`{"payload":""}`)); status != 200 || !strings.Contains(string(body), `"serial":8`) {
		t.Errorf("configuration: %d %s", status, body)
	}
}

// TestKeys: request out, certificate in, and the next handshake shows it.
func TestKeys(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Owner))
	_, body, _ := ask(t, c, "POST", "https://"+b.Address+"/v1/keys/management-server/csr", nil)
	var request manage.Request
	if err := json.Unmarshal(body, &request); err != nil {
		t.Fatal(err)
	}
	csr := parseRequest(t, request.PEM)
	if csr.Subject.CommonName != apidtest.BoxName || len(csr.DNSNames) != 1 || len(csr.IPAddresses) != 1 {
		t.Errorf("a request without a subject asks for %v %v %v", csr.Subject, csr.DNSNames, csr.IPAddresses)
	}
	ca := hsmtest.NewCA(t, "somebody's CA")
	leaf := ca.Issue(t, csr.PublicKey, x509.ExtKeyUsageServerAuth, csr.DNSNames, nil)
	chain, err := json.Marshal(manage.Chain{PEM: string(ca.Chain(leaf))})
	if err != nil {
		t.Fatal(err)
	}
	if status, body, _ := ask(t, c, "POST", "https://"+b.Address+"/v1/keys/management-server/certificate", chain); status != 200 {
		t.Fatalf("install: %d %s", status, body)
	}
	if status, body, code := ask(t, c, "POST", "https://"+b.Address+"/v1/keys/tenant-server/certificate", chain); status != 422 || code != "certificate-mismatch" {
		t.Errorf("install for another key: %d %s", status, body)
	}
	conn, err := tls.Dial("tcp", b.Address, &tls.Config{RootCAs: ca.Pool(), ServerName: apidtest.BoxName, Certificates: []tls.Certificate{b.Certificate(apid.Monitor)}})
	if err != nil {
		t.Fatalf("with the installed certificate: %v", err)
	}
	conn.Close()
}

// TestSelfSigned: before the first certificate the key's fingerprint is what
// apid.ready said; keyd may come late.
func TestSelfSigned(t *testing.T) {
	b := apidtest.New(t, apidtest.Options{KeylessStart: true})
	if _, err := client(t, b.Certificate(apid.Owner)).Get("https://" + b.Address + "/v1/status"); err == nil {
		t.Error("answered without a key")
	}
	s, err := local(t, b)
	if err != nil || !silent(s, "keyd") {
		t.Errorf("local status without keyd: %+v, %v", s, err)
	}
	b.StartKeyd()
	mark := b.Marks.Next()
	if mark.Name != "apid.ready" || mark.Fields["address"] != b.Address {
		t.Errorf("mark %+v", mark)
	}
	conn, err := tls.Dial("tcp", b.Address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{b.Certificate(apid.Owner)}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	shown, err := hsm.Fingerprint(conn.ConnectionState().PeerCertificates[0].PublicKey)
	if err != nil || shown != mark.Fields["key"] {
		t.Errorf("shown %s (%v), marked %s", shown, err, mark.Fields["key"])
	}
}

// TestLocalSocket: the console and root may ask for the status there, and nobody
// for anything else.
func TestLocalSocket(t *testing.T) {
	for uid, may := range map[uint32]bool{layout.UIDConsole: true, 0: true, layout.UIDRelayd: false, layout.UIDNetd: false, 1000: false} {
		b := ready(t, apidtest.Options{LocalPeer: &localapi.Peer{UID: uid, GID: layout.UIDConsole}})
		if _, err := local(t, b); may != (err == nil) || !may && !errors.Is(err, localapi.ErrDenied) {
			t.Errorf("uid %d: %v, allowed: %v", uid, err, may)
		}
		for _, method := range []string{manage.MethodReboot, manage.MethodConfig, manage.MethodKeys} {
			if err := localapi.Dial(b.LocalSocket).Call(t.Context(), method, nil, nil); !errors.Is(err, localapi.ErrUnknownMethod) {
				t.Errorf("uid %d, %s: %v", uid, method, err)
			}
		}
	}
}

// TestUnconfigured: without a configuration the console still gets an answer.
func TestUnconfigured(t *testing.T) {
	b := ready(t, apidtest.Options{Unconfigured: true})
	s, err := local(t, b)
	if err != nil || s.Box != "" || len(s.Addresses) > 0 || len(s.Keys) == 0 {
		t.Fatalf("status %+v, %v", s, err)
	}
	if len(s.Health) == 0 || s.Health[0].Code != "config.none" {
		t.Errorf("health %+v", s.Health)
	}
}

// TestSilentService: one that hangs costs its part of the status, not the status.
func TestSilentService(t *testing.T) {
	b := ready(t, apidtest.Options{})
	b.Behind.Set(func(s *apidtest.Behind) { s.Hang = true })
	s, err := local(t, b)
	if err != nil || !silent(s, "updated") || s.Update != nil || len(s.Keys) == 0 || s.Mail == nil {
		t.Errorf("status %+v, %v", s, err)
	}
	status, body, _ := ask(t, client(t, b.Certificate(apid.Monitor)), "GET", "https://"+b.Address+"/v1/health", nil)
	var h manage.Health
	if err := json.Unmarshal(body, &h); err != nil || status != 200 || h.Healthy {
		t.Errorf("health %d %s", status, body)
	}
}

func local(t *testing.T, b *apidtest.Box) (s manage.Status, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = localapi.Dial(b.LocalSocket).Call(ctx, manage.MethodStatus, nil, &s)
	return s, err
}

func silent(s manage.Status, service string) bool {
	for _, f := range s.Silent {
		if f.Service == service {
			return true
		}
	}
	return false
}
