package slot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/u-root/u-root/pkg/efivarfs"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// Entries are the firmware's boot entries of the two slots and the fallback.
type Entries struct {
	Vars firmware.Vars
	ESP  firmware.HardDrive // where the slots lie
}

const (
	maxEntries = 0x100 // numbers tried for a free Boot####
	// bootAttributes are those of boot variables (UEFI 2.10, table 3.1).
	bootAttributes = efivarfs.AttributeNonVolatile | efivarfs.AttributeBootserviceAccess | efivarfs.AttributeRuntimeAccess
)

// describe is the entry that a slot ought to have.
func describe(s report.Slot) (description, path string) {
	switch s {
	case report.SlotB:
		return layout.EntryB, layout.SlotB
	case report.SlotFallback:
		return layout.EntryFallback, layout.FallbackSlot
	}
	return layout.EntryA, layout.SlotA
}

// Ensure makes or repairs the slot's entry and returns its number ("0003").
// Entries are found by their description; a wrong content is written again, a
// missing one gets the first free number.
func (e Entries) Ensure(s report.Slot) (string, error) {
	description, path := describe(s)
	want, err := firmware.EncodeEntry(description, e.ESP, path)
	if err != nil {
		return "", fmt.Errorf("boot entry %q: %w", description, err)
	}
	free := ""
	for n := range maxEntries {
		number := fmt.Sprintf("%04X", n)
		data, err := firmware.ReadEntry(e.Vars, number)
		if errors.Is(err, firmware.ErrNoEntry) {
			if free == "" {
				free = number
			}
			continue
		}
		if err != nil {
			return "", fmt.Errorf("boot entry %s: %w", number, err)
		}
		have, err := firmware.ParseEntry(data)
		if err != nil || have.Description != description {
			continue // somebody else's
		}
		if slices.Equal(data, want) {
			return number, nil
		}
		return number, e.write(number, want)
	}
	if free == "" {
		return "", fmt.Errorf("boot entry %q: the firmware has no free number among %d", description, maxEntries)
	}
	return free, e.write(free, want)
}

func (e Entries) write(number string, data []byte) error {
	if err := e.Vars.Set(firmware.Global("Boot"+number), bootAttributes, data); err != nil {
		return fmt.Errorf("boot entry %s: %w", number, err)
	}
	return nil
}

// Prefer makes the slots the first in BootOrder, in the order given, takes our
// other entries out of it (they keep their number, for TryOnce), and leaves
// foreign ones behind ours in their order. It writes only what changes.
func (e Entries) Prefer(slots ...report.Slot) error {
	var want []string
	for _, s := range slots {
		number, err := e.Ensure(s)
		if err != nil {
			return err
		}
		want = append(want, number)
	}
	have, err := firmware.BootOrder(e.Vars)
	if err != nil {
		return err
	}
	for _, n := range have {
		if slices.Contains(want, n) {
			continue
		}
		switch s, err := e.slotOf(n); {
		case err != nil:
			return err
		case s == report.SlotUnknown:
			want = append(want, n)
		}
	}
	if slices.Equal(have, want) {
		return nil
	}
	data, err := numbers(want)
	if err != nil {
		return err
	}
	if err := e.Vars.Set(firmware.Global("BootOrder"), bootAttributes, data); err != nil {
		return fmt.Errorf("BootOrder: %w", err)
	}
	return nil
}

// slotOf says which slot an entry is for, by its description; unknown if it is
// none of ours or not there.
func (e Entries) slotOf(number string) (report.Slot, error) {
	data, err := firmware.ReadEntry(e.Vars, number)
	if errors.Is(err, firmware.ErrNoEntry) {
		return report.SlotUnknown, nil
	}
	if err != nil {
		return report.SlotUnknown, fmt.Errorf("boot entry %s: %w", number, err)
	}
	entry, err := firmware.ParseEntry(data)
	if err != nil {
		return report.SlotUnknown, nil // somebody else's
	}
	for _, s := range []report.Slot{report.SlotA, report.SlotB, report.SlotFallback} {
		if description, _ := describe(s); entry.Description == description {
			return s, nil
		}
	}
	return report.SlotUnknown, nil
}

// TryOnce makes the firmware boot the slot at the next boot, and only then
// (BootNext, UEFI 2.10, 3.1.2).
func (e Entries) TryOnce(s report.Slot) error {
	number, err := e.Ensure(s)
	if err != nil {
		return err
	}
	data, err := numbers([]string{number})
	if err != nil {
		return err
	}
	if err := e.Vars.Set(firmware.Global("BootNext"), bootAttributes, data); err != nil {
		return fmt.Errorf("BootNext: %w", err)
	}
	return nil
}

// numbers encodes entry numbers as the firmware's variables hold them.
func numbers(entries []string) ([]byte, error) {
	var out []byte
	for _, e := range entries {
		n, err := strconv.ParseUint(e, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("boot entry number %q: %w", e, err)
		}
		out = binary.LittleEndian.AppendUint16(out, uint16(n))
	}
	return out, nil
}
