package daemon

import (
	"fmt"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// When waiting mail and ageing certificates become conditions.
const (
	// warnAge is long before the provider's 4 h for handing on (demail.md §3).
	warnAge    = time.Hour
	faultAge   = 3 * time.Hour
	warnExpiry = 30 * 24 * time.Hour
)

// Severities of manage.Condition.
const (
	warning = "warning"
	fault   = "fault"
)

// conditions are the relay's findings about itself; none means healthy.
func (d *Daemon) conditions(stats queue.Stats) []manage.Condition {
	all := d.storeConditions()
	all = append(all, d.certificateConditions()...)
	all = append(all, d.revocationConditions()...)
	all = append(all, d.relay.Conditions()...)
	return append(all, mailConditions(stats)...)
}

func (d *Daemon) storeConditions() (all []manage.Condition) {
	for _, c := range d.queue.Conditions() {
		severity := warning
		if c.Severity == queue.Critical {
			severity = fault
		}
		all = append(all, manage.Condition{Code: c.Code, Severity: severity, English: c.Text, German: "Mailspeicher: " + c.Text, Remedy: c.Remedy})
	}
	return all
}

func (d *Daemon) certificateConditions() (all []manage.Condition) {
	if err := d.certificates(); err != nil {
		all = append(all, manage.Condition{Code: "relay.certificate", Severity: fault,
			English: "no mail is taken: " + err.Error(), German: "Es wird keine Mail angenommen, ein Zertifikat fehlt: " + err.Error(),
			Remedy: "pforte key csr, pforte key install"})
	}
	ends := d.ends()
	for _, c := range []struct {
		name  string
		until time.Time
	}{{"tenant-server", ends.Server}, {"provider-client", ends.Client}} {
		if day := c.until.UTC().Format(time.DateOnly); !c.until.IsZero() && time.Until(c.until) < warnExpiry {
			all = append(all, manage.Condition{Code: "relay.certificate." + c.name, Severity: warning,
				English: fmt.Sprintf("certificate %s ends on %s", c.name, day), German: fmt.Sprintf("Zertifikat %s endet am %s", c.name, day),
				Remedy: "have it renewed: pforte key csr, pforte key install"})
		}
	}
	return all
}

func (d *Daemon) revocationConditions() (all []manage.Condition) {
	for _, s := range d.now().signers[1:] {
		if !s.revocation.Configured() {
			all = append(all, manage.Condition{Code: "relay.crl.signers.none", Severity: warning,
				English: "no revocation list is configured for " + s.name + ": certificates that sign De-Mails in its name are not checked for revocation",
				German:  "Für " + s.name + " ist keine Sperrliste konfiguriert: Zertifikate, die in dessen Namen De-Mails signieren, werden nicht auf Sperrung geprüft",
				Remedy:  "add crl to the authority in provider.signatureAuthorities"})
		}
		if err := s.revocation.Stale(); err != nil {
			all = append(all, manage.Condition{Code: "relay.crl.signers", Severity: warning,
				English: "the revocation list of " + s.name + " is not current, De-Mails that it has signed are put off: " + err.Error(),
				German:  "Die Sperrliste von " + s.name + " ist nicht aktuell, von ihm signierte De-Mails werden aufgeschoben: " + err.Error(),
				Remedy:  "check the way to the list's server, and the clock"})
		}
	}
	return append(all, d.providerRevocation()...)
}

func (d *Daemon) providerRevocation() []manage.Condition {
	rev := d.now().revocation
	if !rev.Configured() {
		return []manage.Condition{{Code: "relay.crl.none", Severity: warning,
			English: "no revocation list is configured: the provider's certificates are not checked for revocation",
			German:  "Keine Sperrliste konfiguriert: Zertifikate des Providers werden nicht auf Sperrung geprüft",
			Remedy:  "add provider.crl to the configuration"}}
	}
	if err := rev.Stale(); err != nil {
		return []manage.Condition{{Code: "relay.crl.stale", Severity: fault,
			English: "the provider's revocation list is not current, no mail goes either way: " + err.Error(),
			German:  "Die Sperrliste des Providers ist nicht aktuell, es fließt keine Mail: " + err.Error(),
			Remedy:  "check the way to the list's server, and the clock"}}
	}
	return nil
}

func mailConditions(stats queue.Stats) (all []manage.Condition) {
	if n := stats.Total.Dead; n > 0 {
		all = append(all, manage.Condition{Code: "relay.dead", Severity: fault,
			English: fmt.Sprintf("%d messages could not be delivered and are kept as dead letters", n),
			German:  fmt.Sprintf("%d Nachrichten konnten nicht zugestellt werden und liegen unzustellbar am Gateway", n),
			Remedy:  "remove the cause (pforte queue), then deliver them again"})
	}
	if age := time.Since(stats.Oldest); !stats.Oldest.IsZero() && stats.Total.Messages > 0 && age > warnAge {
		severity := warning
		if age > faultAge {
			severity = fault
		}
		all = append(all, manage.Condition{Code: "relay.age", Severity: severity,
			English: fmt.Sprintf("the oldest message has been here for %s", age.Round(time.Minute)),
			German:  fmt.Sprintf("Die älteste Nachricht liegt seit %s am Gateway", age.Round(time.Minute)),
			Remedy:  "look at the queue: which next hop takes no mail?"})
	}
	return all
}
