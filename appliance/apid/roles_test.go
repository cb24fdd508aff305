package apid_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func readAll(t *testing.T, dir string) []byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return all
}

// permission is written here a second time on purpose: a change of the table in
// the code must be meant.
type permission struct {
	method string
	value  string // for the braces
	body   string
	roles  []apid.Role
	locked bool
}

func permissions() []permission {
	all := []apid.Role{apid.Owner, apid.Hosting, apid.Monitor}
	return []permission{
		{manage.MethodStatus, "", "", all, true},
		{manage.MethodHealth, "", "", all, true},
		{manage.MethodKeys, "", "", all, false},
		{manage.MethodCSR, "tenant-server", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodCertificate, "tenant-server", `{"pem":""}`, []apid.Role{apid.Owner}, false},
		{manage.MethodConfig, "", `{"payload":""}`, []apid.Role{apid.Owner}, false},
		{manage.MethodReleases, "", "", all, false},
		{manage.MethodUpdate, "", "{}", []apid.Role{apid.Hosting}, false},
		{manage.MethodPowerOff, "", "", []apid.Role{apid.Owner, apid.Hosting}, false},
		{manage.MethodReboot, "", "", []apid.Role{apid.Owner, apid.Hosting}, false},
		{manage.MethodQueue, "", "", []apid.Role{apid.Owner, apid.Monitor}, false},
		{manage.MethodQueueList, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodQueueShow, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodQueueHold, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodQueueRelease, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodQueueRetry, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodQueueBounce, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodMailTrace, "", "{}", []apid.Role{apid.Owner}, false},
		{manage.MethodMetrics, "", "", []apid.Role{apid.Owner, apid.Monitor}, false},
		{manage.MethodAuditHead, "", "", all, false},
	}
}

func (p permission) call(t *testing.T, c *http.Client, address string) (int, string) {
	t.Helper()
	verb, path, _ := strings.Cut(strings.Replace(p.method, "{purpose}", p.value, 1), " ")
	var body []byte
	if p.body != "" {
		body = []byte(p.body)
	}
	status, _, code := ask(t, c, verb, "https://"+address+path, body)
	return status, code
}

// TestEveryMethodByEveryRole: a role that does not stand beside a method is
// refused, nothing behind apid hears of it, and the record has it.
func TestEveryMethodByEveryRole(t *testing.T) {
	b := ready(t, apidtest.Options{})
	denied := 0
	for _, role := range roles() {
		c := client(t, b.Certificate(role))
		for _, p := range permissions() {
			before := len(b.Behind.Calls())
			status, code := p.call(t, c, b.Address)
			may := slices.Contains(p.roles, role)
			if refused := status == http.StatusForbidden && code == manage.CodeDenied; refused == may {
				t.Errorf("%s as %s: %d %s; allowed: %v", p.method, role, status, code, may)
			}
			if !may {
				denied++
				if n := len(b.Behind.Calls()); n != before {
					t.Errorf("%s as %s was refused, yet a service was asked to act", p.method, role)
				}
			}
		}
	}
	found := 0
	for _, e := range entries(t, b) {
		if e.Outcome == "refused" && e.Detail["code"] == manage.CodeDenied {
			found++
			if e.Detail["certificate"] == "" || !strings.Contains(e.Actor, "/A ") {
				t.Errorf("a refused call is recorded without who it was: %+v", e)
			}
		}
	}
	if found != denied {
		t.Errorf("%d calls were refused, the record has %d", denied, found)
	}
}

// TestOnlyHostingStarts is the fourth promise's third party, by name.
func TestOnlyHostingStarts(t *testing.T) {
	b := ready(t, apidtest.Options{})
	for _, role := range roles() {
		ask(t, client(t, b.Certificate(role)), "POST", "https://"+b.Address+"/v1/update/start", []byte(`{"version":"0.2.0"}`))
	}
	want := []string{"update 0.2.0 hosting/A hosting person"}
	if got := b.Behind.Calls(); !slices.Equal(got, want) {
		t.Errorf("updated was asked %q, want %q", got, want)
	}
}

// TestLocked: a locked box tells its state and refuses the rest with the reason.
func TestLocked(t *testing.T) {
	b := ready(t, apidtest.Options{Locked: true})
	c := client(t, b.Certificate(apid.Owner))
	for _, p := range permissions() {
		if !slices.Contains(p.roles, apid.Owner) {
			continue
		}
		status, code := p.call(t, c, b.Address)
		if p.locked != (status == http.StatusOK) || !p.locked && (status != http.StatusLocked || code != manage.CodeLocked) {
			t.Errorf("%s on a locked box: %d %s", p.method, status, code)
		}
	}
	if calls := b.Behind.Calls(); len(calls) > 0 {
		t.Errorf("a locked box acted: %q", calls)
	}
}
