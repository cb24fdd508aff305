package operator

import (
	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func (o *operator) powerCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "power",
		Short: "switch a box off, or restart it",
		Long: `Switch a box off, or restart it, in order: mail that was accepted is on disk, and
what is on its way is finished or tried again later. Owner and hosting may.`,
	}
	verb := func(use, short, method, done string) *cobra.Command {
		return &cobra.Command{
			Use:     use,
			Short:   short,
			Example: "  pforte power " + use + " --box pforte-1.example:8443",
			Args:    cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return show(o, cmd, method, nil, func(p *printer, _ manage.Done) { p.line("%s", done) })
			},
		}
	}
	c.AddCommand(
		verb("off", "switch a box off; it has to be switched on by hand", manage.MethodPowerOff, "the box switches itself off"),
		verb("reboot", "restart a box", manage.MethodReboot, "the box restarts"),
	)
	return c
}

func (o *operator) auditCommand() *cobra.Command {
	c := &cobra.Command{Use: "audit", Short: "look at a box's audit record"}
	c.AddCommand(&cobra.Command{
		Use:   "head",
		Short: "show the newest entry's number and hash, for keeping elsewhere",
		Long: `Show number and SHA-256 of the newest entry in the box's record of management
calls. Keep it: a record that later does not contain it was changed. Any role may.`,
		Example: "  pforte audit head --box pforte-1.example:8443 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(o, cmd, manage.MethodAuditHead, nil, func(p *printer, h manage.AuditHead) {
				p.line("%d %s", h.Number, orDash(h.SHA256))
			})
		},
	})
	return c
}
