package slot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/update/slot/slottest"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// order is BootOrder as descriptions.
func order(v *slottest.Vars) []string {
	var out []string
	for _, e := range v.Entries("BootOrder") {
		out = append(out, e.Description)
	}
	return out
}

func drive() firmware.HardDrive {
	return firmware.HardDrive{Number: 1, Start: 2048, Blocks: 1 << 20, GUID: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}
}

// machine is firmware with a foreign entry of number 0 and 7.
func machine(t *testing.T) (*slottest.Vars, Entries) {
	t.Helper()
	m := slottest.NewVars(nil)
	for number, name := range map[string]string{"0000": "UEFI Shell", "0007": "Network"} {
		data, err := firmware.EncodeEntry(name, drive(), "EFI/other.efi")
		if err != nil {
			t.Fatal(err)
		}
		m.SetRaw("Boot"+number, data)
	}
	m.SetRaw("BootOrder", []byte{0, 0, 7, 0})
	return m, Entries{Vars: m, ESP: drive()}
}

func TestPrefer(t *testing.T) {
	m, e := machine(t)
	steps := []struct {
		name  string
		slots []report.Slot
		want  []string
	}{
		{"first boot", []report.Slot{report.SlotA, report.SlotFallback}, []string{layout.EntryA, layout.EntryFallback, "UEFI Shell", "Network"}},
		{"blessed", []report.Slot{report.SlotB, report.SlotA, report.SlotFallback}, []string{layout.EntryB, layout.EntryA, layout.EntryFallback, "UEFI Shell", "Network"}},
		{"while a is written", []report.Slot{report.SlotB, report.SlotFallback}, []string{layout.EntryB, layout.EntryFallback, "UEFI Shell", "Network"}},
	}
	for _, s := range steps {
		if err := e.Prefer(s.slots...); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s.want, order(m)); diff != "" {
			t.Errorf("%s: %s", s.name, diff)
		}
		m.Writes = nil
		if err := e.Prefer(s.slots...); err != nil || len(m.Writes) != 0 {
			t.Errorf("%s, again: wrote %v, %v", s.name, m.Writes, err)
		}
	}
}

// TestPreferRepairs: what firmware and technicians do to entries.
func TestPreferRepairs(t *testing.T) {
	want := []string{layout.EntryA, layout.EntryFallback, "UEFI Shell", "Network"}
	tests := []struct {
		name   string
		damage func(*slottest.Vars)
		want   []string
	}{
		{"order lost", func(m *slottest.Vars) { m.SetRaw("BootOrder", nil) }, want[:2]},
		{"reordered", func(m *slottest.Vars) { m.SetRaw("BootOrder", []byte{7, 0, 0, 0, 2, 0, 1, 0}) }, []string{layout.EntryA, layout.EntryFallback, "Network", "UEFI Shell"}},
		{"entry deleted", func(m *slottest.Vars) { m.SetRaw("Boot0001", nil) }, want},
		{"entry of another disk", func(m *slottest.Vars) {
			other := drive()
			other.GUID = "11111111-2222-3333-4444-555555555555"
			data, _ := firmware.EncodeEntry(layout.EntryA, other, layout.SlotA)
			m.SetRaw("Boot0001", data)
		}, want},
		{"entry doubled", func(m *slottest.Vars) {
			m.SetRaw("Boot0009", m.Raw("Boot0001"))
			m.SetRaw("BootOrder", []byte{9, 0, 1, 0, 2, 0, 0, 0, 7, 0})
		}, want},
		{"order names what is not there", func(m *slottest.Vars) { m.SetRaw("BootOrder", []byte{0x33, 0, 1, 0, 2, 0, 0, 0, 7, 0}) },
			[]string{layout.EntryA, layout.EntryFallback, "boot entry of 0 bytes", "UEFI Shell", "Network"}},
		{"foreign entry is nonsense", func(m *slottest.Vars) { m.SetRaw("Boot0000", []byte{1, 2, 3}) },
			[]string{layout.EntryA, layout.EntryFallback, "boot entry of 3 bytes", "Network"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, e := machine(t)
			if err := e.Prefer(report.SlotA, report.SlotFallback); err != nil {
				t.Fatal(err)
			}
			tt.damage(m)
			if err := e.Prefer(report.SlotA, report.SlotFallback); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, order(m)); diff != "" {
				t.Error(diff)
			}
			data, err := firmware.EncodeEntry(layout.EntryA, drive(), layout.SlotA)
			if err != nil || !slices.Equal(m.Raw("Boot0001"), data) {
				t.Errorf("entry A is not as it ought to be: %v", err)
			}
		})
	}
}

// TestTryOnce: a slot outside the order is named for one boot.
func TestTryOnce(t *testing.T) {
	m, e := machine(t)
	if err := errors.Join(e.Prefer(report.SlotA, report.SlotFallback), e.TryOnce(report.SlotB)); err != nil {
		t.Fatal(err)
	}
	if next := m.Entries("BootNext"); len(next) != 1 || next[0].Description != layout.EntryB || next[0].Path != layout.SlotB {
		t.Errorf("BootNext is %+v", next)
	}
	if slices.Contains(order(m), layout.EntryB) {
		t.Errorf("order %v", order(m))
	}
}

func TestFirmwareThatRefuses(t *testing.T) {
	m, e := machine(t)
	m.Full = true
	if err := e.Prefer(report.SlotA); err == nil || !strings.Contains(err.Error(), "boot entry 0001") {
		t.Errorf("%v", err)
	}
	m.Full = false
	for n := range maxEntries {
		m.SetRaw(fmt.Sprintf("Boot%04X", n), m.Raw("Boot0000"))
	}
	if err := e.TryOnce(report.SlotA); err == nil || !strings.Contains(err.Error(), "no free number") {
		t.Errorf("%v", err)
	}
	m, _ = machine(t)
	if err := (Entries{Vars: m}).Prefer(report.SlotA); err == nil || !strings.Contains(err.Error(), "partition GUID") {
		t.Errorf("without a partition: %v", err)
	}
}

func TestLocate(t *testing.T) {
	// As the kernel has it: a link into the device tree, the partition in its disk.
	sys := t.TempDir()
	disk := filepath.Join(sys, "devices", "vda")
	files := map[string]string{"vda1/partition": "1", "vda1/start": "2048", "vda1/size": "1048576", "queue/logical_block_size": "512"}
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(disk, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text+"\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		write(name, text)
	}
	class := filepath.Join(sys, "class")
	if err := errors.Join(os.Mkdir(class, 0o700), os.Symlink("../devices/vda/vda1", filepath.Join(class, "vda1"))); err != nil {
		t.Fatal(err)
	}
	got, err := Locate(class, "vda1", drive().GUID)
	if err != nil || got != drive() {
		t.Errorf("%+v, %v", got, err)
	}
	write("queue/logical_block_size", "4096")
	if got, err := Locate(class, "vda1", "x"); err != nil || got.Start != 256 || got.Blocks != 1<<17 {
		t.Errorf("blocks of 4096 bytes: %+v, %v", got, err)
	}
	for name, tt := range map[string]struct{ file, text, partition, guid string }{
		"no guid":       {"vda1/start", "2048", "vda1", ""},
		"no device":     {"vda1/start", "2048", "vdb1", "x"},
		"no number":     {"vda1/start", "many", "vda1", "x"},
		"strange block": {"queue/logical_block_size", "100", "vda1", "x"},
	} {
		write("vda1/start", "2048")
		write("queue/logical_block_size", "512")
		write(tt.file, tt.text)
		if _, err := Locate(class, tt.partition, tt.guid); err == nil || !strings.Contains(err.Error(), "locate the EFI system partition") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
