package relay

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// Destination is how delivery to one next hop stands.
type Destination struct {
	Name    string // "provider", or "tenant" and the tenant's id
	Places  int    // how many attempts may run at once
	Sending int
	Waiting int // in memory; the queue knows of the others
	Down    bool
	Since   time.Time // of the first failure in a row
	Next    time.Time // when it is tried again, while Down
	Reason  string    // of the last failure in a row, "" if there is none
}

// Destinations lists the next hops that there was mail for lately, by name.
func (r *Relay) Destinations() []Destination {
	d := r.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	all := make([]Destination, 0, len(d.dests))
	for _, dest := range d.dests {
		state := Destination{Name: dest.name, Places: dest.places(), Sending: dest.sending, Waiting: dest.waiting + len(dest.begun),
			Down: dest.open, Reason: dest.reason}
		if dest.failures > 0 {
			state.Since = dest.since
		}
		if dest.open {
			state.Next = dest.retry
		}
		all = append(all, state)
	}
	slices.SortFunc(all, func(a, b Destination) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Conditions are delivery's findings: the next hops that are down. None means
// healthy.
func (r *Relay) Conditions() []manage.Condition {
	var all []manage.Condition
	for _, dest := range r.Destinations() {
		if dest.Down {
			all = append(all, dest.condition())
		}
	}
	return all
}

func (d *Destination) condition() manage.Condition {
	since := d.Since.Round(time.Second).Format("2006-01-02 15:04 MST")
	if d.Name == hopProvider {
		return manage.Condition{Code: "relay.down.provider", Severity: "fault",
			English: fmt.Sprintf("the provider's server has not been reached since %s; outgoing De-Mails wait: %s", since, d.Reason),
			German:  fmt.Sprintf("Der Server des Providers ist seit %s nicht erreichbar; ausgehende De-Mails warten: %s", since, d.Reason),
			Remedy:  "check the way to the provider (network, firewall, port 1465) and its certificate; waiting mail goes by itself once the server answers"}
	}
	tenant := strings.TrimPrefix(d.Name, hopTenant+" ")
	return manage.Condition{Code: "relay.down.tenant." + tenant, Severity: "warning",
		English: fmt.Sprintf("no mail server of tenant %s has been reached since %s; its incoming De-Mails wait: %s", tenant, since, d.Reason),
		German:  fmt.Sprintf("Kein Mailserver des Mandanten %s ist seit %s erreichbar; eingehende De-Mails warten: %s", tenant, since, d.Reason),
		Remedy:  "have the tenant check its mail server, its firewall and the certificate's names; waiting mail goes by itself once the server answers"}
}
