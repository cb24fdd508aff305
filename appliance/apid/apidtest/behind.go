package apidtest

import (
	"context"
	"encoding/json"
	"net"
	"sync"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

// Behind stands in for updated, netd and relayd. Change it through Set.
type Behind struct {
	mu sync.Mutex
	says
	calls []string
}

// says is what the stand-ins answer; an error goes before a result.
type says struct {
	Status   control.Status
	Releases control.Releases
	Config   control.ConfigTaken
	Accepted control.Accepted
	Network  manage.Network
	Mail     manage.Mail
	Queue    manage.Queue
	Messages manage.QueuePage
	Detail   manage.QueueDetail
	Acted    manage.QueueActed
	Traces   manage.MailTraces
	Err      error  // of everything that acts
	Hang     bool   // updated does not answer its status
	Wait     func() // called before an act is answered
}

func newBehind() *Behind {
	b := &Behind{}
	b.Status = control.Status{Slots: map[string]string{"a": "0.1.0", "fallback": "0.1.0"}, Progress: control.Progress{Phase: control.Idle}}
	b.Releases = control.Releases{Allowed: []control.ReleaseInfo{{Version: "0.2.0", Epoch: 1, Length: 20 << 20}},
		Refused: []control.ReleaseInfo{{Version: "0.1.5", Why: "only the vendor lists it"}}}
	b.Config = control.ConfigTaken{Serial: 8, Box: BoxName}
	b.Accepted = control.Accepted{Version: "0.2.0"}
	b.Network = manage.Network{Interfaces: []manage.NetworkInterface{{Name: "mgmt0", Role: "management", Up: true, Addresses: []string{"10.30.0.2/24"}}}}
	b.Queue = manage.Queue{Total: manage.QueueCounts{Messages: 3, Recipients: 4, Bytes: 4096, Dead: 1},
		Tenants: map[string]manage.QueueCounts{"gemeinde-a": {Messages: 3, Recipients: 4, Bytes: 4096, Dead: 1}},
		Oldest:  time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	b.Messages = manage.QueuePage{Messages: []manage.QueueMessage{Letter()}}
	b.Detail = manage.QueueDetail{Message: Letter(), Events: []manage.QueueEvent{{Kind: "accepted", Time: Letter().Received}}}
	b.Traces = manage.MailTraces{Traces: []manage.MailTrace{{Message: Letter(), Recipients: []manage.MailProgress{{Address: "erika@buerger.de-mail.example",
		State: manage.MailReceived, Steps: []manage.MailStep{{State: manage.MailHandedOver, Time: Letter().Received, Text: "250 2.0.0"}, {State: manage.MailReceived, Time: Letter().Received}}}}}}}
	b.Acted = manage.QueueActed{Changed: 1, Left: []string{"01K00000000000000000000002: message is being tried"}}
	b.Mail = manage.Mail{Messages: 3, Dead: 1}
	return b
}

// Letter is a message in the stand-in's queue.
func Letter() manage.QueueMessage {
	return manage.QueueMessage{ID: "01K00000000000000000000001", Tenant: "gemeinde-a", Direction: "out", State: manage.QueueHeld, Reason: "odd",
		Class: "normal", From: "poststelle@gemeinde-a.de-mail.example", Size: 2048, Received: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Recipients: []manage.QueueRecipient{{Address: "erika@buerger.de-mail.example", State: "waiting", Attempts: 2, Code: 451, Enhanced: "4.3.0", Text: "mx: not now\x1b[2J"}}}
}

// Set changes what the stand-ins answer from now on.
func (b *Behind) Set(change func(*Behind)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b)
}

// Calls lists what was asked of the stand-ins that acts, with its actor.
func (b *Behind) Calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.calls...)
}

func (b *Behind) start(t testing.TB, dir string) {
	t.Helper()
	own := "GET /v1/status"
	serve(t, dir, layout.UpdatedSocket, []localapi.Method{
		{Name: control.MethodStatus, Handler: localapi.Typed(b.status)},
		{Name: control.MethodList, Handler: localapi.Typed(tell(b, func(b *Behind) (control.Releases, error) { return b.Releases, b.Err }))},
		{Name: control.MethodConfig, MaxBody: control.MaxEnvelope, Handler: localapi.Typed(func(_ context.Context, _ localapi.Peer, in control.ConfigPut) (control.ConfigTaken, error) {
			return act(b, "config "+in.Actor, func() control.ConfigTaken { return b.Config })
		})},
		{Name: control.MethodUpdate, Handler: localapi.Typed(func(_ context.Context, _ localapi.Peer, in control.UpdateStart) (control.Accepted, error) {
			return act(b, "update "+in.Version+" "+in.Actor, func() control.Accepted { return b.Accepted })
		})},
		{Name: control.MethodPower, Handler: localapi.Typed(func(_ context.Context, _ localapi.Peer, in control.Power) (localapi.None, error) {
			return act(b, "power "+in.Do+" "+in.Actor, func() localapi.None { return localapi.None{} })
		})},
	})
	serve(t, dir, layout.NetdSocket, []localapi.Method{
		{Name: own, Handler: localapi.Typed(tell(b, func(b *Behind) (manage.Network, error) { return b.Network, nil }))},
	})
	serve(t, dir, layout.RelaydSocket, []localapi.Method{
		{Name: own, Handler: localapi.Typed(tell(b, func(b *Behind) (manage.Mail, error) { return b.Mail, nil }))},
		{Name: "GET /v1/queue", Handler: localapi.Typed(tell(b, func(b *Behind) (manage.Queue, error) { return b.Queue, nil }))},
		{Name: "GET /v1/metrics", Handler: localapi.Typed(tell(b, func(*Behind) (manage.Metrics, error) { return manage.Metrics{Text: "pforte_mail_total 7\n"}, nil }))},
		{Name: manage.MethodMailTrace, Handler: asked(b, "trace", func(b *Behind) manage.MailTraces { return b.Traces })},
		{Name: manage.MethodQueueList, Handler: asked(b, "list", func(b *Behind) manage.QueuePage { return b.Messages })},
		{Name: manage.MethodQueueShow, Handler: asked(b, "show", func(b *Behind) manage.QueueDetail { return b.Detail })},
		{Name: manage.MethodQueueHold, Handler: asked(b, "hold", func(b *Behind) manage.QueueActed { return b.Acted })},
		{Name: manage.MethodQueueRelease, Handler: asked(b, "release", func(b *Behind) manage.QueueActed { return b.Acted })},
		{Name: manage.MethodQueueRetry, Handler: asked(b, "retry", func(b *Behind) manage.QueueActed { return b.Acted })},
		{Name: manage.MethodQueueBounce, Handler: asked(b, "bounce", func(b *Behind) manage.QueueActed { return b.Acted })},
	})
}

func (b *Behind) status(ctx context.Context, _ localapi.Peer, _ localapi.None) (control.Status, error) {
	b.mu.Lock()
	hang, status := b.Hang, b.Status
	b.mu.Unlock()
	if hang {
		<-ctx.Done()
		return control.Status{}, ctx.Err()
	}
	return status, nil
}

// tell answers with what the stand-in says.
func tell[Out any](b *Behind, say func(*Behind) (Out, error)) func(context.Context, localapi.Peer, localapi.None) (Out, error) {
	return func(context.Context, localapi.Peer, localapi.None) (Out, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return say(b)
	}
}

// asked notes a call of relayd's with its argument and answers.
func asked[Out any](b *Behind, what string, say func(*Behind) Out) localapi.Handler {
	return localapi.Typed(func(_ context.Context, _ localapi.Peer, in json.RawMessage) (Out, error) {
		return act(b, "queue "+what+" "+string(in), func() Out { return say(b) })
	})
}

// act notes an act and answers.
func act[Out any](b *Behind, what string, say func() Out) (Out, error) {
	b.mu.Lock()
	b.calls = append(b.calls, what)
	wait := b.Wait
	b.mu.Unlock()
	if wait != nil {
		wait()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return say(), b.Err
}

func serve(t testing.TB, dir, path string, methods []localapi.Method) {
	t.Helper()
	for i := range methods {
		methods[i].Allow = []localapi.Caller{localapi.UID(layout.UIDApid)}
	}
	s, err := localapi.NewServer(methods, localapi.Options{
		Codes:  control.Codes(),
		PeerOf: func(net.Conn) (localapi.Peer, error) { return localapi.Peer{UID: layout.UIDApid}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	ln := listen(t, dir, path)
	background(t, func(ctx context.Context) error { return s.Run(ctx, ln) })
}

// Marks collects milestones.
type Marks struct {
	found chan milestone.Mark
}

// maxMarks is more than apid ever prints.
const maxMarks = 16

func newMarks() *Marks { return &Marks{make(chan milestone.Mark, maxMarks)} }

// Write takes one mark.
func (m *Marks) Write(p []byte) (int, error) {
	if mark, ok := milestone.Parse(string(p)); ok {
		m.found <- mark
	}
	return len(p), nil
}

// Next waits for the next mark.
func (m *Marks) Next() milestone.Mark { return <-m.found }
