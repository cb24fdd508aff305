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
	MethodStatus = "GET /v1/status"  // nothing → Status
	MethodQueue  = "GET /v1/queue"   // nothing → manage.Queue
	MethodDetail = "GET /v1/detail"  // nothing → Detail
	MethodReload = "POST /v1/reload" // nothing → nothing: reads the configuration anew
	// MethodMetrics is manage.MethodMetrics without what apid adds.
	MethodMetrics = "GET /v1/metrics" // nothing → manage.Metrics

	// Those of manage by the same name; see there.
	MethodList    = manage.MethodQueueList
	MethodShow    = manage.MethodQueueShow
	MethodHold    = manage.MethodQueueHold
	MethodRelease = manage.MethodQueueRelease
	MethodRetry   = manage.MethodQueueRetry
	MethodBounce  = manage.MethodQueueBounce
	MethodTrace   = manage.MethodMailTrace
)

// queueTimeout bounds a list or an act, which may look at the whole queue.
const queueTimeout = 55 * time.Second

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

// Codes are the control socket's own errors.
func Codes() []localapi.Code {
	return []localapi.Code{
		{Name: manage.CodeUnknownMessage, Err: queue.ErrUnknown, Status: 404},
		{Name: manage.CodeNothingChosen, Err: errNothingChosen, Status: 400},
		{Name: manage.CodeQueueSick, Err: queue.ErrSick, Status: 503},
	}
}

// control serves the control socket until ctx ends.
func (d *Daemon) control(ctx context.Context) error {
	callers := d.o.Callers
	server, err := localapi.NewServer([]localapi.Method{
		{Name: MethodStatus, Allow: callers, Handler: ask(d.status)},
		{Name: MethodQueue, Allow: callers, Handler: ask(d.counts)},
		{Name: MethodDetail, Allow: callers, Handler: ask(d.detail)},
		{Name: MethodMetrics, Allow: callers, Handler: ask(d.metrics)},
		{Name: MethodReload, Allow: callers, Handler: localapi.Typed(func(context.Context, localapi.Peer, localapi.None) (localapi.None, error) {
			return localapi.None{}, d.reload()
		})},
		{Name: MethodList, Allow: callers, Timeout: queueTimeout, Handler: localapi.Typed(d.list)},
		{Name: MethodShow, Allow: callers, Handler: localapi.Typed(d.show)},
		{Name: MethodHold, Allow: callers, Timeout: queueTimeout, Handler: localapi.Typed(d.hold)},
		{Name: MethodRelease, Allow: callers, Timeout: queueTimeout, Handler: localapi.Typed(d.release)},
		{Name: MethodRetry, Allow: callers, Timeout: queueTimeout, Handler: localapi.Typed(d.retry)},
		{Name: MethodBounce, Allow: callers, Timeout: queueTimeout, Handler: localapi.Typed(d.bounce)},
		{Name: MethodTrace, Allow: callers, Timeout: queueTimeout, Handler: localapi.Typed(d.trace)},
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
