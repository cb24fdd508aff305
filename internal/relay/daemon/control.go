package daemon

import (
	"context"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// Methods of the control socket. None of them shows a subject or a body.
const (
	MethodStatus = "GET /v1/status"        // nothing → Status
	MethodQueue  = "GET /v1/queue"         // nothing → manage.Queue
	MethodDetail = "GET /v1/detail"        // nothing → Detail
	MethodReload = "POST /v1/reload"       // nothing → nothing: reads the configuration anew
	MethodList   = "POST /v1/queue/list"   // ListRequest → ListResponse
	MethodTrace  = "POST /v1/queue/trace"  // TraceRequest → TraceResponse
	MethodRevive = "POST /v1/queue/revive" // ReviveRequest → nothing: a dead letter is tried again
)

// Status is what management and the health gate ask.
type Status struct {
	manage.Mail
	Accepting bool   `json:"accepting"`         // mail
	Waiting   string `json:"waiting,omitempty"` // why not
}

// Detail is how the relay stands, for engineers.
type Detail struct {
	Since        time.Time    `json:"since"`
	Serial       uint64       `json:"serial"` // of the configuration
	Tenants      int          `json:"tenants"`
	Connections  int          `json:"connections"`
	Certificates Certificates `json:"certificates"`
}

// Certificates say until when ours run.
type Certificates struct {
	Server time.Time `json:"server,omitzero"`
	Client time.Time `json:"client,omitzero"`
}

// ListRequest chooses messages; empty fields choose all.
type ListRequest struct {
	Tenant string `json:"tenant,omitempty"`
	After  string `json:"after,omitempty"`
	Limit  int    `json:"limit,omitempty"`
}

// ListResponse is a page of the queue, oldest first.
type ListResponse struct {
	Messages []Message `json:"messages"`
	Next     string    `json:"next,omitempty"` // for ListRequest.After
}

// Message is one message without its content.
type Message struct {
	ID         string            `json:"id"`
	Tenant     string            `json:"tenant"`
	Direction  string            `json:"direction"`
	From       string            `json:"from"`
	Size       int64             `json:"size"`
	Received   time.Time         `json:"received"`
	ReportOf   string            `json:"reportOf,omitempty"`
	Recipients []Recipient       `json:"recipients"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Recipient is how a message stands with one recipient.
type Recipient struct {
	Address  string    `json:"address"`
	State    string    `json:"state"`
	Attempts int       `json:"attempts"`
	NextTry  time.Time `json:"nextTry,omitzero"`
	Code     int       `json:"code,omitempty"`
	Enhanced string    `json:"enhanced,omitempty"`
	Text     string    `json:"text,omitempty"`
}

// TraceRequest and ReviveRequest name a message.
type (
	TraceRequest struct {
		ID string `json:"id"`
	}
	ReviveRequest struct {
		ID string `json:"id"`
	}
)

// TraceResponse is what became of a message, oldest first.
type TraceResponse struct {
	Message Message `json:"message"`
	Events  []Event `json:"events"`
}

// Event is one step of a message.
type Event struct {
	Kind      string    `json:"kind"`
	Time      time.Time `json:"time"`
	Recipient string    `json:"recipient,omitempty"`
	Code      int       `json:"code,omitempty"`
	Enhanced  string    `json:"enhanced,omitempty"`
	Text      string    `json:"text,omitempty"`
	Other     string    `json:"other,omitempty"`
}

// Codes are the control socket's own errors.
func Codes() []localapi.Code {
	return []localapi.Code{{Name: "unknown-message", Err: queue.ErrUnknown, Status: 404}, {Name: "queue-sick", Err: queue.ErrSick, Status: 503}}
}

// control serves the control socket until ctx ends.
func (d *Daemon) control(ctx context.Context) error {
	callers := d.o.Callers
	server, err := localapi.NewServer([]localapi.Method{
		{Name: MethodStatus, Allow: callers, Handler: ask(d.status)},
		{Name: MethodQueue, Allow: callers, Handler: ask(d.counts)},
		{Name: MethodDetail, Allow: callers, Handler: ask(d.detail)},
		{Name: MethodReload, Allow: callers, Handler: localapi.Typed(func(context.Context, localapi.Peer, localapi.None) (localapi.None, error) {
			return localapi.None{}, d.reload()
		})},
		{Name: MethodList, Allow: callers, Handler: localapi.Typed(d.list)},
		{Name: MethodTrace, Allow: callers, Handler: localapi.Typed(d.trace)},
		{Name: MethodRevive, Allow: callers, Handler: localapi.Typed(d.revive)},
	}, localapi.Options{Codes: Codes(), Log: d.o.Log})
	if err != nil {
		return err
	}
	return server.Run(ctx, d.o.Control)
}

// ask makes a handler of what takes no argument.
func ask[Out any](f func() (Out, error)) localapi.Handler {
	return localapi.Typed(func(context.Context, localapi.Peer, localapi.None) (Out, error) { return f() })
}

func (d *Daemon) status() (Status, error) {
	stats, err := d.queue.Stats()
	if err != nil {
		return Status{}, err
	}
	d.mu.Lock()
	waiting := d.waiting
	d.mu.Unlock()
	if waiting == nil {
		waiting = d.queue.Sick()
	}
	s := Status{Accepting: waiting == nil,
		Mail: manage.Mail{Messages: stats.Total.Messages, Dead: stats.Total.Dead, Oldest: stats.Oldest, Conditions: d.conditions(stats)}}
	if waiting != nil {
		s.Waiting = waiting.Error()
	}
	return s, nil
}

func (d *Daemon) counts() (manage.Queue, error) {
	stats, err := d.queue.Stats()
	if err != nil {
		return manage.Queue{}, err
	}
	q := manage.Queue{Total: manage.QueueCounts(stats.Total), Tenants: map[string]manage.QueueCounts{}, Oldest: stats.Oldest, Quarantined: stats.Quarantined}
	for tenant, c := range stats.Tenants {
		q.Tenants[tenant] = manage.QueueCounts(c)
	}
	return q, nil
}

func (d *Daemon) detail() (Detail, error) {
	snap := d.live.Snapshot()
	d.mu.Lock()
	servers := d.servers
	d.mu.Unlock()
	out := Detail{Since: d.started, Serial: snap.Serial, Tenants: snap.Tenants(), Certificates: d.ends()}
	for _, s := range servers {
		out.Connections += s.Connections()
	}
	return out, nil
}

// ends says when our certificates end.
func (d *Daemon) ends() (c Certificates) {
	if cert, err := d.o.ServerCertificate(); err == nil && cert.Leaf != nil {
		c.Server = cert.Leaf.NotAfter
	}
	if cert, err := d.o.ClientCertificate(); err == nil && cert.Leaf != nil {
		c.Client = cert.Leaf.NotAfter
	}
	return c
}

func (d *Daemon) list(ctx context.Context, _ localapi.Peer, in ListRequest) (ListResponse, error) {
	all, next, err := d.queue.List(ctx, queue.Filter{Tenant: in.Tenant, After: queue.ID(in.After), Limit: in.Limit})
	if err != nil {
		return ListResponse{}, err
	}
	out := ListResponse{Messages: make([]Message, len(all)), Next: string(next)}
	for i, e := range all {
		out.Messages[i] = describe(e)
	}
	return out, nil
}

func (d *Daemon) trace(_ context.Context, _ localapi.Peer, in TraceRequest) (TraceResponse, error) {
	e, events, err := d.queue.Trace(queue.ID(in.ID))
	if err != nil {
		return TraceResponse{}, err
	}
	out := TraceResponse{Message: describe(e), Events: make([]Event, len(events))}
	for i, ev := range events {
		out.Events[i] = Event{Kind: string(ev.Kind), Time: ev.Time, Code: ev.Reply.Code, Enhanced: ev.Reply.Enhanced, Text: ev.Reply.Text, Other: string(ev.Other)}
		if ev.Recipient >= 0 && ev.Recipient < len(e.Recipients) {
			out.Events[i].Recipient = e.Recipients[ev.Recipient].Address
		}
	}
	return out, nil
}

func (d *Daemon) revive(_ context.Context, _ localapi.Peer, in ReviveRequest) (localapi.None, error) {
	return localapi.None{}, d.queue.Revive(queue.ID(in.ID), time.Now())
}

func describe(e *queue.Envelope) Message {
	m := Message{ID: string(e.ID), Tenant: e.Tenant, Direction: string(e.Direction), From: e.From, Size: e.Size, Received: e.Received,
		ReportOf: string(e.ReportOf), Attributes: e.Attributes, Recipients: make([]Recipient, len(e.Recipients))}
	for i, r := range e.Recipients {
		m.Recipients[i] = Recipient{Address: r.Address, State: r.State.String(), Attempts: r.Attempts, NextTry: r.NextTry,
			Code: r.Last.Code, Enhanced: r.Last.Enhanced, Text: r.Last.Text}
	}
	return m
}
