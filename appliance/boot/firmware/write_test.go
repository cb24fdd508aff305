package firmware

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEncodeEntryReadsBack(t *testing.T) {
	disk := HardDrive{Number: 1, Start: 2048, Blocks: 1 << 20, GUID: espID}
	data, err := EncodeEntry("Pforte B", disk, "EFI/pforte/b.efi")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseEntry(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Entry{Description: "Pforte B", Partition: espID, Path: "EFI/pforte/b.efi"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestEncodeEntryBytes compares with an entry as written down from UEFI 2.10,
// byte by byte.
func TestEncodeEntryBytes(t *testing.T) {
	data, err := EncodeEntry("P", HardDrive{Number: 2, Start: 3, Blocks: 4, GUID: "00112233-4455-6677-8899-aabbccddeeff"}, "x")
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{
		1, 0, 0, 0, // LOAD_OPTION_ACTIVE
		42 + 10 + 4, 0, // length of the device path
		'P', 0, 0, 0,
		4, 1, 42, 0, // media, hard drive
		2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0,
		0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
		2, 2, // GPT, GUID
		4, 4, 10, 0, '\\', 0, 'x', 0, 0, 0,
		0x7f, 0xff, 4, 0,
	}
	if diff := cmp.Diff(want, data); diff != "" {
		t.Error(diff)
	}
	if _, err := EncodeEntry("P", HardDrive{GUID: "none"}, "x"); err == nil {
		t.Error("a GUID that is none was encoded")
	}
}
