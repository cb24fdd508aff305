package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// TestRefusals: apid does not start on half of what it needs.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no sockets":       {nil, "FileDescriptorName=apid"},
		"unknown flag":     {[]string{"-listen", ":1"}, "flag provided but not defined"},
		"unknown argument": {[]string{"serve"}, "takes flags only"},
	} {
		if err := run(t.Context(), tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestReport: without init's report apid does not guess whether the box is locked.
func TestReport(t *testing.T) {
	if _, err := readReport(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing report was taken")
	}
	file := filepath.Join(t.TempDir(), "boot.json")
	data, err := report.Report{Version: "1", Locked: &report.Fault{Code: "x"}}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := readReport(file); err != nil || r.Locked == nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestNoOwner: without the owner's key no configuration can be trusted, which is
// another thing than having none.
func TestNoOwner(t *testing.T) {
	if _, err := configuration(filepath.Join(t.TempDir(), "none"), false); err == nil || errors.Is(err, config.ErrNone) {
		t.Errorf("%v", err)
	}
}
