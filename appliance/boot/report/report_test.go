package report

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarshalParse(t *testing.T) {
	want := Report{
		Version: "1.2.3", Variant: "dev", Epoch: 4, Slot: SlotB, Trial: true,
		BootCurrent: "0003", BootOrder: []string{"0002", "0003"},
		SecureBoot: true, Lockdown: "integrity", Watchdog: "i6300ESB timer",
		Disk: "/dev/vda", ESP: "/dev/vda1", Data: "/dev/vda2", Formatted: true,
		Locked:     &Fault{Code: "tpm-changed", English: "x", German: "y", Detail: "z"},
		Seed:       Seed{Device: "/dev/vdb", Verdict: Refused, Serial: 7, Faults: []SeedFault{{1, "no"}}},
		ConfigFile: "/x", Steps: []Step{{"mounts", 0.5}}, Uptime: 3.25,
	}
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestParseIgnoresLaterFields(t *testing.T) {
	got, err := Parse([]byte(`{"version":"1","later":{"x":1}}`))
	if err != nil || got.Version != "1" {
		t.Fatalf("got %+v, error %v", got, err)
	}
}

func TestBounds(t *testing.T) {
	if _, err := Parse([]byte(strings.Repeat(" ", MaxSize+1))); err == nil {
		t.Error("parsed a report above MaxSize")
	}
	if _, err := (Report{Lockdown: strings.Repeat("x", MaxSize)}).Marshal(); err == nil {
		t.Error("marshalled a report above MaxSize")
	}
	if _, err := Parse([]byte("{")); err == nil {
		t.Error("parsed half an object")
	}
}
