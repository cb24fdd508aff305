package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/nexthop"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
	"gitlab.opencode.de/pforte/pforte/internal/tenants"
)

// attempt tries to deliver one message, whose attempt is begun, to the recipients
// that are due, and records what came of it. It calls sent when the next hop is
// done with it, once.
func (r *Relay) attempt(ctx context.Context, e *queue.Envelope, due []int, sent func(feedback, string)) {
	results, content, corrupt := r.deliver(ctx, e, due)
	cut := r.dispatcher.ctx.Err() != nil // the relay stops
	if cut {
		sent(noFeedback, "")
	} else {
		sent(feedbackOf(results))
	}
	v := r.judge(e, due, results, cut)
	if corrupt != nil {
		v.outcome.Dead = "the stored message is damaged: " + corrupt.Error()
	}
	if len(v.delivered) > 0 && content != nil {
		content.tell(e, &v.outcome)
	}
	r.record(e, v)
}

// feedbackOf says what results tell about the server.
func feedbackOf(results []nexthop.Result) (feedback, string) {
	deferred := 0
	for _, res := range results {
		switch {
		case res.Lost && res.Unsure:
			return hung, replyText(res)
		case res.Lost:
			return lost, replyText(res)
		case res.Outcome == nexthop.Temporary && res.Reply.Code != 0:
			deferred++
		case res.Outcome == nexthop.Temporary: // a fault of ours
			return noFeedback, ""
		}
	}
	if deferred == len(results) {
		return busy, ""
	}
	return served, ""
}

// notMade ends an attempt that was begun and never made: nothing is held against
// the message, and it is due as before.
func (r *Relay) notMade(e *queue.Envelope, due []int, why string) {
	var o queue.Outcome
	for _, i := range due {
		o.Results = append(o.Results, queue.Result{Recipient: i, State: queue.Waiting, NextTry: e.Recipients[i].NextTry,
			Reply: queue.Reply{Enhanced: "4.3.2", Text: why}})
	}
	if err := r.o.Queue.Finish(e.ID, o); err != nil {
		r.o.Log.Error("attempt not taken back", "id", e.ID, "error", err)
	}
}

// deliver hands the message to its next hop. content is what was read last, if it is
// worth knowing; corrupt says that it cannot be read any more.
func (r *Relay) deliver(ctx context.Context, e *queue.Envelope, due []int) (results []nexthop.Result, content *content, corrupt error) {
	hop, err := r.hop(e)
	if err != nil {
		return nexthop.ResultsOf(err, len(due)), nil, nil
	}
	first, err := r.o.Queue.Body(e.ID)
	if err != nil {
		if errors.Is(err, queue.ErrCorrupt) {
			corrupt = err
		}
		return nexthop.ResultsOf(err, len(due)), nil, corrupt
	}
	m := &nexthop.Message{From: e.From, ENVID: e.ENVID, RET: e.RET, EightBit: e.EightBit, UTF8: e.UTF8, Size: first.Size()}
	for _, i := range due {
		rc := e.Recipients[i]
		m.Recipients = append(m.Recipients, nexthop.Recipient{Address: rc.Address, Notify: rc.Notify, Original: rc.Original})
	}
	m.Open = func() (io.ReadCloser, error) {
		body := first
		if first = nil; body == nil {
			if body, err = r.o.Queue.Body(e.ID); err != nil {
				return nil, err
			}
		}
		if e.Direction == queue.Out {
			content = newContent()
		}
		return &watched{body, content, &corrupt}, nil
	}
	defer func() {
		if first != nil {
			_ = first.Close()
		}
	}()
	results = hop.Deliver(ctx, m)
	return results, content, corrupt
}

// watched notes what a message's content is, if somebody wants to know, and that it
// turned out to be damaged.
type watched struct {
	*queue.BodyReader
	content *content
	corrupt *error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.BodyReader.Read(p)
	if w.content != nil {
		w.content.read(p[:n], err)
	}
	if errors.Is(err, queue.ErrCorrupt) {
		*w.corrupt = err
	}
	return n, err
}

// hop finds the way of a message in the configuration of now.
func (r *Relay) hop(e *queue.Envelope) (deliverer, error) {
	if e.Hop == hopProvider {
		return r.o.Connection().Provider, nil
	}
	t := r.o.Tenants.Snapshot().Tenant(e.Tenant)
	if t == nil {
		return nil, &nexthop.Failure{Reply: nexthop.Reply{Enhanced: "4.3.5", Text: "tenant is not in the configuration"}}
	}
	if len(t.Inbound.Servers) == 0 {
		return nil, &nexthop.Failure{Reply: nexthop.Reply{Enhanced: "4.3.5", Text: "tenant has no server to deliver to"}}
	}
	return r.routes.to(t), nil
}

// verdict is what an attempt did.
type verdict struct {
	outcome   queue.Outcome
	delivered []int
	failed    []int // given up with this attempt
	relayed   []int // delivered to a server that does not report, and asked for
	delayed   []int // waiting for so long that the sender is told
	next      string
	attempts  int
}

// judge turns results into what is recorded: a temporary failure waits for its
// next time, or is given up when there is none. One that was cut is due at once,
// for the next start.
func (r *Relay) judge(e *queue.Envelope, due []int, results []nexthop.Result, cut bool) verdict {
	var v verdict
	at, schedule := time.Now(), r.schedule()
	for k, i := range due {
		res, rc := results[k], &e.Recipients[i]
		rc.Attempts++
		v.attempts = max(v.attempts, rc.Attempts)
		out := queue.Result{Recipient: i, Reply: queue.Reply{Code: res.Reply.Code, Enhanced: res.Reply.Enhanced, Text: replyText(res)}}
		switch res.Outcome {
		case nexthop.Delivered:
			out.State = queue.Delivered
			v.delivered = append(v.delivered, i)
			v.next = res.Server
			if res.Relayed {
				v.relayed = append(v.relayed, i)
			}
		case nexthop.Permanent:
			out.State = queue.Failed
		default:
			next, ok := schedule.Next(e.Received, at, rc.Attempts)
			if out.NextTry = next; !ok {
				out.State = queue.Failed
				out.Reply.Enhanced = "4.4.7" // delivery time expired (RFC 3463 §3.5)
			}
			if cut {
				out.State, out.NextTry = queue.Waiting, at
			}
		}
		if out.State == queue.Failed {
			v.failed = append(v.failed, i)
		}
		rc.State, rc.Last, rc.NextTry = out.State, out.Reply, out.NextTry
		v.outcome.Results = append(v.outcome.Results, out)
	}
	v.outcome.DelaysTold, v.delayed = r.delays(e, at)
	return v
}

// replyText names the server with its answer.
func replyText(res nexthop.Result) string {
	if res.Server == "" {
		return res.Reply.Text
	}
	return res.Server + ": " + res.Reply.Text
}

// record stores a verdict with the reports it causes. If a report cannot be made
// now, the failure is not recorded either: it is decided again later.
func (r *Relay) record(e *queue.Envelope, v verdict) {
	if v.outcome.Dead == "" {
		if err := r.consequences(e, &v); err != nil {
			r.o.Log.Error("report cannot be made; decided again later", "id", e.ID, "error", err)
			v = r.postpone(e, v)
		}
	}
	err := r.o.Queue.Finish(e.ID, v.outcome)
	if err != nil && r.o.Queue.Sick() == nil {
		r.o.Log.Error("result not recorded; decided again later", "id", e.ID, "error", err)
		v = r.postpone(e, v)
		err = r.o.Queue.Finish(e.ID, v.outcome)
	}
	if err != nil {
		r.o.Log.Error("result not recorded", "id", e.ID, "error", err)
		return
	}
	r.tell(e, v)
}

// postpone turns failures of a verdict back into waiting.
func (r *Relay) postpone(e *queue.Envelope, v verdict) verdict {
	for k := range v.outcome.Results {
		res := &v.outcome.Results[k]
		if res.State == queue.Failed {
			res.State, res.NextTry = queue.Waiting, time.Now().Add(postponed)
		}
	}
	v.failed, v.relayed, v.delayed, v.outcome.Births, v.outcome.Dead, v.outcome.DelaysTold = nil, nil, nil, nil, "", nil
	return v
}

// postponed is the pause after a report could not be made.
const postponed = 5 * time.Minute

// tell marks and logs what was recorded.
func (r *Relay) tell(e *queue.Envelope, v verdict) {
	r.counts.attempt(e, &v)
	if len(v.delivered) > 0 {
		milestone.Print(r.o.Marks, "relayd.delivered", "id", e.ID, "direction", e.Direction, "next", v.next, "attempts", v.attempts, "uptime", Uptime())
	}
	if len(v.failed) > 0 {
		milestone.Print(r.o.Marks, "relayd.bounced", "id", e.ID)
	}
	for _, res := range v.outcome.Results {
		r.o.Log.Info("attempt", "id", e.ID, "tenant", e.Tenant, "direction", e.Direction, "recipient", e.Recipients[res.Recipient].Address,
			"state", res.State.String(), "reply", fmt.Sprintf("%d %s %s", res.Reply.Code, res.Reply.Enhanced, res.Reply.Text))
	}
	if v.outcome.Dead != "" {
		r.o.Log.Error("dead letter", "id", e.ID, "tenant", e.Tenant, "reason", v.outcome.Dead)
	}
}

// tenantOf is the tenant of a message as of now; nil if it is gone.
func (r *Relay) tenantOf(e *queue.Envelope) *tenants.Tenant {
	return r.o.Tenants.Snapshot().Tenant(e.Tenant)
}
