package apid_test

import (
	"net/http"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/apid/apidtest"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// TestMetrics: a monitor's scraper gets the relay's metrics and the box's health as
// text in one answer.
func TestMetrics(t *testing.T) {
	b := ready(t, apidtest.Options{})
	b.Behind.Set(func(b *apidtest.Behind) {
		b.Mail.Conditions = []manage.Condition{{Code: "relay.age", Severity: "warning", English: "old", German: "alt"}}
	})
	status, text, _ := ask(t, client(t, b.Certificate(apid.Monitor)), "GET", "https://"+b.Address+"/metrics", nil)
	if status != http.StatusOK {
		t.Fatalf("%d: %s", status, text)
	}
	for _, want := range []string{"pforte_relay_up 1\n", "pforte_mail_total 7\n", `pforte_health_condition{code="relay.age",severity="warning"} 1` + "\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("not there: %s in\n%s", want, text)
		}
	}
}

// TestActsOnMailAreRecorded: the record says to which messages, why, and how many
// were changed.
func TestActsOnMailAreRecorded(t *testing.T) {
	b := ready(t, apidtest.Options{})
	c := client(t, b.Certificate(apid.Owner))
	for _, body := range []string{`{"ids":["01K00000000000000000000001"],"reason":"key lost"}`, `{"match":{"tenant":"gemeinde-a"},"reason":"key lost"}`} {
		if status, text, _ := ask(t, c, "POST", "https://"+b.Address+"/v1/queue/hold", []byte(body)); status != http.StatusOK {
			t.Fatalf("%d: %s", status, text)
		}
	}
	var said []string
	for _, e := range entries(t, b) {
		if e.Action == manage.MethodQueueHold && e.Outcome == "done" && e.Detail["reason"] == "key lost" && e.Detail["changed"] == "1" {
			said = append(said, e.Detail["messages"]+e.Detail["match"])
		}
	}
	if len(said) != 2 || !strings.Contains(said[0], "01K00000000000000000000001") || !strings.Contains(said[1], "gemeinde-a") {
		t.Errorf("the record says %q", said)
	}
	if status, _, code := ask(t, c, "POST", "https://"+b.Address+"/v1/queue/hold", []byte(`{"all":true}`)); status != http.StatusBadRequest || code != manage.CodeBadRequest {
		t.Errorf("an unknown word is taken: %d %s", status, code)
	}
}
