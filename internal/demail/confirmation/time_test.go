package confirmation

import (
	"encoding/json"
	"testing"
)

// A time that is taken over can be shown: JSON has no zone of 24 hours and no year
// beyond 9999.
func TestTimes(t *testing.T) {
	for text, want := range map[string]string{
		"2026-11-23T08:00:00+01:00":     `"2026-11-23T07:00:00Z"`,
		"2026-11-23T08:00:00.5":         `"2026-11-23T08:00:00.5Z"`,
		"2026-11-23T08:00:00+24:00":     `"2026-11-22T08:00:00Z"`,
		"9999-12-31T23:59:59-12:00":     "",
		"0001-01-01T00:00:00Z":          "",
		"2026-11-23":                    "",
		"2026-11-23T08:00:00+01:00 CET": "",
	} {
		at, err := dateTime("Time", text)
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v, %v", text, at, err)
			continue
		}
		if got, fault := json.Marshal(at); err == nil && (string(got) != want || fault != nil) {
			t.Errorf("%s: %s, %v", text, got, fault)
		}
	}
}
