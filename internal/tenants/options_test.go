package tenants

import (
	"os"
	"slices"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// complete is the snapshot of the example that has every field.
func complete(t *testing.T) *Snapshot {
	t.Helper()
	data, err := os.ReadFile("../config/testdata/complete.yaml")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := config.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func address(t *testing.T, s string) demail.Address {
	t.Helper()
	a, err := demail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEveryField(t *testing.T) {
	s := complete(t)
	if s.GiveUp != 48*time.Hour || !slices.Equal(s.Delay, []time.Duration{time.Hour, 3 * time.Hour}) || !s.Logins() {
		t.Errorf("times %v, %v, logins %v", s.Delay, s.GiveUp, s.Logins())
	}
	b := s.Tenant("gemeinde-b")
	if b.Integrity != Refuse || b.KeepReceived || b.Rates != (Rates{20, 600, 3000}) {
		t.Errorf("%+v", b)
	}
	if len(b.Keywords) != 1 || b.Keywords[0] != (Keyword{"[Einschreiben]", demail.Options{ConfirmReceipt: true, Private: true}}) {
		t.Errorf("keywords %+v", b.Keywords)
	}
	in := b.Inbound.Servers
	if len(in) != 3 || in[0].Order != 10 || in[0].Weight != 60 || len(in[1].Names) != 1 || !in[2].Fallback || in[2].Fingerprint == "" || b.Inbound.Roots == nil {
		t.Errorf("servers %+v", in)
	}
	for text, want := range map[string]bool{
		"poststelle@gemeinde-b.de-mail.example":           true,
		"meldeamt@gemeinde-b.de-mail.example":             true, // of the table
		"wer.auch.immer@werke.gemeinde-b.de-mail.example": true, // by rule
		"intern@werke.gemeinde-b.de-mail.example":         false,
		"nobody@gemeinde-b.de-mail.example":               false,
		"amt@gemeinde-a.de-mail.example":                  false,
	} {
		if _, got := b.Owns(address(t, text)); got != want {
			t.Errorf("Owns(%s) = %v", text, got)
		}
	}
	if a, ok := b.Table.DeMail("Standesamt@gemeinde-b.example"); !ok || a.String() != "meldeamt@gemeinde-b.de-mail.example" {
		t.Errorf("standesamt sends as %s", a)
	}
}

func TestNoNotices(t *testing.T) {
	ca := newAuthority(t, "ca")
	doc := document(ca, ca, ca)
	doc.Relay = config.Relay{DelayNotices: []config.Duration{0}, GiveUp: config.Duration(time.Hour)}
	doc.Tenants[0].Integrity, doc.Tenants[1].Integrity = "mark", "quarantine"
	doc.Tenants[0].Inbound = config.Inbound{Servers: []config.Server{{Host: "10.0.0.1", Fingerprint: "00"}}}
	doc.Provider.SignatureAuthorities = []config.SignatureAuthority{{Name: "other", CA: ca.pem(), CRL: []string{"http://10.0.0.9/"}}}
	s, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Delay) != 0 || s.GiveUp != time.Hour {
		t.Errorf("%v, %v", s.Delay, s.GiveUp)
	}
	if s.Tenant("gemeinde-a").Integrity != Mark || s.Tenant("gemeinde-b").Integrity != Quarantine {
		t.Error("policies are lost")
	}
	if in := s.Tenant("gemeinde-a").Inbound; len(in.Servers) != 1 || in.Roots != nil {
		t.Errorf("pinned server: %+v", in)
	}
	if list := s.Provider.SignatureAuthorities; len(list) != 1 || len(list[0].Authorities) != 1 || len(list[0].CRL) != 1 {
		t.Errorf("signature authorities: %+v", list)
	}
}

func TestDefaultOptions(t *testing.T) {
	ca := newAuthority(t, "ca")
	doc := document(ca, ca, ca)
	doc.Tenants[0].Options = []config.DispatchDefault{
		{Sender: "*", Ask: []string{config.AskDispatch}},
		{Sender: "*@gemeinde-a.de-mail.example", Ask: []string{config.AskPrivate}},
		{Sender: "*@gemeinde-a.example", Ask: []string{config.AskReceipt}},
		{Sender: "amt@gemeinde-a.de-mail.example", Ask: []string{config.AskAuthoritative}},
		{Sender: "amt@gemeinde-a.example", Ask: []string{config.AskPrivate, config.AskRetrieve}},
		{Sender: "still@gemeinde-a.example"},
	}
	s, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		mail, sender string
		want         demail.Options
	}{
		{"Amt@gemeinde-a.example", "amt@gemeinde-a.de-mail.example", demail.Options{Private: true, ConfirmRetrieve: true}},
		{"", "amt@gemeinde-a.de-mail.example", demail.Options{Authoritative: true}},
		{"vertretung@gemeinde-a.example", "amt@gemeinde-a.de-mail.example", demail.Options{Authoritative: true}},
		{"x@gemeinde-a.example", "x@gemeinde-a.de-mail.example", demail.Options{ConfirmReceipt: true}},
		{"", "x@gemeinde-a.de-mail.example", demail.Options{Private: true}},
		{"x@elsewhere.example", "x@in.gemeinde-a.de-mail.example", demail.Options{ConfirmDispatch: true}},
		{"still@gemeinde-a.example", "amt@gemeinde-a.de-mail.example", demail.Options{}},
	} {
		if got := s.Tenant("gemeinde-a").DefaultOptions(address(t, test.sender), test.mail); got != test.want {
			t.Errorf("%q %s: %+v, want %+v", test.mail, test.sender, got, test.want)
		}
	}
	if got := s.Tenant("gemeinde-b").DefaultOptions(address(t, "amt@gemeinde-b.de-mail.example"), ""); got != (demail.Options{}) {
		t.Errorf("without defaults: %+v", got)
	}
}

func TestMaySend(t *testing.T) {
	a, other := address(t, "amt@gemeinde-a.de-mail.example"), address(t, "x@gemeinde-a.de-mail.example")
	for _, test := range []struct {
		senders     []string
		application bool
		mail        string
		as          demail.Address
		want        bool
	}{
		{nil, false, "amt@gemeinde-a.example", a, true},
		{[]string{"amt@gemeinde-a.example"}, true, "AMT@gemeinde-a.example", a, true},
		{[]string{"amt@gemeinde-a.example"}, true, "", a, false},
		{[]string{"amt@gemeinde-a.example"}, true, "vertretung@gemeinde-a.example", a, false},
		{[]string{"amt@gemeinde-a.de-mail.example"}, true, "vertretung@gemeinde-a.example", a, true},
		{[]string{"amt@gemeinde-a.de-mail.example"}, true, "", other, false},
		{[]string{"*@gemeinde-a.example"}, false, "vertretung@gemeinde-a.example", a, true},
		{[]string{"*@gemeinde-a.example"}, false, "x@sub.gemeinde-a.example", a, false},
		{[]string{"*@gemeinde-a.de-mail.example"}, true, "", other, true},
	} {
		ca := newAuthority(t, "ca")
		doc := document(ca, ca, ca)
		doc.Tenants[0].Clients[0].Senders, doc.Tenants[0].Clients[0].Application = test.senders, test.application
		s, err := New(doc)
		if err != nil {
			t.Fatal(err)
		}
		sys := s.names["mail.gemeinde-a.example"][0]
		if sys.Application != test.application || sys.Class != "normal" {
			t.Errorf("%+v", sys)
		}
		if got := sys.MaySend(test.mail, test.as); got != test.want {
			t.Errorf("%q: %q as %s: %v", test.senders, test.mail, test.as, got)
		}
	}
}
