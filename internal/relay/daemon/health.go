package daemon

import (
	"fmt"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// When waiting mail and ageing certificates become conditions.
const (
	// warnAge is long before the provider's 4 h for handing on (demail.md §3).
	warnAge     = time.Hour
	criticalAge = 3 * time.Hour
	warnExpiry  = 30 * 24 * time.Hour
)

// conditions are the relay's findings about itself; none means healthy.
func (d *Daemon) conditions(stats queue.Stats) []Condition {
	all := []Condition{}
	add := func(code, severity, text, remedy string) { all = append(all, Condition{code, severity, text, remedy}) }
	for _, c := range d.queue.Conditions() {
		add(c.Code, string(c.Severity), c.Text, c.Remedy)
	}
	if err := d.certificates(); err != nil {
		add("relay.certificate", string(queue.Critical), "a certificate is missing: "+err.Error(), "install the certificate (pforte key csr, pforte key install)")
	}
	ends := d.runningOut()
	for _, c := range []struct {
		name  string
		until time.Time
	}{{"server", ends.Server}, {"client", ends.Client}} {
		if !c.until.IsZero() && time.Until(c.until) < warnExpiry {
			add("relay.certificate."+c.name, string(queue.Warning), fmt.Sprintf("the %s certificate ends on %s", c.name, c.until.UTC().Format(time.DateOnly)), "have it renewed")
		}
	}
	rev := d.now().revocation
	if !rev.Configured() {
		add("relay.crl.none", string(queue.Warning), "no revocation list is configured: the provider's certificates are not checked for revocation", "add provider.crl to the configuration")
	} else if err := rev.Stale(); err != nil {
		add("relay.crl.stale", string(queue.Critical), "the provider's revocation list is not current, no mail goes either way: "+err.Error(), "check the way to the list's server and the clock")
	}
	if n := stats.Total.Dead; n > 0 {
		add("relay.dead", string(queue.Critical), fmt.Sprintf("%d messages could not be delivered and nobody could be told or they came in", n), "remove the cause, then deliver them again")
	}
	if age := time.Since(stats.Oldest); !stats.Oldest.IsZero() && stats.Total.Messages > 0 && age > warnAge {
		severity := queue.Warning
		if age > criticalAge {
			severity = queue.Critical
		}
		add("relay.age", string(severity), fmt.Sprintf("the oldest message has waited for %s", age.Round(time.Minute)), "look at the queue: which next hop does not take mail?")
	}
	return all
}
