package main

import (
	"strings"
	"testing"
)

// TestRefusals: keyd does not start on half of what it needs.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no sockets":       {nil, "FileDescriptorName=keyd-sign"},
		"unknown flag":     {[]string{"-listen", ":1"}, "flag provided but not defined"},
		"unknown argument": {[]string{"sign"}, "takes flags only"},
	} {
		if err := run(t.Context(), tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
