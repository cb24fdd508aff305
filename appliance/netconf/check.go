package netconf

import (
	"fmt"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// Problem is something that Converge cannot set right, for people.
type Problem struct {
	Link   string `json:"link"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
	// MayPass: it may pass by itself within seconds, as a link signal that is
	// still being negotiated.
	MayPass bool `json:"-"`
}

// String gives "link: text; remedy".
func (p Problem) String() string { return p.Link + ": " + p.Text + "; " + p.Remedy }

// Check lists what keeps the network from being as configured, although Plan has
// nothing left to do.
func Check(cfg config.Network, s State) []Problem {
	var found []Problem
	report := func(link, remedy, text string, args ...any) {
		found = append(found, Problem{Link: link, Text: fmt.Sprintf(text, args...), Remedy: remedy})
	}
	for _, want := range cfg.Links {
		by := "MAC " + want.MAC
		if want.MAC == "" {
			by = "path " + want.Path
		}
		switch n := len(cardsOf(want, s)); {
		case n == 0:
			report(want.Name, "correct the configuration or put the card in", "there is no network card with %s", by)
		case n > 1:
			report(want.Name, "describe it by what it alone has, its MAC or its path", "%d network cards have %s", n, by)
		}
	}
	for _, l := range s.Links {
		if !named(cfg, l.Name) {
			continue
		}
		if l.Up && !l.Carrier {
			report(l.Name, "check cable and switch port", "there is no link signal")
			found[len(found)-1].MayPass = true
		}
		if l.AcceptRA || l.Forwarding {
			report(l.Name, "the image's sysctl.d must switch it off", "the kernel accepts router advertisements or forwards packets")
		}
		for _, a := range l.Addresses {
			if a.Duplicate {
				report(l.Name, "give each machine its own address", "another machine on the network has the address %s", a.Prefix.Addr())
			}
		}
	}
	return found
}

// named reports whether cfg has a link, bond or VLAN of this name.
func named(cfg config.Network, name string) bool {
	for _, l := range cfg.Links {
		if l.Name == name {
			return true
		}
	}
	for _, b := range cfg.Bonds {
		if b.Name == name {
			return true
		}
	}
	for _, v := range cfg.VLANs {
		if v.Name == name {
			return true
		}
	}
	return false
}
