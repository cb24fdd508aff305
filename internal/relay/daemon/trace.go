package daemon

import (
	"context"
	"errors"
	"slices"
	"strings"

	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/relay"
	"gitlab.opencode.de/pforte/pforte/internal/relay/proof"
)

// defaultTraces is manage.MailTraceQuery.Limit for 0.
const defaultTraces = 20

// trace tells what became of the messages that a query fits, newest first.
func (d *Daemon) trace(ctx context.Context, _ localapi.Peer, in manage.MailTraceQuery) (manage.MailTraces, error) {
	out := manage.MailTraces{Traces: []manage.MailTrace{}}
	limit := in.Limit
	if limit <= 0 {
		limit = defaultTraces
	}
	limit = min(limit, manage.MaxTraces)
	ids, err := d.lookUp(in.Query)
	if err != nil {
		return out, err
	}
	size := 0
	for _, id := range ids {
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		e, events, err := d.queue.Trace(id)
		switch {
		case errors.Is(err, queue.ErrUnknown), err == nil && (e == nil || in.Tenant != "" && e.Tenant != in.Tenant):
			continue
		case err != nil:
			return out, err
		}
		size += len(e.Recipients) + min(len(events), manage.MaxTraceEvents)
		if len(out.Traces) == limit || len(out.Traces) > 0 && size > manage.MaxTraceSize {
			out.More = true
			break
		}
		t, err := d.traceOf(e, events)
		if err != nil {
			return out, err
		}
		out.Traces = append(out.Traces, t)
	}
	return out, nil
}

// lookUp finds the messages that a query may mean, newest first. IDs sort by age.
func (d *Daemon) lookUp(query string) ([]queue.ID, error) {
	if id, err := queue.ParseID(strings.ToUpper(strings.TrimSpace(query))); err == nil {
		return []queue.ID{id}, nil
	}
	var all []queue.ID
	for _, key := range relay.TraceKeys(query) {
		ids, err := d.queue.Find(key, queue.MaxFind)
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	slices.Reverse(all)
	return slices.Compact(all), nil
}

func (d *Daemon) traceOf(e *queue.Envelope, events []queue.Event) (t manage.MailTrace, err error) {
	if t.Message, err = d.standing(e); err != nil {
		return t, err
	}
	t.Message.Recipients = []manage.QueueRecipient{}
	t.Events = tell(e, events, manage.MaxTraceEvents)
	for _, r := range proof.Of(e, events) {
		p := manage.MailProgress{Address: r.Address, Original: r.Original, State: string(r.State), Since: r.Since, Contradictions: r.Contradictions}
		for _, s := range r.Steps {
			p.Steps = append(p.Steps, manage.MailStep{State: string(s.State), Time: s.Time, Noted: s.Noted, Other: string(s.Other), Text: s.Text})
		}
		t.Recipients = append(t.Recipients, p)
	}
	return t, nil
}
