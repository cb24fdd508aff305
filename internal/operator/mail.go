package operator

import (
	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func (o *operator) mailCommand() *cobra.Command {
	c := &cobra.Command{Use: "mail", Short: "see what became of a letter"}
	c.AddCommand(o.mailTrace())
	return c
}

func (o *operator) mailTrace() *cobra.Command {
	var q manage.MailTraceQuery
	cmd := &cobra.Command{
		Use:   "trace ID|ADDRESS|MESSAGE-ID",
		Short: "show how far a letter has come with each recipient",
		Long: `Show how far letters have come with each recipient: accepted, handed over (to the
provider, or to the tenant's server), dispatched, received, retrieved, failed. The last
but one are what the provider's signed confirmations say; what they could not prove is
no state. Letters are found by queue ID, by an address, by Message-ID or by the sender's
own reference, newest first, for 90 days. Nothing shows a subject or a body. The owner
may.

Exit code 0 also if nothing fits.`,
		Example: `  pforte mail trace 01K3V8Q4D1M6Z0J6W3X9T5B7HN
  pforte mail trace poststelle@gemeinde-a.example --limit 5
  pforte mail trace '<20261123.1@gemeinde-a.example>' --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Query = args[0]
			return show(o, cmd, manage.MethodMailTrace, q, printTraces)
		},
	}
	cmd.Flags().StringVar(&q.Tenant, "tenant", "", "of this tenant (`ID`)")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "at most `N` letters (default 20, at most 100)")
	return cmd
}

func printTraces(p *printer, all manage.MailTraces) {
	for i, t := range all.Traces {
		if i > 0 {
			p.line("")
		}
		printTrace(p, t)
	}
	switch {
	case len(all.Traces) == 0:
		p.line("no letter of the last 90 days fits")
	case all.More:
		p.line("there may be more; raise --limit")
	}
}

func printTrace(p *printer, t manage.MailTrace) {
	m := t.Message
	p.line("%s  %s  %s  %s", m.ID, m.Direction, m.Tenant, sender(m))
	p.entry("  in the queue", "%s", m.State)
	p.entry("  reason", "%s", m.Reason)
	for _, name := range sortedKeys(m.Attributes) {
		p.entry("  "+name, "%s", m.Attributes[name])
	}
	for _, r := range t.Recipients {
		p.line("  to %s: %s", r.Address, r.State)
		for _, s := range r.Steps {
			p.line("    %s  %-11s %s", when(s.Time), s.State, s.Text)
		}
		for _, c := range r.Contradictions {
			p.line("    contradiction: %s", c)
		}
	}
}
