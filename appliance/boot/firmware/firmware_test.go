package firmware

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/efivarfs"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
)

// memory is a firmware's variables, by name.
type memory struct {
	vars   map[string][]byte
	writes []string
	fail   string // name whose writing fails
}

func (m *memory) Get(d efivarfs.VariableDescriptor) (efivarfs.VariableAttributes, []byte, error) {
	data, ok := m.vars[d.Name]
	if !ok {
		return 0, nil, fs.ErrNotExist
	}
	return keyAttributes, data, nil
}

// Set takes a signed update as the firmware does: what it keeps is the content.
func (m *memory) Set(d efivarfs.VariableDescriptor, _ efivarfs.VariableAttributes, data []byte) error {
	if d.Name == m.fail {
		return errors.New("the firmware refuses")
	}
	m.writes = append(m.writes, d.Name)
	_, after, _ := bytes.Cut(data, []byte("|"))
	m.vars[d.Name] = after
	return nil
}

func utf16le(s string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(s)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return append(out, 0, 0)
}

func TestSecureBoot(t *testing.T) {
	tests := map[string]struct {
		vars map[string][]byte
		want Mode
		bad  bool
	}{
		"on":                    {map[string][]byte{"SecureBoot": {1}, "SetupMode": {0}}, Mode{On: true}, false},
		"off":                   {map[string][]byte{"SecureBoot": {0}, "SetupMode": {0}}, Mode{}, false},
		"setup mode":            {map[string][]byte{"SecureBoot": {0}, "SetupMode": {1}}, Mode{Setup: true}, false},
		"setup mode beats on":   {map[string][]byte{"SecureBoot": {1}, "SetupMode": {1}}, Mode{Setup: true}, false},
		"no such variables":     {nil, Mode{}, false},
		"value that is neither": {map[string][]byte{"SecureBoot": {2}}, Mode{}, true},
		"empty value":           {map[string][]byte{"SecureBoot": {}}, Mode{}, true},
		"long value":            {map[string][]byte{"SecureBoot": {1, 0}}, Mode{}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := SecureBoot(&memory{vars: test.vars})
			if (err != nil) != test.bad || got != test.want {
				t.Fatalf("got %+v, error %v", got, err)
			}
		})
	}
}

// node is one node of a device path.
func node(kind, sub byte, body []byte) []byte {
	return append([]byte{kind, sub, byte(4 + len(body)), byte((4 + len(body)) >> 8)}, body...)
}

// entry makes a boot entry for a file on a partition of a GPT disk.
func entry(description, path string) []byte {
	hd := make([]byte, 38)
	hd[0], hd[36], hd[37] = 1, 2, 2
	copy(hd[20:], []byte{0x3C, 0x2D, 0x1E, 0x0F, 0x5A, 0x4B, 0x78, 0x69, 0x87, 0x96, 0xA5, 0xB4, 0xC3, 0xD2, 0xE1, 0xF0})
	devicePath := append(node(0x02, 1, make([]byte, 8)), node(nodeMedia, nodeHardDrive, hd)...)
	devicePath = append(devicePath, node(nodeMedia, nodeFilePath, utf16le(path))...)
	devicePath = append(devicePath, node(nodeEnd, 0xFF, nil)...)
	out := []byte{1, 0, 0, 0, byte(len(devicePath)), byte(len(devicePath) >> 8)}
	out = append(out, utf16le(description)...)
	return append(append(out, devicePath...), "optional data"...)
}

const espID = "0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0"

func TestParseEntry(t *testing.T) {
	got, err := ParseEntry(entry("Pforte A", `\EFI\pforte\a.efi`))
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{Description: "Pforte A", Partition: espID, Path: "EFI/pforte/a.efi"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestParseEntryRefuses(t *testing.T) {
	good := entry("Pforte A", `\EFI\pforte\a.efi`)
	for n := range good {
		if n == len(good)-len("optional data") {
			break
		}
		if got, err := ParseEntry(good[:n]); err == nil {
			t.Errorf("first %d of %d bytes gave %+v", n, len(good), got)
		}
	}
	endless := []byte{1, 0, 0, 0, 0xFF, 0x0F, 0, 0}
	endless = append(endless, bytes.Repeat(node(1, 1, nil), 0xFFF/4+1)...)
	if _, err := ParseEntry(endless); err == nil || !strings.Contains(err.Error(), "nodes") {
		t.Errorf("endless device path: %v", err)
	}
}

func TestThisBoot(t *testing.T) {
	stub := map[string][]byte{
		"LoaderDevicePartUUID": utf16le(strings.ToLower(espID)),
		"StubImageIdentifier":  utf16le(`\EFI\PFORTE\B.EFI`),
		"BootCurrent":          {3, 0},
		"BootOrder":            {2, 0, 3, 0, 0xAB, 0},
	}
	tests := map[string]struct {
		vars  map[string][]byte
		want  Boot
		slot  report.Slot
		trial bool
	}{
		"by the stub's variables, on trial": {stub,
			Boot{espID, "EFI/PFORTE/B.EFI", "0003", []string{"0002", "0003", "00AB"}}, report.SlotB, true},
		"the first choice": {map[string][]byte{
			"LoaderImageIdentifier": utf16le(`\EFI\pforte\a.efi`), "BootCurrent": {2, 0}, "BootOrder": {2, 0, 3, 0},
		}, Boot{"", "EFI/pforte/a.efi", "0002", []string{"0002", "0003"}}, report.SlotA, false},
		"the fallback is never on trial": {map[string][]byte{
			"LoaderImageIdentifier": utf16le(`\EFI\BOOT\BOOTX64.EFI`), "BootCurrent": {2, 0}, "BootOrder": {3, 0},
		}, Boot{"", "EFI/BOOT/BOOTX64.EFI", "0002", []string{"0003"}}, report.SlotFallback, false},
		"by the boot entry": {map[string][]byte{
			"Boot0001": entry("Pforte A", `\EFI\pforte\a.efi`), "BootCurrent": {1, 0}, "BootOrder": {1, 0},
		}, Boot{espID, "EFI/pforte/a.efi", "0001", []string{"0001"}}, report.SlotA, false},
		"nothing known": {nil, Boot{}, report.SlotUnknown, false},
		"another file": {map[string][]byte{
			"LoaderImageIdentifier": utf16le(`\EFI\debian\grubx64.efi`), "BootCurrent": {2, 0}, "BootOrder": {3, 0},
		}, Boot{"", "EFI/debian/grubx64.efi", "0002", []string{"0003"}}, report.SlotUnknown, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ThisBoot(&memory{vars: test.vars})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if got.Slot() != test.slot || got.Trial() != test.trial {
				t.Errorf("slot %q, trial %v; want %q, %v", got.Slot(), got.Trial(), test.slot, test.trial)
			}
		})
	}
}

func TestThisBootRefuses(t *testing.T) {
	for name, vars := range map[string]map[string][]byte{
		"odd BootOrder":     {"BootOrder": {1}},
		"endless BootOrder": {"BootOrder": make([]byte, 2*maxOrder+2)},
		"long BootCurrent":  {"BootCurrent": {1, 0, 0}},
		"odd text":          {"LoaderDevicePartUUID": {'a'}},
		"broken entry":      {"BootCurrent": {1, 0}, "Boot0001": {1}},
		"huge variable":     {"LoaderDevicePartUUID": make([]byte, MaxVariable+2)},
	} {
		if got, err := ThisBoot(&memory{vars: vars}); err == nil {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// auth makes something with the shape of a signed update.
func auth(content string) []byte {
	certificate := append([]byte{0, 0, 0, 0, 0, 2, 0xF1, 0x0E}, make([]byte, 16)...)
	certificate = append(certificate, "signature|"...)
	binary.LittleEndian.PutUint32(certificate, uint32(len(certificate)))
	return append(append(make([]byte, 16), certificate...), content...)
}

func TestEnrol(t *testing.T) {
	keys := Keys{PK: auth("pk"), KEK: auth("kek"), DB: auth("db")}
	m := &memory{vars: map[string][]byte{}}
	if err := Enrol(m, keys); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"db", "KEK", "PK"}, m.writes); diff != "" {
		t.Errorf("order of writing: %s", diff)
	}
	// The power failed after db: the rest follows, db is not written again.
	m = &memory{vars: map[string][]byte{"db": []byte("db")}}
	if err := Enrol(m, keys); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"KEK", "PK"}, m.writes); diff != "" {
		t.Errorf("order after a power cut: %s", diff)
	}
	// Without db and KEK the platform key must not end setup mode.
	m = &memory{vars: map[string][]byte{}, fail: "KEK"}
	if err := Enrol(m, keys); err == nil || len(m.writes) != 1 {
		t.Errorf("KEK refused: error %v, written %v", err, m.writes)
	}
}

func TestEnrolRefuses(t *testing.T) {
	for name, bad := range map[string][]byte{
		"empty":               {},
		"no content":          auth(""),
		"length beyond end":   append(bytes.Repeat([]byte{0}, 16), bytes.Repeat([]byte{0xFF}, 40)...),
		"length too small":    make([]byte, 64),
		"longer than maxAuth": auth(strings.Repeat("x", maxAuth)),
	} {
		m := &memory{vars: map[string][]byte{}}
		if err := Enrol(m, Keys{DB: bad, KEK: auth("kek"), PK: auth("pk")}); err == nil || len(m.writes) != 0 {
			t.Errorf("%s: error %v, written %v", name, err, m.writes)
		}
	}
}

func FuzzParseEntry(f *testing.F) {
	f.Add(entry("Pforte A", `\EFI\pforte\a.efi`))
	f.Add([]byte{1, 0, 0, 0, 4, 0, 0, 0, 0x7F, 0xFF, 4, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEntry(data)
		if err == nil && len(e.Partition) != 0 && len(e.Partition) != 36 {
			t.Fatalf("partition %q", e.Partition)
		}
	})
}
