package apid

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// TestTable: no method without roles and bounds, none twice; what changes
// something is a POST.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range (&Service{}).methods() {
		verb, path, _ := strings.Cut(m.name, " ")
		switch {
		case seen[m.name]:
			t.Errorf("%s stands twice", m.name)
		case len(m.roles) == 0:
			t.Errorf("%s: nobody may", m.name)
		case m.timeout <= 0 || m.maxBody < 0 || m.handle == nil:
			t.Errorf("%s: no bounds or no handler", m.name)
		case verb == http.MethodGet && (m.maxBody > 0 || m.act()):
			t.Errorf("%s: a GET takes no argument and changes nothing", m.name)
		case verb != http.MethodGet && verb != http.MethodPost || !strings.HasPrefix(path, "/v1/") && path != "/metrics":
			t.Errorf("%s: no name of a method", m.name)
		}
		seen[m.name] = true
	}
	if (&method{}).allows("") || (&method{roles: []Role{Owner}}).allows("") {
		t.Error("a caller without a role may")
	}
}

// FuzzFind: whatever is asked, a method is found only under its exact name.
func FuzzFind(f *testing.F) {
	table := (&Service{}).methods()
	for _, seed := range []string{"/v1/status", "/v1/keys/tenant-server/csr", "/v1/%73tatus", "//v1/status", "/v1/status?x", "/v1/keys//csr", "/v1/status/../config"} {
		f.Add("GET", seed)
		f.Add("POST", seed)
	}
	f.Fuzz(func(t *testing.T, verb, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		r := &http.Request{Method: verb, URL: u}
		m, value := find(table, r)
		if m == nil {
			return
		}
		if want := strings.Replace(m.name, "{purpose}", value, 1); want != verb+" "+target {
			t.Errorf("%q %q is taken for %q", verb, target, want)
		}
	})
}

// TestStatusOf: each code that a service behind apid knows keeps its status.
func TestStatusOf(t *testing.T) {
	for code, want := range map[string]int{
		manage.CodeLocked: 423, manage.CodeTooMany: 429, "signature": 403, "update-refused": 409, "repository": 502,
		"no-certificate": 404, "certificate-mismatch": 422, "failed": 500, "anything": 422,
	} {
		if got := statusOf(code); got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
}

// TestRatesAreBounded: strangers with ever new names do not fill the memory, and
// do not take the place of who is busy.
func TestRatesAreBounded(t *testing.T) {
	r := newRates(rate.Limit(0.001), 2)
	for i := range 2 * maxTracked {
		r.take(string(rune('a'+i%26)) + strings.Repeat("x", i/26))
	}
	if len(r.all) > maxTracked {
		t.Errorf("%d names are remembered", len(r.all))
	}
	if r.take("one more") {
		t.Error("the crowd's bucket has no bottom")
	}
}

func TestRatesForgetTheIdle(t *testing.T) {
	r := newRates(rate.Inf, 1)
	for i := range 2 * maxTracked {
		if !r.take(strings.Repeat("x", i)) {
			t.Fatalf("name %d is refused", i)
		}
	}
	if len(r.all) > maxTracked {
		t.Errorf("%d names are remembered", len(r.all))
	}
}

// TestPanic: a panicking handler costs one call and tells nobody its inside.
func TestPanic(t *testing.T) {
	s := &Service{}
	_, err := s.protect(t.Context(), &method{name: "POST /x", handle: nil}, call{})
	refusal := refusalOf(err)
	if refusal.Code != manage.CodeInternal || strings.Contains(refusal.Text, "nil pointer") {
		t.Errorf("%+v", refusal)
	}
	w := httptest.NewRecorder()
	s.answer(w, nil, refusal)
	if w.Code != http.StatusInternalServerError {
		t.Errorf("status %d", w.Code)
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aüü", 2, "a…"}, {"", 0, ""}} {
		if got := cut(tt.in, tt.n); got != tt.want {
			t.Errorf("cut(%q, %d) = %q, want %q", tt.in, tt.n, got, tt.want)
		}
	}
}

// connections is a listener that hands out connections without a network.
type connections struct{ net.Listener }

func (connections) Accept() (net.Conn, error) {
	near, far := net.Pipe()
	return near, far.Close()
}

// TestGateGivesPlacesBack: a closed connection makes room, once.
func TestGateGivesPlacesBack(t *testing.T) {
	g := &gate{connections{}, newCounts(2, 2), newRates(rate.Inf, 1)}
	for range 5 {
		first, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		second, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if g.open.total != 2 || g.open.enter("pipe") {
			t.Fatalf("%d connections open, and there is room", g.open.total)
		}
		for _, c := range []net.Conn{first, first, second} {
			c.Close()
		}
		if g.open.total != 0 || len(g.open.names) != 0 {
			t.Fatalf("%d places are lost", g.open.total)
		}
	}
}
