package secret

import (
	"errors"
	"strings"
	"testing"
)

// A hash that an earlier New made with other parameters: it must go on matching,
// whatever this package becomes.
const (
	old     = "$argon2id$v=19$m=65536,t=3,p=1$DVmab/xYuPidw2bUy78HKw$WGe+fJpWze4G3FN4zHAIQcqkIqFTwhgC80535Wp5y6E"
	oldText = "example of a secret, changed at once"
)

func TestMatches(t *testing.T) {
	h, err := Parse(old)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{oldText: true, oldText + " ": false, "": false, strings.Repeat("x", MaxSecret+1): false} {
		if h.Matches(text) != want {
			t.Errorf("%q matches: %v", text, !want)
		}
	}
	if (Hash{}).Matches("") || Decoy(h.Params()).Matches("") {
		t.Error("what has no hash matches")
	}
}

func TestNewSecretsAreReadBack(t *testing.T) {
	text := Generate()
	if len(text) != 32 || text == Generate() || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		t.Errorf("generated %q", text)
	}
	one, err := New(text)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Parse(one.String())
	if err != nil || !two.Matches(text) || two.String() != one.String() {
		t.Errorf("%v: %s and %s", err, one, two)
	}
	if again, err := New(text); err != nil || again.String() == one.String() {
		t.Errorf("two hashes have the same salt: %v", err)
	}
	for _, bad := range []string{"", "too short", strings.Repeat("x", MaxSecret+1)} {
		if _, err := New(bad); err == nil {
			t.Errorf("%d bytes are taken", len(bad))
		}
	}
}

func TestParseIsStrict(t *testing.T) {
	change := func(what, with string) string { return strings.Replace(old, what, with, 1) }
	for name, text := range map[string]string{
		"empty":               "",
		"plain":               "secret",
		"another algorithm":   change("argon2id", "argon2i"),
		"another version":     change("v=19", "v=16"),
		"no version":          change("v=19$", ""),
		"a part too many":     old + "$",
		"text before":         "x" + old,
		"too little memory":   change("m=65536", "m=19455"),
		"too much memory":     change("m=65536", "m=65537"),
		"more than a number":  change("m=65536", "m=4294967296000000000000"),
		"negative":            change("m=65536", "m=-65536"),
		"leading zero":        change("m=65536", "m=065536"),
		"plus":                change("m=65536", "m=+65536"),
		"one pass":            change("t=3", "t=1"),
		"many passes":         change("t=3", "t=9"),
		"no lane":             change("p=1", "p=0"),
		"many lanes":          change("p=1", "p=5"),
		"parameters swapped":  change("m=65536,t=3", "t=3,m=65536"),
		"parameter missing":   change(",p=1", ""),
		"parameter too many":  change(",p=1", ",p=1,keyid=x"),
		"short salt":          change("DVmab/xYuPidw2bUy78HKw", "DVmab/xYuPg"),
		"padded salt":         change("78HKw$", "78HKw==$"),
		"bits behind base64":  change("78HKw$", "78HKx$"),
		"short hash":          old[:len(old)-20],
		"line end":            old + "\n",
		"line end in base64":  change("DVmab/", "DVmab\n/"),
		"very long":           old + strings.Repeat("A", 1000),
		"url-safe characters": change("DVmab/", "DVmab_"),
	} {
		if h, err := Parse(text); !errors.Is(err, ErrForm) || h.Matches(oldText) || err != nil && len(text) > 20 && strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
}

// FuzzParse: what is taken is in its one spelling, within the bounds.
func FuzzParse(f *testing.F) {
	f.Add(old)
	f.Add("$argon2id$v=19$m=19456,t=2,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=1,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := Parse(text)
		if err != nil {
			return
		}
		p := h.Params()
		if h.String() != text || p.Memory < MinMemory || p.Memory > MaxMemory || p.Passes < MinPasses || p.Passes > MaxPasses || p.Lanes < 1 || p.Lanes > MaxLanes {
			t.Fatalf("%q gives %s", text, h)
		}
	})
}
