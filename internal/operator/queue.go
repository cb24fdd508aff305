package operator

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

func (o *operator) queueCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "queue",
		Short: "look at a box's mail queue, and act on what waits",
		Long: `Look at a box's mail queue, and act on what waits. No command shows a subject or
a body. The owner may; the state alone is also the monitor's.

A message waits, is held (by you, or as the tenant's policy says for a De-Mail whose
integrity is not proved), or is dead: it could not be delivered, and nobody could be told.`,
	}
	c.AddCommand(
		o.queueStatus(), o.queueList(), o.queueShow(),
		o.queueAct("hold", "keep messages back until they are released or bounced", manage.MethodQueueHold, "on hold",
			"Messages on hold are never given up by themselves.", "  pforte queue hold --tenant gemeinde-a --why 'key compromised'"),
		o.queueAct("release", "let held messages go on, and try dead letters again", manage.MethodQueueRelease, "released",
			"Their time begins anew.", "  pforte queue release 01K3V8Q4D1M6Z0J6W3X9T5B7HN\n  pforte queue release --tenant gemeinde-a --state dead"),
		o.queueAct("retry", "try waiting messages now", manage.MethodQueueRetry, "due now",
			"Use it once a next hop works again.", "  pforte queue retry --reason 'connection refused' --why 'server is back'"),
		o.queueAct("bounce", "give messages up: the sender gets a report", manage.MethodQueueBounce, "given up",
			"It cannot be undone. --why stands in the report. An incoming De-Mail stays as a dead letter,\nand its tenant's postmaster is told.", "  pforte queue bounce 01K3V8Q4D1M6Z0J6W3X9T5B7HN --why 'recalled by the office'"),
	)
	return c
}

func (o *operator) queueStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "show how much mail waits, by tenant",
		Long: `Show how much mail waits, by tenant: messages, recipients, bytes, held, dead letters.
It names no message and no address. Owner and monitor may.`,
		Example: "  pforte queue status --box pforte-1.example:8443",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return show(o, cmd, manage.MethodQueue, nil, printQueue)
		},
	}
}

func printQueue(p *printer, q manage.Queue) {
	const row = "%-24s %10s %12s %12s %8s %8s"
	p.line(row, "tenant", "messages", "recipients", "size", "held", "dead")
	for _, name := range sortedKeys(q.Tenants) {
		p.counts(row, name, q.Tenants[name])
	}
	p.counts(row, "all", q.Total)
	if !q.Oldest.IsZero() {
		p.line("oldest accepted %s", when(q.Oldest))
	}
	if q.Quarantined > 0 {
		p.line("%d damaged records were set aside", q.Quarantined)
	}
}

// choice holds the flags that choose messages.
type choice struct {
	filter manage.QueueFilter
	older  time.Duration
}

func (c *choice) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.filter.Tenant, "tenant", "", "of this tenant (`ID`)")
	f.StringVar(&c.filter.Direction, "direction", "", "`out` (to the provider) or in")
	f.StringVar(&c.filter.State, "state", "", "`waiting`, held or dead")
	f.StringVar(&c.filter.Reason, "reason", "", "whose last answer, or reason to be held or dead, contains this `TEXT`")
	f.StringVar(&c.filter.Sender, "sender", "", "from this `ADDRESS`")
	f.StringVar(&c.filter.Recipient, "recipient", "", "to this `ADDRESS`")
	f.DurationVar(&c.older, "older", 0, "accepted longer ago than this `TIME` (2h, 90m)")
}

// chosen checks the flags and gives the filter.
func (c *choice) chosen(now time.Time) (manage.QueueFilter, error) {
	for _, word := range []struct {
		flag, value string
		of          []string
	}{
		{"direction", c.filter.Direction, []string{"out", "in"}},
		{"state", c.filter.State, []string{manage.QueueWaiting, manage.QueueHeld, manage.QueueDead}},
	} {
		if word.value != "" && !contains(word.of, word.value) {
			return c.filter, &usageError{fmt.Sprintf("--%s %q", word.flag, word.value), "it is one of " + strings.Join(word.of, ", ")}
		}
	}
	if c.older < 0 {
		return c.filter, &usageError{"--older is negative", "give a time such as 2h"}
	}
	out := c.filter
	if c.older > 0 {
		out.Before = now.Add(-c.older).UTC()
	}
	return out, nil
}

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

func (o *operator) queueList() *cobra.Command {
	var c choice
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list messages in the queue, oldest first",
		Long: `List messages in the queue, oldest first: ID, age, state, tenant, addresses, and the
last answer of the next hop. The owner may.`,
		Example: "  pforte queue list --tenant gemeinde-a --older 1h\n  pforte queue list --state held --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := c.chosen(time.Now())
			if err != nil {
				return err
			}
			page, err := o.pages(cmd, filter, limit)
			if err != nil {
				return err
			}
			return o.print(cmd, page, func(p *printer) { printMessages(p, page) })
		},
	}
	c.flags(cmd)
	cmd.Flags().IntVar(&limit, "limit", 100, "at most `N` messages")
	return cmd
}

// maxListed bounds what one list shows.
const maxListed = 100_000

// pages asks for as many pages as it takes.
func (o *operator) pages(cmd *cobra.Command, filter manage.QueueFilter, limit int) (manage.QueuePage, error) {
	out := manage.QueuePage{Messages: []manage.QueueMessage{}}
	if limit < 1 || limit > maxListed {
		return out, &usageError{fmt.Sprintf("--limit %d", limit), fmt.Sprintf("it is 1 to %d", maxListed)}
	}
	client, err := o.connect(cmd)
	if err != nil {
		return out, err
	}
	defer client.Close()
	for len(out.Messages) < limit {
		filter.Limit, filter.After = min(limit-len(out.Messages), manage.MaxQueuePage), out.Next
		var page manage.QueuePage
		if err := client.Call(cmd.Context(), manage.MethodQueueList, filter, &page); err != nil {
			return out, err
		}
		out.Messages, out.Next = append(out.Messages, page.Messages...), page.Next
		if page.Next == "" {
			break
		}
	}
	return out, nil
}

func printMessages(p *printer, page manage.QueuePage) {
	for _, m := range page.Messages {
		p.line("%s  %s  %-7s  %s  %s  %s  %s", m.ID, m.Received.Local().Format("2006-01-02 15:04"), m.State, m.Direction, m.Tenant, size(m.Size), sender(m))
		if m.Reason != "" {
			p.line("    %s", m.Reason)
		}
		printRecipients(p, m)
	}
	switch {
	case len(page.Messages) == 0:
		p.line("no message")
	case page.Next != "":
		p.line("there are more; raise --limit")
	}
}

func sender(m manage.QueueMessage) string {
	if m.From == "" {
		return "from <> (a report)"
	}
	return "from " + m.From
}

func printRecipients(p *printer, m manage.QueueMessage) {
	for _, r := range m.Recipients {
		p.line("    to %s: %s%s", r.Address, r.State, answerOf(r))
	}
	if m.More > 0 {
		p.line("    and %d more recipients", m.More)
	}
}

// answerOf is how often a recipient was tried, when it is again, and the last answer.
func answerOf(r manage.QueueRecipient) string {
	out := ""
	if r.Attempts > 0 {
		out = fmt.Sprintf(", attempts %d", r.Attempts)
	}
	if r.State == "waiting" && !r.NextTry.IsZero() {
		out += ", next try " + when(r.NextTry)
	}
	if r.Text != "" {
		out += ", " + strings.TrimSpace(fmt.Sprintf("%s %s %s", number(r.Code), r.Enhanced, r.Text))
	}
	return out
}

func number(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func (o *operator) queueShow() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "show one message and what happened to it",
		Long:    "Show one message and what happened to it, also after it has left the queue (90 days). The owner may.",
		Example: "  pforte queue show 01K3V8Q4D1M6Z0J6W3X9T5B7HN",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return show(o, cmd, manage.MethodQueueShow, manage.QueueID{ID: args[0]}, printDetail)
		},
	}
}

func printDetail(p *printer, d manage.QueueDetail) {
	m := d.Message
	p.entry("message", "%s", m.ID)
	p.entry("state", "%s", orDash(m.State))
	p.entry("reason", "%s", m.Reason)
	p.entry("tenant", "%s (%s)", m.Tenant, m.Direction)
	p.entry("class", "%s", m.Class)
	p.entry("sender", "%s", sender(m))
	p.entry("size", "%s", size(m.Size))
	p.entry("accepted", "%s", when(m.Received))
	p.entry("report of", "%s", m.ReportOf)
	for _, name := range sortedKeys(m.Attributes) {
		p.entry(name, "%s", m.Attributes[name])
	}
	printRecipients(p, m)
	for _, e := range d.Events {
		p.line("%s  %-10s %s", when(e.Time), e.Kind, eventText(e))
	}
}

// eventText is what an event says beyond its kind.
func eventText(e manage.QueueEvent) string {
	parts := []string{e.Recipient, strings.TrimSpace(number(e.Code) + " " + e.Enhanced), e.Text, e.Other}
	for _, name := range sortedKeys(e.Data) {
		parts = append(parts, name+"="+e.Data[name])
	}
	var out []string
	for _, s := range parts {
		if s != "" {
			out = append(out, s)
		}
	}
	return strings.Join(out, "  ")
}

func (o *operator) queueAct(use, short, method, done, long, example string) *cobra.Command {
	var c choice
	var why string
	cmd := &cobra.Command{
		Use:   use + " [ID...]",
		Short: short,
		Long: strings.ToUpper(short[:1]) + short[1:] + `. Name messages by their queue IDs, or choose
them with flags. ` + long + ` The owner may.`,
		Example: example,
		RunE: func(cmd *cobra.Command, args []string) error {
			act, err := c.act(args, why)
			if err != nil {
				return err
			}
			return show(o, cmd, method, act, func(p *printer, r manage.QueueActed) { printActed(p, r, done) })
		},
	}
	c.flags(cmd)
	cmd.Flags().StringVar(&why, "why", "", "`TEXT` for the message's trace")
	return cmd
}

// act joins the arguments and flags of an act.
func (c *choice) act(ids []string, why string) (manage.QueueAct, error) {
	filter, err := c.chosen(time.Now())
	if err != nil {
		return manage.QueueAct{}, err
	}
	some := filter != manage.QueueFilter{}
	switch {
	case len(ids) > 0 && some:
		return manage.QueueAct{}, &usageError{"messages are named and chosen by flags", "do one of both"}
	case len(ids) > manage.MaxQueueIDs:
		return manage.QueueAct{}, &usageError{fmt.Sprintf("%d messages are named", len(ids)), fmt.Sprintf("name at most %d", manage.MaxQueueIDs)}
	case len(ids) > 0:
		return manage.QueueAct{IDs: ids, Reason: why}, nil
	case !some:
		return manage.QueueAct{}, &usageError{"no message is named or chosen", "name queue IDs, or choose with --tenant, --older, --state, --reason, --sender or --recipient"}
	}
	return manage.QueueAct{Match: &filter, Reason: why}, nil
}

func printActed(p *printer, r manage.QueueActed, done string) {
	p.line("%d messages %s", r.Changed, done)
	for _, left := range r.Left {
		p.line("left: %s", left)
	}
	if r.Rest {
		p.line("more messages match; do it again")
	}
}
