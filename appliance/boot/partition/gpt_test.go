package partition

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// tool finds a program of the test machine.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("SHORT") == "1" {
			t.Skipf("SHORT=1 and %s is not installed", name)
		}
		t.Fatalf("%s is not installed: apt-get install %s, or skip with SHORT=1", name, pkg)
	}
	return path
}

func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
}

// TestTableOfSgdisk reads what the usual tool for partition tables writes.
func TestTableOfSgdisk(t *testing.T) {
	sgdisk := tool(t, "sgdisk", "gdisk")
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	const espID, dataID = "0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0", "11111111-2222-3333-4444-555555555555"
	run(t, sgdisk, "--set-alignment=2048",
		"--new=1:2048:+16M", "--typecode=1:ef00", "--change-name=1:"+layout.ESPLabel, "--partition-guid=1:"+espID,
		"--new=3:0:0", "--typecode=3:"+layout.DataType, "--change-name=3:Daten für Köln", "--partition-guid=3:"+dataID, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Table(f, 512)
	if err != nil {
		t.Fatal(err)
	}
	want := []Partition{
		{Number: 1, Type: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", ID: espID, Name: layout.ESPLabel, First: 2048, Last: 34815},
		{Number: 3, Type: layout.DataType, ID: dataID, Name: "Daten für Köln", First: 34816, Last: 131038},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

// madeTable is a small valid disk: header in block 1, two entries from block 2 on.
func madeTable() []byte {
	disk := make([]byte, 8<<10)
	le := binary.LittleEndian
	entries := disk[1024:][:2*minEntrySize]
	for i := range 2 {
		e := entries[i*minEntrySize:]
		e[0], e[16] = 1, byte(i+1)
		le.PutUint64(e[32:], uint64(10+i*10))
		le.PutUint64(e[40:], uint64(19+i*10))
		e[56] = 'a'
	}
	h := disk[512:]
	copy(h, "EFI PART")
	le.PutUint32(h[12:], minHeader)
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 2)
	le.PutUint32(h[84:], minEntrySize)
	correct(disk)
	return disk
}

// correct puts both checksums right.
func correct(disk []byte) {
	le := binary.LittleEndian
	h := disk[512:][:512]
	if n := le.Uint32(h[80:]) * le.Uint32(h[84:]); n <= 4096 {
		le.PutUint32(h[88:], crc32.ChecksumIEEE(disk[1024:][:n]))
	}
	clear(h[16:20])
	if n := le.Uint32(h[12:]); n <= 512 {
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
	}
}

func TestTableRefuses(t *testing.T) {
	put32 := func(at int, v uint32) func([]byte) {
		return func(disk []byte) { binary.LittleEndian.PutUint32(disk[512+at:], v); correct(disk) }
	}
	put64 := func(at int, v uint64) func([]byte) {
		return func(disk []byte) { binary.LittleEndian.PutUint64(disk[512+at:], v); correct(disk) }
	}
	tests := map[string]func(disk []byte){
		"no signature":                func(disk []byte) { disk[512] = 'e'; correct(disk) },
		"header checksum":             func(disk []byte) { disk[512+56] ^= 1 },
		"entry checksum":              func(disk []byte) { disk[1024+60] ^= 1 },
		"header too small":            put32(12, minHeader-1),
		"header too large":            put32(12, 513),
		"backup header":               put64(24, 16),
		"entries before the header":   put64(72, 1),
		"entries far away":            put64(72, 1<<40),
		"too many entries":            put32(80, maxEntries+1),
		"entries too small":           put32(84, 64),
		"entries too large":           put32(84, 8192),
		"entry ends before it begins": func(disk []byte) { binary.LittleEndian.PutUint64(disk[1024+40:], 1); correct(disk) },
		"all zero":                    func(disk []byte) { clear(disk) },
	}
	if _, err := Table(bytes.NewReader(madeTable()), 512); err != nil {
		t.Fatalf("the table that the tests spoil is wrong itself: %v", err)
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			disk := madeTable()
			spoil(disk)
			if got, err := Table(bytes.NewReader(disk), 512); !errors.Is(err, ErrNoTable) {
				t.Fatalf("got %v, error %v, want %v", got, err, ErrNoTable)
			}
		})
	}
	for _, block := range []int{0, 511, 513, -512, 1 << 20} {
		if _, err := Table(bytes.NewReader(madeTable()), block); !errors.Is(err, ErrNoTable) {
			t.Errorf("block size %d: error %v, want %v", block, err, ErrNoTable)
		}
	}
	if _, err := Table(bytes.NewReader(nil), 512); !errors.Is(err, ErrNoTable) {
		t.Errorf("empty disk: error %v, want %v", err, ErrNoTable)
	}
}

func FuzzTable(f *testing.F) {
	f.Add(madeTable())
	f.Fuzz(func(t *testing.T, data []byte) {
		disk := make([]byte, 8<<10)
		copy(disk, data)
		correct(disk) // let the fuzzer past the checksums
		table, err := Table(bytes.NewReader(disk), 512)
		if err != nil && !errors.Is(err, ErrNoTable) {
			t.Fatal(err)
		}
		for _, p := range table {
			if p.Number < 1 || p.Number > maxEntries || p.First > p.Last {
				t.Fatalf("impossible partition %+v", p)
			}
		}
	})
}
