package apid

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// idsBody bounds the argument of an act on the queue: manage.MaxQueueIDs of them.
const idsBody = 64 << 10

// pass hands a call to relayd's method of the same name. The argument is read here
// first, so that relayd meets nothing but what the method takes.
func pass[In, Out any](s *Service, name string) func(context.Context, call) (any, error) {
	return func(ctx context.Context, c call) (any, error) {
		var in In
		if err := decode(c.body, &in); err != nil {
			return nil, err
		}
		var out Out
		err := s.services.relayd.Call(ctx, name, in, &out)
		return out, err
	}
}

// handleQueueAct passes an act on and records to what it was done.
func (s *Service) handleQueueAct(name string) func(context.Context, call) (any, error) {
	return func(ctx context.Context, c call) (any, error) {
		var in manage.QueueAct
		if err := decode(c.body, &in); err != nil {
			return nil, err
		}
		switch {
		case len(in.IDs) > 0:
			c.detail["messages"] = fmt.Sprint(in.IDs)
		case in.Match != nil:
			match, err := json.Marshal(in.Match)
			if err != nil {
				return nil, err
			}
			c.detail["match"] = string(match)
		}
		c.detail["reason"] = in.Reason
		var out manage.QueueActed
		if err := s.services.relayd.Call(ctx, name, in, &out); err != nil {
			return nil, err
		}
		c.detail["changed"] = fmt.Sprint(out.Changed)
		return out, nil
	}
}

// exposition is an answer in Prometheus' text format, and no JSON.
type exposition string

// handleMetrics joins the relay's metrics with the box's health. A relay that does
// not answer is a metric, too: a monitor must see that.
func (s *Service) handleMetrics(ctx context.Context, _ call) (any, error) {
	var relay manage.Metrics
	err := s.services.relayd.Call(ctx, methodMetrics, nil, &relay)
	up := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pforte_relay_up", Help: "1 if the relay answers."})
	if err == nil {
		up.Set(1)
	}
	found := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "pforte_health_condition", Help: "1 for each finding about the box's health."}, []string{"code", "severity"})
	for _, c := range s.status(ctx).Health {
		found.WithLabelValues(c.Code, c.Severity).Set(1)
	}
	r := prometheus.NewRegistry()
	r.MustRegister(up, found)
	families, err := r.Gather()
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	var b strings.Builder
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return exposition(b.String() + relay.Text), nil
}
