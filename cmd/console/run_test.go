package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
)

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"unknown flag":     {[]string{"-tty", "x"}, "flag provided but not defined"},
		"unknown argument": {[]string{"show"}, "takes flags only"},
	} {
		if err := run(t.Context(), tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestBoot: what cannot be read shows nothing and stops nothing.
func TestBoot(t *testing.T) {
	dir := t.TempDir()
	good, err := report.Report{Version: "1.4.0", Variant: "dev"}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{"missing": {nil, ""}, "damaged": {[]byte("{"), ""}, "good": {good, "1.4.0"}} {
		file := filepath.Join(dir, name)
		if tt.data != nil {
			if err := os.WriteFile(file, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := readBoot(file).Version; got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
