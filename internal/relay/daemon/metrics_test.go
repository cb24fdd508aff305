package daemon

import (
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestMetrics: what a scraper reads after one letter out, by its own parser; and
// that it names no address.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.greeted(w.clientA).send("<"+mailA+">", letterA("geheim"), "250", "<"+citizen+">")
	r.marks.await(t, "relayd.delivered", 1)
	m, err := r.d.metrics()
	if err != nil {
		t.Fatal(err)
	}
	for _, never := range []string{mailA, citizen, "geheim"} {
		if strings.Contains(m.Text, never) {
			t.Errorf("metrics name %s", never)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(m.Text))
	if err != nil {
		t.Fatalf("a scraper refuses this: %v\n%s", err, m.Text)
	}
	for _, want := range []string{
		`pforte_mail_total{direction="out",event="accepted",tenant="gemeinde-a"} 1`,
		`pforte_mail_total{direction="out",event="delivered",tenant="gemeinde-a"} 1`,
		`pforte_smtp_connections{side="tenant"} 1`,
		`pforte_queue_commits_total 1`,
	} {
		if !strings.Contains(m.Text, want+"\n") {
			t.Errorf("not there: %s", want)
		}
	}
	for _, name := range []string{"pforte_queue_sync_seconds", "pforte_certificate_expiry_timestamp_seconds", "pforte_queue_oldest_seconds"} {
		if families[name] == nil {
			t.Errorf("not there: %s", name)
		}
	}
	if t.Failed() {
		t.Log(m.Text)
	}
}
