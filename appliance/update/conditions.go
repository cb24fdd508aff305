package update

import (
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
)

// conditions are the daemon's own findings: releases, and the configuration's way
// to the services.
func (d *Daemon) conditions() []control.Condition {
	all := d.Manager.conditions()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.applied != nil {
		all = append(all, control.Condition{Code: "config.apply", Severity: "fault",
			English: "The configuration is accepted, but not every service follows it: " + d.applied.Error(),
			German:  "Die Konfiguration ist angenommen, aber nicht jeder Dienst folgt ihr; die Box neu starten: " + d.applied.Error(),
			Remedy:  "restart the box"})
	}
	return all
}

func (m *Manager) conditions() []control.Condition {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []control.Condition
	add := func(code, severity, english, german, remedy string) {
		all = append(all, control.Condition{Code: code, Severity: severity, English: english, German: german, Remedy: remedy})
	}
	if m.fault != nil {
		add("update.state", "warning", "No update is possible: "+m.fault.Error(),
			"Kein Update möglich; die Box neu starten, und wenn es so bleibt, den Hersteller verständigen: "+m.fault.Error(),
			"restart the box; if it stays so, tell the vendor")
	}
	s := m.state
	if s.Trial != nil {
		add("update.trial", "notice", "Release "+s.Trial.Release+" is on trial.", "Release "+s.Trial.Release+" ist auf Probe.", "")
	}
	if s.Last != nil && !s.Last.Blessed {
		add("update.failed", "warning", "Release "+s.Last.Release+" failed and will not be tried again: "+s.Last.Why,
			"Release "+s.Last.Release+" ist gescheitert und wird nicht erneut versucht: "+s.Last.Why, "ask the vendor for a new release")
	}
	inSlot := m.Boot.Slot == report.SlotA || m.Boot.Slot == report.SlotB
	if b := s.Blessed; b != nil && s.Trial == nil && inSlot && (m.Boot.Slot != b.Slot || m.Boot.Version != b.Release) {
		add("update.other", "warning", "Release "+m.Boot.Version+" runs, and "+b.Release+" is the blessed one.",
			"Es läuft Release "+m.Boot.Version+", freigegeben ist "+b.Release+"; die Box neu starten.", "restart the box")
	}
	return all
}

// onTrial reports whether a verdict on a release is pending.
func (m *Manager) onTrial() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Trial != nil
}
