package netd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/firewall"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/milestone"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// loop makes one pass after the other.
func (d *Daemon) loop(ctx context.Context) error {
	d.load()
	fault := d.pass(ctx)
	if err := service.Ready(d.summary()); err != nil {
		return err
	}
	for {
		answer, err := d.wait(ctx, d.next(fault))
		if err != nil {
			return nil
		}
		fault = d.pass(ctx)
		service.Status(d.summary())
		if answer != nil {
			answer <- errors.Join(d.loadErr, fault)
		}
	}
}

// next gives the time until the next pass if nothing happens before.
func (d *Daemon) next(fault error) time.Duration {
	if fault != nil {
		return retryGap
	}
	wait := routine
	for p, since := range d.pending {
		if !d.reported[p] {
			wait = min(wait, max(0, grace-time.Since(since)))
		}
	}
	return max(wait, minGap)
}

// wait returns when a pass is due: after an event and a moment to gather more, at
// a reload (then with whom to answer), or after the given time.
func (d *Daemon) wait(ctx context.Context, limit time.Duration) (chan error, error) {
	due := time.NewTimer(limit)
	defer due.Stop()
	gap := time.NewTimer(minGap)
	defer gap.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-due.C:
	case answer := <-d.asks:
		d.load()
		return answer, nil
	case <-d.o.Reload:
		d.load()
	case <-d.events:
		if err := d.settle(ctx, gap); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// settle lets events gather, and the gap between passes end.
func (d *Daemon) settle(ctx context.Context, gap *time.Timer) error {
	more := time.NewTimer(gather)
	defer more.Stop()
	for _, end := range []<-chan time.Time{more.C, gap.C} {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
		}
	}
	select {
	case <-d.events: // what came meanwhile is seen by the pass
	default:
	}
	return nil
}

// load reads the configuration; if that fails, the one in force stays.
func (d *Daemon) load() {
	doc, err := d.o.Load()
	d.loadErr = err
	if err != nil {
		d.o.Log.Error("configuration not read", "error", err)
		return
	}
	d.doc = doc
}

// pass makes the network as the configuration says, and reports.
func (d *Daemon) pass(ctx context.Context) error {
	d.begun.Store(time.Now().UnixNano())
	defer d.begun.Store(0)
	ctx, cancel := context.WithTimeout(ctx, passTimeout)
	defer cancel()
	state, err := d.apply(ctx)
	var problems []netconf.Problem
	if d.loadErr != nil {
		problems = append(problems, problemOf("configuration", d.loadErr, "sign a correct configuration with the owner's key and bring it in"))
	}
	if err != nil {
		problems = append(problems, problemOf("network", err, "netd tries again"))
	}
	if d.doc != nil && state != nil {
		problems = append(problems, netconf.Check(d.doc.Network, *state)...)
	}
	problems = d.ripe(problems)
	d.report(problems, state)
	return err
}

// problemOf makes one line of an error, which may have several.
func problemOf(link string, err error, remedy string) netconf.Problem {
	return netconf.Problem{Link: link, Text: strings.ReplaceAll(err.Error(), "\n", "; "), Remedy: remedy}
}

// apply sets filter, name servers and network, in this order.
func (d *Daemon) apply(ctx context.Context) (*netconf.State, error) {
	changed, err := d.o.Filter(ctx, firewall.Rules(d.doc))
	if err != nil {
		return nil, err
	}
	if changed {
		d.o.Log.Info("packet filter replaced")
	}
	var cfg config.Network
	if d.doc != nil {
		cfg = d.doc.Network
	}
	_, resolverErr := netconf.WriteResolver(d.o.Resolver, cfg.Nameservers)
	state, actions, err := d.o.Network.Converge(ctx, cfg)
	if actions > 0 {
		d.o.Log.Info("network changed", "actions", actions)
	}
	return &state, errors.Join(resolverErr, err)
}

// ripe keeps the problems that are there for good: those that may pass by
// themselves must have lasted for a while.
func (d *Daemon) ripe(found []netconf.Problem) []netconf.Problem {
	now := time.Now()
	maps.DeleteFunc(d.pending, func(p netconf.Problem, _ time.Time) bool { return !slices.Contains(found, p) })
	maps.DeleteFunc(d.reported, func(p netconf.Problem, _ bool) bool { return !slices.Contains(found, p) })
	return slices.DeleteFunc(found, func(p netconf.Problem) bool {
		if _, ok := d.pending[p]; !ok {
			d.pending[p] = now
		}
		return p.MayPass && now.Sub(d.pending[p]) < grace
	})
}

// report tells what is new to console and log, and keeps the status for whoever
// asks.
func (d *Daemon) report(problems []netconf.Problem, state *netconf.State) {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.String()
		if !d.reported[p] {
			d.reported[p] = true
			d.o.Log.Error("network fault", "link", p.Link, "fault", p.Text, "remedy", p.Remedy)
			milestone.Print(d.o.Milestones, "netd.fault", "link", p.Link, "text", p.Text)
		}
	}
	status := manage.Network{Fault: strings.Join(texts, "\n")}
	if state != nil {
		status.Interfaces = interfaces(d.doc, *state)
	}
	d.mu.Lock()
	d.status = status
	d.mu.Unlock()
	if state != nil {
		d.mark(status)
	}
}

// mark prints netd.up when it says something new.
func (d *Daemon) mark(status manage.Network) {
	up := 0
	for _, i := range status.Interfaces {
		if i.Up {
			up++
		}
	}
	fields := []any{"interfaces", up}
	if d.doc == nil {
		fields = append(fields, "why", "no-configuration")
	} else {
		fields = append(fields, "serial", d.doc.Serial)
	}
	if text := fmt.Sprint(fields...); text != d.lastUp {
		d.lastUp = text
		milestone.Print(d.o.Milestones, "netd.up", fields...)
	}
}

// interfaces tells of each interface with a role. It is up if it is so in the
// kernel, has a signal, and has every address of the configuration.
func interfaces(doc *config.Document, state netconf.State) []manage.NetworkInterface {
	if doc == nil {
		return nil
	}
	var all []manage.NetworkInterface
	for _, ifc := range doc.Network.Interfaces {
		out := manage.NetworkInterface{Name: ifc.Name, Role: string(ifc.Role)}
		for _, l := range state.Links {
			if l.Name != ifc.Name {
				continue
			}
			out.Up = l.Up && l.Carrier
			for _, a := range l.Addresses {
				out.Addresses = append(out.Addresses, a.Prefix.String())
			}
		}
		for _, a := range ifc.Addresses {
			out.Up = out.Up && slices.Contains(out.Addresses, a.String())
		}
		all = append(all, out)
	}
	return all
}

// summary is one line for systemctl.
func (d *Daemon) summary() string {
	s := d.Status()
	if s.Fault != "" {
		return s.Fault
	}
	if d.doc == nil {
		return "no configuration: everything is dropped"
	}
	return fmt.Sprintf("%d interfaces as configured", len(s.Interfaces))
}
