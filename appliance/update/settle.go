package update

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
)

// errNothingWhole: no slot and no fallback holds what was blessed.
var errNothingWhole = errors.New("no whole copy of a blessed release is left on the disk")

// errStray: the firmware insists on a release that was not blessed.
var errStray = errors.New("the firmware keeps booting a release that is not blessed")

// settle is a boot without a trial: the blessed slot is whole and leads the
// firmware's order, and the fallback is a copy of it.
//
// What runs need not be the blessed release. If it is the spare, somebody chose it
// in the firmware's menu, or the blessed one was damaged: that changes nothing
// that lasts, unless there is no other whole release. If it is neither, it is a
// stray (a failed release chosen in the menu, a file that somebody swapped): the
// box goes back to the blessed one.
func (m *Manager) settle(ctx context.Context) error {
	err := m.adopt(ctx)
	stray := err == nil && m.stray()
	if !stray {
		m.judged()
	}
	if err != nil {
		return err
	}
	if err := m.heal(ctx); err != nil {
		return err
	}
	s := m.snapshot()
	if err := m.prefer(s.Blessed.Slot, s.Spare); err != nil {
		return err
	}
	if stray {
		return m.leave(ctx)
	}
	if s.Strays > 0 {
		if err := m.change(func(s *state) { s.Strays = 0 }); err != nil {
			return err
		}
	}
	if err := m.Disk.ClearNote(); err != nil {
		m.Log.Warn("the note of an ended trial stays", "error", err)
	}
	return m.finish(ctx)
}

// judged tells the trial guard to rest.
func (m *Manager) judged() {
	if err := m.Judged(); err != nil {
		m.Log.Error("the trial guard was not told to rest", "error", err)
	}
}

// stray reports whether a slot runs that is neither the blessed one nor the spare.
func (m *Manager) stray() bool {
	s := m.snapshot()
	runs := func(h *held) bool { return h != nil && h.Slot == m.Boot.Slot && h.Release == m.Boot.Version }
	inSlot := m.Boot.Slot == report.SlotA || m.Boot.Slot == report.SlotB
	return inSlot && !runs(s.Blessed) && !runs(s.Spare)
}

// leave reboots out of a stray. Firmware that comes back to it all the same is
// not followed for ever: then the box stays, and its health says why.
func (m *Manager) leave(ctx context.Context) error {
	m.mark("updated.stray", "slot", m.Boot.Slot, "version", m.Boot.Version)
	if m.snapshot().Strays >= maxTries {
		m.judged()
		return fmt.Errorf("%w: %s in slot %s", errStray, m.Boot.Version, m.Boot.Slot)
	}
	if err := m.change(func(s *state) { s.Strays++ }); err != nil {
		return err
	}
	return m.reboot(ctx)
}

// adopt makes what runs at the very first start the blessed release. Firmware
// without entries has booted the fallback; the slot with the same content is
// then the running one, and if there is none, slot a becomes it.
func (m *Manager) adopt(ctx context.Context) error {
	if m.snapshot().Blessed != nil {
		return nil
	}
	home, fallback := m.Boot.Slot, ""
	if home != report.SlotA && home != report.SlotB {
		var err error
		if home, fallback, err = m.home(ctx); err != nil {
			return err
		}
	}
	sum := fallback
	if sum == "" {
		own, _, err := m.Disk.Hash(home)
		if err != nil {
			return err
		}
		sum = hex.EncodeToString(own[:])
	}
	blessed := &held{Slot: home, Release: m.Boot.Version, SHA256: sum}
	var spare *held
	if same := (&held{Slot: other(home), Release: m.Boot.Version, SHA256: sum}); m.holds(same) {
		spare = same
	}
	return m.change(func(s *state) { s.Blessed, s.Spare, s.Fallback = blessed, spare, fallback })
}

// home finds the slot that equals the fallback, or makes slot a equal it, and
// gives the SHA-256 of both.
func (m *Manager) home(ctx context.Context) (report.Slot, string, error) {
	want, _, err := m.Disk.Hash(report.SlotFallback)
	if err != nil {
		return report.SlotUnknown, "", err
	}
	for _, s := range []report.Slot{report.SlotA, report.SlotB} {
		if sum, _, err := m.Disk.Hash(s); err == nil && sum == want {
			return s, hex.EncodeToString(want[:]), nil
		}
	}
	_, err = m.Disk.Copy(ctx, report.SlotFallback, report.SlotA)
	return report.SlotA, hex.EncodeToString(want[:]), err
}

// heal makes sure that the blessed slot is whole. Where the firmware has just
// booted it, that is proved. Else a damaged one is restored from the fallback;
// if that is damaged too, the spare takes its place.
func (m *Manager) heal(ctx context.Context) error {
	s := m.snapshot()
	if m.Boot.Slot == s.Blessed.Slot && m.Boot.Version == s.Blessed.Release || m.holds(s.Blessed) {
		return nil
	}
	m.Log.Error("the blessed slot is damaged", "slot", s.Blessed.Slot, "release", s.Blessed.Release)
	copied := *s.Blessed
	copied.Slot = report.SlotFallback
	switch {
	case m.holds(&copied):
		if _, err := m.Disk.Copy(ctx, report.SlotFallback, s.Blessed.Slot); err != nil {
			return fmt.Errorf("restore slot %s: %w", s.Blessed.Slot, err)
		}
		m.mark("updated.restored", "slot", s.Blessed.Slot, "version", s.Blessed.Release)
		return nil
	case s.Spare != nil && m.holds(s.Spare):
		return m.change(func(s *state) { s.Blessed, s.Spare = s.Spare, nil })
	}
	return errNothingWhole
}

// finish makes the fallback follow and tells that nothing is left to do.
func (m *Manager) finish(ctx context.Context) error {
	if err := m.fallback(ctx); err != nil {
		return err
	}
	b := m.snapshot().Blessed
	m.mark("updated.settled", "slot", b.Slot, "version", b.Release)
	return nil
}

// fallback makes the fallback a copy of the blessed slot. The state knows when it
// is one, so that an ordinary boot reads no whole file.
func (m *Manager) fallback(ctx context.Context) error {
	b := m.snapshot().Blessed
	if m.snapshot().Fallback == b.SHA256 {
		return nil
	}
	if err := m.change(func(s *state) { s.Fallback = "" }); err != nil {
		return err
	}
	sum, err := m.Disk.Copy(ctx, b.Slot, report.SlotFallback)
	if err != nil {
		return fmt.Errorf("replace the fallback copy: %w", err)
	}
	return m.change(func(s *state) { s.Fallback = hex.EncodeToString(sum[:]) })
}

func other(s report.Slot) report.Slot {
	if s == report.SlotA {
		return report.SlotB
	}
	return report.SlotA
}
