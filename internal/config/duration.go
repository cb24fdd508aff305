package config

import (
	"fmt"
	"strings"
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

// String gives it as time.Duration does, without the zeros at the end: "48h".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if t := strings.TrimSuffix(s, "m0s"); t != s {
		s = t + "m"
	}
	if t := strings.TrimSuffix(s, "h0m"); t != s {
		s = t + "h"
	}
	return s
}
