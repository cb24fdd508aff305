package update

import (
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/update/control"
)

func TestParseMeminfo(t *testing.T) {
	tests := []struct {
		name, in string
		want     control.Memory
		bad      bool
	}{
		{"as the kernel writes it", "MemTotal:        2014548 kB\nMemFree:  1 kB\nMemAvailable:    1800000 kB\n", control.Memory{Total: 2014548 << 10, Available: 1800000 << 10}, false},
		{"no number", "MemTotal: many kB\nMemAvailable: 1 kB\n", control.Memory{}, true},
		{"incomplete", "MemTotal: 1 kB\n", control.Memory{}, true},
		{"empty", "", control.Memory{}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseMeminfo(strings.NewReader(tt.in))
			if (err != nil) != tt.bad || err == nil && *got != tt.want {
				t.Errorf("parseMeminfo = %v, %v", got, err)
			}
		})
	}
}
