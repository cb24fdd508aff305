package partition

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// makeFAT lets mkfs.vfat make a file system of the given width in bits.
func makeFAT(t testing.TB, bits, label string, megabytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fat")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, megabytes<<20); err != nil {
		t.Fatal(err)
	}
	args := []string{"-F", bits}
	if label != "" {
		args = append(args, "-n", label)
	}
	run(t, tool(t, "mkfs.vfat", "dosfstools"), append(args, path)...)
	return path
}

func TestFATLabel(t *testing.T) {
	tests := map[string]struct {
		bits, label string
		megabytes   int64
	}{
		"FAT12":         {"12", layout.SeedVolume, 2},
		"FAT16":         {"16", layout.SeedVolume, 32},
		"FAT32":         {"32", layout.SeedVolume, 64},
		"without label": {"16", "", 32},
		"short label":   {"32", "X", 64},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(makeFAT(t, test.bits, test.label, test.megabytes))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := FATLabel(f)
			if err != nil {
				t.Fatal(err)
			}
			if got != test.label {
				t.Fatalf("label %q, want %q", got, test.label)
			}
		})
	}
}

// The label in the root directory counts; systems that rename a volume change
// only that one.
func TestLabelOfRootDirectoryCounts(t *testing.T) {
	path := makeFAT(t, "16", "OLD", 32)
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(disk, []byte("OLD        \x08"))
	if at < 512 {
		t.Fatal("no label in the root directory")
	}
	copy(disk[at:], layout.SeedVolume)
	if got, err := FATLabel(bytes.NewReader(disk)); err != nil || got != layout.SeedVolume {
		t.Fatalf("label %q, error %v", got, err)
	}
}

func TestFATLabelRefuses(t *testing.T) {
	good, err := os.ReadFile(makeFAT(t, "12", "X", 2))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]func(b []byte) []byte{
		"empty":             func([]byte) []byte { return nil },
		"zeros":             func([]byte) []byte { return make([]byte, 4096) },
		"no boot signature": func(b []byte) []byte { b[510] = 0; return b },
		"sector of 0":       func(b []byte) []byte { b[11], b[12] = 0, 0; return b },
		"sector of 513":     func(b []byte) []byte { b[11], b[12] = 1, 2; return b },
		"cluster of 3":      func(b []byte) []byte { b[13] = 3; return b },
		"no table":          func(b []byte) []byte { b[16] = 0; return b },
		"cut off":           func(b []byte) []byte { return b[:1024] },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := FATLabel(bytes.NewReader(spoil(bytes.Clone(good)))); !errors.Is(err, ErrNoFAT) {
				t.Fatalf("label %q, error %v, want %v", got, err, ErrNoFAT)
			}
		})
	}
}

func FuzzFATLabel(f *testing.F) {
	sector := make([]byte, 512)
	copy(sector[510:], "\x55\xAA")
	sector[12], sector[13], sector[14], sector[16], sector[17], sector[22] = 2, 1, 1, 2, 16, 1
	sector[38] = 0x29
	copy(sector[43:], layout.SeedVolume)
	f.Add(sector)
	f.Add(append(bytes.Clone(sector), make([]byte, 2048)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		label, err := FATLabel(bytes.NewReader(data))
		if err != nil && !errors.Is(err, ErrNoFAT) {
			t.Fatal(err)
		}
		if len(label) > fatLabelBytes {
			t.Fatalf("label %q", label)
		}
	})
}
