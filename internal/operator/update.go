package operator

import (
	"fmt"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func (o *operator) updateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "update",
		Short: "start an update of a box, and follow it",
		Long: `Start an update of a box, and follow it. The vendor released it, the owner allowed
it, and hosting starts it: the box refuses what does not have all three.`,
	}
	c.AddCommand(o.updateStartCommand(), o.updateStatusCommand(), o.updateListCommand())
	return c
}

func (o *operator) updateStartCommand() *cobra.Command {
	var start manage.UpdateStart
	var wait bool
	c := &cobra.Command{
		Use:   "start",
		Short: "start an update",
		Long: `Start an update. Only hosting may. Without --version the box takes the newest
release that the owner's order allows here and now. It downloads the release
into the slot that does not run, restarts into it once, and keeps it if it gets
healthy; else it goes back by itself and remembers the release as failed.

With --wait the command follows this to its end: exit code 0 says that the
release runs and was kept, 1 that it was not.`,
		Example: `  pforte update start --box pforte-1.example:8443
  pforte update start --version 1.4.0 --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if wait {
				return o.startAndWait(cmd, start)
			}
			return show(o, cmd, manage.MethodUpdate, start, func(p *printer, s manage.UpdateStarted) {
				p.line("update to %s started; follow it with: pforte update status", s.Version)
			})
		},
	}
	c.Flags().StringVar(&start.Version, "version", "", "`VERSION` to install; default: the newest that is allowed")
	c.Flags().BoolVar(&wait, "wait", false, "follow the update to its end")
	return c
}

func (o *operator) updateStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "status",
		Short:   "show slots, the update under way, and the last one",
		Example: "  pforte update status --box pforte-1.example:8443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := ask[manage.Status](o, cmd, manage.MethodStatus, nil)
			if err != nil {
				return err
			}
			if s.Update == nil {
				return &faultError{fmt.Errorf("box %s: its update service does not answer", o.box), "try again in a minute; pforte status says more"}
			}
			return o.print(cmd, s.Update, func(p *printer) {
				p.entry("version", "%s%s", s.Version, trialNote(s.Boot.Trial))
				printUpdate(p, s)
			})
		},
	}
}

func (o *operator) updateListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the releases of both repositories",
		Long: `List the releases of the vendor's and the owner's repository as the box sees them
now: those that it would install, and the others with the reason. Any role may.`,
		Example: "  pforte update list --box pforte-1.example:8443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(o, cmd, manage.MethodReleases, nil, func(p *printer, r manage.Releases) {
				for _, a := range r.Allowed {
					p.entry("allowed", "%s (epoch %d, %s)", a.Version, a.Epoch, size(a.Length))
				}
				for _, f := range r.Refused {
					p.entry("refused", "%s: %s", f.Version, f.Why)
				}
				if len(r.Allowed)+len(r.Refused) == 0 {
					p.line("no releases")
				}
			})
		},
	}
}
