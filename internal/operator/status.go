package operator

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func (o *operator) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show the state of a box",
		Long: `Show the state of a box: version, slots, configuration, keys, network, mail
and health. Any role may. Exit code 0 says that the box answered, not that it is
healthy; for that see "pforte health".`,
		Example: "  pforte status --box pforte-1.example:8443 --ca owner-ca.pem --cert me.pem --key me.key",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(o, cmd, manage.MethodStatus, nil, printStatus)
		},
	}
}

func printStatus(p *printer, s manage.Status) {
	p.entry("box", "%s", orDash(s.Box))
	p.entry("version", "%s (%s, epoch %d)", s.Version, s.Variant, s.Epoch)
	p.entry("boot", "slot %s, Secure Boot %s, lockdown %s%s", orDash(s.Boot.Slot), onOff(s.Boot.SecureBoot), orDash(s.Boot.Lockdown), trialNote(s.Boot.Trial))
	if s.Locked != nil {
		p.entry("LOCKED", "%s [%s]", s.Locked.English, s.Locked.Code)
	}
	if s.Serial > 0 {
		p.entry("configuration", "serial %d", s.Serial)
	} else {
		p.entry("configuration", "none")
	}
	if s.Seed != nil {
		p.entry("refused at boot", "%s", s.Seed.Reason)
		for _, f := range s.Seed.Faults {
			p.entry("", "line %d: %s", f.Line, f.Text)
		}
	}
	if s.Update != nil {
		printUpdate(p, s)
	}
	p.entry("management", "%s", strings.Join(s.Addresses, ", "))
	printKeys(p, manage.Keys{Keys: s.Keys})
	if s.Network != nil {
		printNetwork(p, s.Network)
	}
	if s.Mail != nil {
		p.entry("mail", "%d waiting, %d dead letters", s.Mail.Messages, s.Mail.Dead)
	}
	if m := s.Memory; m != nil {
		p.entry("memory", "%d MiB in use of %d", (m.Total-m.Available)>>20, m.Total>>20)
	}
	for _, f := range s.Silent {
		p.entry("no answer", "%s: %s", f.Service, f.Text)
	}
	printConditions(p, s.Health)
	p.entry("box's clock", "%s", when(s.Time))
}

func trialNote(trial bool) string {
	if trial {
		return ", on trial"
	}
	return ""
}

func printNetwork(p *printer, n *manage.Network) {
	p.entry("network fault", "%s", n.Fault)
	for _, i := range n.Interfaces {
		state := "up"
		if !i.Up {
			state = "DOWN"
		}
		p.entry("network", "%s (%s) %s %s", i.Name, orDash(i.Role), state, strings.Join(i.Addresses, " "))
	}
}

// printUpdate writes slots, what is under way, and what came of the last one.
func printUpdate(p *printer, s manage.Status) {
	u := s.Update
	var slots []string
	for _, name := range []string{"a", "b", "fallback"} {
		text := name + " " + orDash(u.Slots[name])
		if name == s.Boot.Slot {
			text += " (running)"
		}
		slots = append(slots, text)
	}
	p.entry("slots", "%s", strings.Join(slots, ", "))
	p.entry("update", "%s", progressText(u.Progress))
	p.entry("on trial", "%s", u.Trial)
	if u.Last != nil {
		verdict := "blessed"
		if !u.Last.Blessed {
			verdict = "FAILED: " + u.Last.Why
		}
		p.entry("last update", "%s %s, %s", u.Last.Release, verdict, when(u.Last.At))
	}
	for _, f := range u.Failed {
		p.entry("not tried again", "%s: %s", f.Release, f.Why)
	}
}

// progressText is one line about an update under way, "" if there is none.
func progressText(p manage.Progress) string {
	switch {
	case p.Phase == manage.PhaseDownloading && p.Of > 0:
		return fmt.Sprintf("downloading %s: %d %% of %s", p.Release, p.Bytes*100/p.Of, size(p.Of))
	case p.Phase != "" && p.Phase != manage.PhaseIdle:
		return strings.TrimSpace(p.Phase + " " + p.Release)
	case p.Error != "":
		return "the last one did not come to a trial: " + p.Error
	}
	return ""
}

func (o *operator) healthCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "health",
		Short: "show whether a box is healthy",
		Long: `Show what is wrong with a box, and what to do. Any role may.

Exit codes: 0 healthy, 1 not, others as usual; so a monitor need not read.`,
		Example: "  pforte health --box pforte-1.example:8443 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			h, err := ask[manage.Health](o, cmd, manage.MethodHealth, nil)
			if err != nil {
				return err
			}
			err = o.print(cmd, h, func(p *printer) { printConditions(p, h.Conditions) })
			if err == nil && !h.Healthy {
				return &verdict{"the box is not healthy"}
			}
			return err
		},
	}
}

func printConditions(p *printer, all []manage.Condition) {
	bad := 0
	for _, c := range all {
		if c.Severity == "ok" {
			continue
		}
		bad++
		p.entry(c.Severity, "%s [%s]", c.English, c.Code)
		if c.Remedy != "" {
			p.entry("", "hint: %s", c.Remedy)
		}
	}
	if bad == 0 {
		p.entry("health", "no fault known")
	}
}
