package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// maxLeft bounds how many messages an answer names that an act left as they were.
const maxLeft = 100

// actPage is how many messages an act looks at together, each with up to a
// thousand recipients.
const actPage = 100

// errNothingChosen: an act on everything is asked for by a filter, never by leaving
// all out.
var errNothingChosen = errors.New("no message is named and no filter given; name queue IDs, or choose by tenant, age, state or reason")

func (d *Daemon) list(ctx context.Context, _ localapi.Peer, in manage.QueueFilter) (manage.QueuePage, error) {
	all, next, err := d.queue.List(ctx, filter(in))
	if err != nil {
		return manage.QueuePage{}, err
	}
	out := manage.QueuePage{Messages: make([]manage.QueueMessage, len(all)), Next: string(next)}
	for i, e := range all {
		out.Messages[i] = short(e)
	}
	return out, nil
}

// short is a message in a page.
func short(e *queue.Envelope) manage.QueueMessage {
	m := describe(e)
	m.State, m.Attributes = stateOf(e), nil
	if n := len(m.Recipients) - manage.MaxQueueShort; n > 0 {
		m.Recipients, m.More = m.Recipients[:manage.MaxQueueShort], n
	}
	for i := range m.Recipients {
		m.Recipients[i].Text = cut(m.Recipients[i].Text, maxShortText)
	}
	return m
}

// maxShortText bounds the last answer of a recipient in a page, in bytes.
const maxShortText = 200

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

func filter(in manage.QueueFilter) queue.Filter {
	return queue.Filter{Tenant: in.Tenant, Direction: queue.Direction(in.Direction), State: in.State, Before: in.Before, Reason: in.Reason,
		Sender: in.Sender, Recipient: in.Recipient, After: queue.ID(in.After), Limit: pageOf(in.Limit)}
}

func pageOf(limit int) int {
	if limit <= 0 {
		return manage.MaxQueuePage
	}
	return min(limit, manage.MaxQueuePage)
}

// show tells of a message that is in the queue, or was.
func (d *Daemon) show(_ context.Context, _ localapi.Peer, in manage.QueueID) (manage.QueueDetail, error) {
	id, err := queue.ParseID(strings.ToUpper(in.ID))
	if err != nil {
		return manage.QueueDetail{}, fmt.Errorf("%w: %w", queue.ErrUnknown, err)
	}
	e, events, err := d.queue.Trace(id)
	if err == nil && e == nil {
		err = fmt.Errorf("%w: the beginning of its trace is lost", queue.ErrUnknown)
	}
	if err != nil {
		return manage.QueueDetail{}, err
	}
	out := manage.QueueDetail{Events: tell(e, events, manage.MaxQueueEvents)}
	out.Message, err = d.standing(e)
	return out, err
}

// standing describes a message as it is now; e is how it was accepted.
func (d *Daemon) standing(e *queue.Envelope) (manage.QueueMessage, error) {
	now, err := d.queue.Show(e.ID)
	switch {
	case errors.Is(err, queue.ErrUnknown):
		return describe(e), nil
	case err != nil:
		return manage.QueueMessage{}, err
	}
	m := describe(now)
	m.State = stateOf(now)
	return m, nil
}

// tell gives the newest of the events, at most limit.
func tell(e *queue.Envelope, events []queue.Event, limit int) []manage.QueueEvent {
	events = events[max(0, len(events)-limit):]
	out := make([]manage.QueueEvent, len(events))
	for i, ev := range events {
		out[i] = manage.QueueEvent{Kind: string(ev.Kind), Time: ev.Time, Code: ev.Reply.Code, Enhanced: ev.Reply.Enhanced,
			Text: ev.Reply.Text, Other: string(ev.Other), Data: ev.Data}
		if ev.Recipient >= 0 && ev.Recipient < len(e.Recipients) {
			out[i].Recipient = e.Recipients[ev.Recipient].Address
		}
	}
	return out
}

func stateOf(e *queue.Envelope) string {
	switch {
	case e.DeadReason != "":
		return manage.QueueDead
	case e.Hold:
		return manage.QueueHeld
	}
	return manage.QueueWaiting
}

func describe(e *queue.Envelope) manage.QueueMessage {
	m := manage.QueueMessage{ID: string(e.ID), Tenant: e.Tenant, Direction: string(e.Direction), From: e.From, Size: e.Size, Received: e.Received,
		Reason: e.DeadReason + e.HoldReason, Class: classes()[e.Class], ReportOf: string(e.ReportOf), Attributes: e.Attributes,
		Recipients: make([]manage.QueueRecipient, len(e.Recipients))}
	for i, r := range e.Recipients {
		m.Recipients[i] = manage.QueueRecipient{Address: r.Address, State: r.State.String(), Attempts: r.Attempts, NextTry: r.NextTry,
			Code: r.Last.Code, Enhanced: r.Last.Enhanced, Text: r.Last.Text}
	}
	return m
}

func classes() map[queue.Class]string {
	return map[queue.Class]string{queue.Urgent: "urgent", queue.Normal: "normal", queue.Bulk: "bulk"}
}

func (d *Daemon) hold(ctx context.Context, _ localapi.Peer, in manage.QueueAct) (manage.QueueActed, error) {
	return d.act(ctx, in, manage.QueueWaiting, func(ids []queue.ID) (int, error) { return d.queue.Hold(ids, in.Reason) })
}

// release lets held messages go on and dead letters be tried again.
func (d *Daemon) release(ctx context.Context, _ localapi.Peer, in manage.QueueAct) (manage.QueueActed, error) {
	return d.act(ctx, in, "", d.revived(d.queue.Unhold))
}

func (d *Daemon) retry(ctx context.Context, _ localapi.Peer, in manage.QueueAct) (manage.QueueActed, error) {
	return d.act(ctx, in, manage.QueueWaiting, func(ids []queue.ID) (int, error) {
		defer d.relay.Hasten()
		return d.queue.Retry(ids, time.Now())
	})
}

func (d *Daemon) bounce(ctx context.Context, _ localapi.Peer, in manage.QueueAct) (manage.QueueActed, error) {
	return d.act(ctx, in, "", func(ids []queue.ID) (int, error) {
		defer d.relay.Bounced(ids...)
		return d.queue.Bounce(ids, in.Reason)
	})
}

// revived does an act to messages that wait, and puts dead letters back.
func (d *Daemon) revived(do func([]queue.ID) (int, error)) func([]queue.ID) (int, error) {
	return func(ids []queue.ID) (int, error) {
		n, faults := 0, []error(nil)
		rest := ids[:0:0]
		for _, id := range ids {
			e, err := d.queue.Show(id)
			if err != nil || e.DeadReason == "" {
				rest = append(rest, id)
				continue
			}
			if err := d.queue.Revive(id, time.Now()); err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", id, err))
				continue
			}
			n++
		}
		more, err := do(rest)
		return n + more, errors.Join(append(faults, err)...)
	}
}

// act does one thing to the messages that are named or chosen. state, if not empty,
// narrows a choice to the messages that the act can be done to.
func (d *Daemon) act(ctx context.Context, in manage.QueueAct, state string, do func([]queue.ID) (int, error)) (out manage.QueueActed, err error) {
	if in.Match != nil {
		in.Match.After, in.Match.Limit = "", 0 // choose nothing
	}
	if len(in.IDs) == 0 && (in.Match == nil || *in.Match == (manage.QueueFilter{})) {
		return out, errNothingChosen
	}
	if len(in.IDs) > 0 {
		ids, err := parseIDs(in.IDs)
		if err != nil {
			return out, err
		}
		return d.done(out, ids, do)
	}
	f := filter(*in.Match)
	f.Limit = actPage
	if f.State == "" {
		f.State = state
	}
	for range manage.MaxQueueAct / actPage {
		all, next, err := d.queue.List(ctx, f)
		if err != nil {
			return out, err
		}
		ids := make([]queue.ID, len(all))
		for i, e := range all {
			ids[i] = e.ID
		}
		if out, err = d.done(out, ids, do); err != nil || next == "" {
			return out, err
		}
		f.After = next
	}
	out.Rest = true
	return out, nil
}

func parseIDs(texts []string) ([]queue.ID, error) {
	if len(texts) > manage.MaxQueueIDs {
		return nil, fmt.Errorf("%w: more than %d messages are named", localapi.ErrBadRequest, manage.MaxQueueIDs)
	}
	ids := make([]queue.ID, len(texts))
	for i, text := range texts {
		id, err := queue.ParseID(strings.ToUpper(text))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", queue.ErrUnknown, err)
		}
		ids[i] = id
	}
	return ids, nil
}

// done adds one round of an act to what was done before. What could not be done to
// single messages is told and no error; a sick queue is one.
func (d *Daemon) done(out manage.QueueActed, ids []queue.ID, do func([]queue.ID) (int, error)) (manage.QueueActed, error) {
	n, err := do(ids)
	out.Changed += n
	if sick := d.queue.Sick(); sick != nil {
		return out, sick
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			if len(out.Left) < maxLeft {
				out.Left = append(out.Left, strings.TrimSpace(line))
			}
		}
	}
	return out, nil
}
