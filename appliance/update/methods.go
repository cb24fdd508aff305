package update

import (
	"context"
	"errors"
	"fmt"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/internal/audit"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/release"
)

// methods are the control socket's. Root and apid may call; apid has proved who
// asks and what role they have.
func (d *Daemon) methods() []localapi.Method {
	allowed := []localapi.Caller{localapi.UID(0), localapi.UID(layout.UIDApid)}
	return []localapi.Method{
		{Name: control.MethodStatus, Allow: allowed, Handler: localapi.Typed(d.status)},
		{Name: control.MethodList, Allow: allowed, Timeout: listTimeout, Handler: localapi.Typed(d.list)},
		{Name: control.MethodUpdate, Allow: allowed, Timeout: listTimeout, Handler: localapi.Typed(d.startUpdate)},
		{Name: control.MethodConfig, Allow: allowed, MaxBody: control.MaxEnvelope, Handler: localapi.Typed(d.putConfig)},
		{Name: control.MethodPower, Allow: allowed, Handler: localapi.Typed(d.power)},
	}
}

func (d *Daemon) status(context.Context, localapi.Peer, localapi.None) (control.Status, error) {
	out := d.Manager.Status()
	if doc, err := d.Store.Current(); err == nil {
		out.Serial, out.Box = doc.Serial, doc.Box
	}
	out.Memory = readMemory()
	out.Health = d.conditions()
	if d.Health != nil {
		out.Health = append(out.Health, d.Health()...)
	}
	return out, nil
}

func (d *Daemon) list(ctx context.Context, _ localapi.Peer, _ localapi.None) (control.Releases, error) {
	return d.Manager.List(ctx)
}

// startUpdate chooses the release; what can be refused is refused to the caller,
// the rest shows in the status.
func (d *Daemon) startUpdate(ctx context.Context, peer localapi.Peer, in control.UpdateStart) (control.Accepted, error) {
	var out control.Accepted
	if in.Version != "" && !release.ValidVersion(in.Version) {
		return out, fmt.Errorf("%w: %.80q is no version", localapi.ErrBadRequest, in.Version)
	}
	detail := map[string]string{"version": in.Version}
	err := d.audited("update.start", actor(peer, in.Actor), detail, func() error {
		r, err := d.Manager.Begin(ctx, in.Version)
		if err != nil {
			return err
		}
		detail["version"] = r.Version
		out.Version = r.Version
		d.installs <- installation{r, actor(peer, in.Actor)} // Begin lets one through at a time
		return nil
	})
	return out, err
}

// putConfig takes a signed configuration. The services follow after the answer.
func (d *Daemon) putConfig(_ context.Context, peer localapi.Peer, in control.ConfigPut) (control.ConfigTaken, error) {
	var out control.ConfigTaken
	detail := map[string]string{}
	err := d.audited("config.put", actor(peer, in.Actor), detail, func() error {
		if err := d.mayConfigure(); err != nil {
			return err
		}
		doc, err := d.put(in.Envelope)
		if err != nil {
			return err
		}
		out.Serial, out.Box = doc.Serial, doc.Box
		detail["serial"] = fmt.Sprint(doc.Serial)
		return nil
	})
	var faults config.Faults
	if errors.As(err, &faults) {
		out.Faults = faults
		return out, nil
	}
	return out, err
}

// mayConfigure refuses a configuration that would be lost, or that the old release
// might not understand if the one on trial fails.
func (d *Daemon) mayConfigure() error {
	switch {
	case d.Manager.Boot.Locked != nil:
		return refused(fmt.Errorf("%w and keeps nothing", ErrLocked), "put it right first; the status says how")
	case d.Manager.onTrial():
		return refused(ErrRunning, "wait until the release on trial is blessed or has failed")
	}
	return nil
}

// put accepts the configuration and has it applied. The note is written first: a
// crash in between applies at worst what is in force already.
func (d *Daemon) put(envelope []byte) (*config.Document, error) {
	d.putting.Lock()
	defer d.putting.Unlock()
	waits := d.Applier.Left()
	if err := d.Applier.Announce(); err != nil {
		return nil, err
	}
	doc, err := d.Store.Put(envelope)
	if err != nil {
		if !waits {
			err = errors.Join(err, d.Applier.Done())
		}
		return nil, err
	}
	d.wake()
	return doc, nil
}

func (d *Daemon) power(_ context.Context, peer localapi.Peer, in control.Power) (localapi.None, error) {
	end := d.Power.PowerOff
	switch in.Do {
	case "off":
	case "reboot":
		end = d.Power.Reboot
	default:
		return localapi.None{}, fmt.Errorf("%w: power %q; ask for \"off\" or \"reboot\"", localapi.ErrBadRequest, in.Do)
	}
	return localapi.None{}, d.audited("power."+in.Do, actor(peer, in.Actor), nil, func() error {
		select {
		case d.powers <- end:
			return nil
		default:
			return localapi.ErrBusy
		}
	})
}

// PowerButton powers off because somebody pressed the button.
func (d *Daemon) PowerButton(ctx context.Context) error {
	return d.audited("power.off", "power button", nil, func() error { return d.Power.PowerOff(ctx) })
}

// audited records that actor asked for a deed, does it, and records what came
// of it. What cannot be recorded is not done. detail may be completed by the deed.
func (d *Daemon) audited(action, actor string, detail map[string]string, deed func() error) error {
	if err := d.Audit.Append(audit.Event{Action: action, Actor: actor, Outcome: "asked", Detail: detail}); err != nil {
		return localapi.WithRemedy(fmt.Errorf("%s is not done because it cannot be recorded: %w", action, err), "restart the box; if it stays so, check the disk")
	}
	fault := deed()
	event := audit.Event{Action: action, Actor: actor, Outcome: "done", Detail: map[string]string{}}
	for k, v := range detail {
		event.Detail[k] = v
	}
	if fault != nil {
		event.Outcome, event.Detail["why"] = outcome(fault), short(fault)
	}
	d.record(event)
	return fault
}

// maxActor bounds who is named as the actor, in bytes.
const maxActor = 256

// actor is who asked, as apid proved it; without apid, the process.
func actor(peer localapi.Peer, proved string) string {
	if proved == "" {
		proved = peer.String()
	}
	if len(proved) > maxActor {
		proved = proved[:maxActor]
	}
	return proved
}

// outcome tells a refusal from a failure.
func outcome(err error) string {
	var faults config.Faults
	if errors.As(err, &faults) {
		return "refused"
	}
	for _, refusal := range []error{control.ErrRefused, config.ErrNotNewer, config.ErrWrongBox, config.ErrSignature} {
		if errors.Is(err, refusal) {
			return "refused"
		}
	}
	return "failed"
}
