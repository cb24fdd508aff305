package apid

import (
	"context"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

const (
	// sourceTimeout bounds what one service may take to tell of itself.
	sourceTimeout = 4 * time.Second
	// joinedFor is how long a joined status serves further callers.
	joinedFor = time.Second
)

// Methods by which netd and relayd tell of themselves; see manage.Network,
// manage.Mail, manage.Queue and manage.Metrics.
const (
	methodOwnStatus = "GET /v1/status"
	methodQueue     = "GET /v1/queue"
	methodMetrics   = "GET /v1/metrics"
)

// Names of the services behind apid, as people read them in manage.Silent.
const (
	serviceUpdated = "updated"
	serviceKeyd    = "keyd"
	serviceNetd    = "netd"
	serviceRelayd  = "relayd"
)

// services are the sockets behind apid.
type services struct {
	updated *localapi.Client
	keys    *keyclient.Control
	netd    *localapi.Client
	relayd  *localapi.Client
}

// joiner asks all services at once and joins what they tell. It is asked by
// every status and every page of the console, so what it joined serves for a
// second.
type joiner struct {
	services services
	boot     report.Report

	mu     sync.Mutex // held while joining: who comes meanwhile waits and shares
	joined manage.Status
	at     time.Time
}

// status joins the status of the box; base holds what apid itself knows. It ends
// within sourceTimeout, whatever the services do.
func (j *joiner) status(ctx context.Context, base manage.Status) manage.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.at.IsZero() || time.Since(j.at) > joinedFor {
		j.joined = j.join(ctx)
		j.at = time.Now()
	}
	out := j.joined
	out.Box, out.Serial, out.Addresses = base.Box, base.Serial, base.Addresses
	out.Health = append(base.Health[:len(base.Health):len(base.Health)], out.Health...)
	return out
}

// source is one service's part of the status. take is called alone.
type source struct {
	name string
	ask  func(ctx context.Context) (take func(*manage.Status), err error)
}

func (j *joiner) join(ctx context.Context) manage.Status {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sourceTimeout)
	defer cancel()
	sources := j.sources()
	takes := make([]func(*manage.Status), len(sources))
	faults := make([]error, len(sources))
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() { takes[i], faults[i] = s.ask(ctx) })
	}
	wg.Wait()
	status := bootStatus(j.boot)
	status.Time = time.Now().UTC()
	for i, s := range sources {
		if faults[i] != nil {
			status.Silent = append(status.Silent, manage.Silent{Service: s.name, Text: faults[i].Error()})
			continue
		}
		takes[i](&status)
	}
	return status
}

// sources lists who is asked. A locked box runs no relay.
func (j *joiner) sources() []source {
	all := []source{
		{serviceUpdated, j.askUpdated},
		{serviceKeyd, j.askKeys},
		{serviceNetd, func(ctx context.Context) (func(*manage.Status), error) {
			var n manage.Network
			err := j.services.netd.Call(ctx, methodOwnStatus, nil, &n)
			return func(s *manage.Status) { s.Network = &n }, err
		}},
	}
	if j.boot.Locked != nil {
		return all
	}
	return append(all, source{serviceRelayd, func(ctx context.Context) (func(*manage.Status), error) {
		var m manage.Mail
		err := j.services.relayd.Call(ctx, methodOwnStatus, nil, &m)
		return func(s *manage.Status) {
			s.Mail = &m
			s.Health = append(s.Health, m.Conditions...)
		}, err
	}})
}

func (j *joiner) askUpdated(ctx context.Context) (func(*manage.Status), error) {
	var u control.Status
	if err := j.services.updated.Call(ctx, control.MethodStatus, nil, &u); err != nil {
		return nil, err
	}
	return func(s *manage.Status) {
		s.Update = updateOf(u)
		if u.Memory != nil {
			m := manage.Memory(*u.Memory)
			s.Memory = &m
		}
		for _, c := range u.Health {
			s.Health = append(s.Health, manage.Condition(c))
		}
	}, nil
}

func (j *joiner) askKeys(ctx context.Context) (func(*manage.Status), error) {
	list, err := j.services.keys.List(ctx)
	if err != nil {
		return nil, err
	}
	return func(s *manage.Status) { s.Keys = keysOf(list) }, nil
}
