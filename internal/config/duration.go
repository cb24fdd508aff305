package config

import (
	"fmt"
	"time"
)

// Duration is a span of time, written as time.ParseDuration reads it: "90m", "48h".
type Duration time.Duration

// UnmarshalText reads a duration that is not negative.
func (d *Duration) UnmarshalText(text []byte) error {
	t, err := time.ParseDuration(string(text))
	if err != nil || t < 0 {
		return fmt.Errorf("%s is no duration", quote(string(text)))
	}
	*d = Duration(t)
	return nil
}

// MarshalText gives what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String gives it as time.Duration does.
func (d Duration) String() string { return time.Duration(d).String() }
