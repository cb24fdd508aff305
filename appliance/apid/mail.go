package apid

import (
	"context"
	"encoding/json"
	"fmt"

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
