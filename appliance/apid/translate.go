package apid

import (
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// The API's own types are apart from those of the services, so that a service
// can change what it tells apid without changing what the API promises.

// bootStatus is what init reported.
func bootStatus(r report.Report) manage.Status {
	s := manage.Status{
		Version: r.Version,
		Variant: r.Variant,
		Epoch:   r.Epoch,
		Boot: manage.Boot{
			Slot:       string(r.Slot),
			Trial:      r.Trial,
			SecureBoot: r.SecureBoot,
			Lockdown:   r.Lockdown,
			Watchdog:   r.Watchdog,
			Formatted:  r.Formatted,
		},
	}
	if r.Locked != nil {
		locked := manage.Locked(*r.Locked)
		s.Locked = &locked
	}
	if r.Seed.Verdict == report.Refused {
		s.Seed = &manage.Seed{Reason: r.Seed.Reason}
		for _, f := range r.Seed.Faults {
			s.Seed.Faults = append(s.Seed.Faults, manage.Fault{Line: f.Line, Text: f.Text})
		}
	}
	return s
}

func updateOf(u control.Status) *manage.Update {
	out := &manage.Update{Slots: u.Slots, Trial: u.Trial, Progress: manage.Progress(u.Progress)}
	for _, f := range u.Failed {
		out.Failed = append(out.Failed, manage.FailedRelease(f))
	}
	if u.Last != nil {
		last := manage.Outcome(*u.Last)
		out.Last = &last
	}
	return out
}

func keysOf(list []keyclient.Status) []manage.Key {
	out := make([]manage.Key, 0, len(list))
	for _, k := range list {
		out = append(out, keyOf(k))
	}
	return out
}

func keyOf(k keyclient.Status) manage.Key {
	out := manage.Key{Purpose: string(k.Purpose), Fingerprint: k.Fingerprint, Uses: k.Uses, Fault: k.Fault}
	if k.Certificate != nil {
		c := manage.Certificate(*k.Certificate)
		out.Certificate = &c
	}
	return out
}

func releasesOf(r control.Releases) manage.Releases {
	convert := func(list []control.ReleaseInfo) []manage.Release {
		out := make([]manage.Release, 0, len(list))
		for _, i := range list {
			out = append(out, manage.Release(i))
		}
		return out
	}
	return manage.Releases{Allowed: convert(r.Allowed), Refused: convert(r.Refused)}
}

func faultsOf(faults []config.Fault) []manage.Fault {
	out := make([]manage.Fault, 0, len(faults))
	for _, f := range faults {
		out = append(out, manage.Fault(f))
	}
	return out
}
