package milestone

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrintParse(t *testing.T) {
	tests := []struct {
		name string
		kv   []any
		line string
		want Mark
	}{
		{"plain", []any{"slot", "a", "n", 3}, "PFORTE boot.up slot=a n=3\n", Mark{"boot.up", map[string]string{"slot": "a", "n": "3"}}},
		{"quoted", []any{"why", `no "TPM" here`}, `PFORTE boot.up why="no \"TPM\" here"` + "\n", Mark{"boot.up", map[string]string{"why": `no "TPM" here`}}},
		{"empty", []any{"a", "", "b", 1}, `PFORTE boot.up a="" b=1` + "\n", Mark{"boot.up", map[string]string{"a": "", "b": "1"}}},
		{"newline", []any{"a", "x\ny"}, `PFORTE boot.up a="x\ny"` + "\n", Mark{"boot.up", map[string]string{"a": "x\ny"}}},
		{"nothing", nil, "PFORTE boot.up\n", Mark{"boot.up", map[string]string{}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			Print(&b, "boot.up", tt.kv...)
			if b.String() != tt.line {
				t.Fatalf("Print = %q, want %q", b.String(), tt.line)
			}
			got, ok := Parse("[    3.1] init: " + b.String())
			if !ok || !cmp.Equal(got, tt.want) {
				t.Fatalf("Parse = %v %v, want %v", got, ok, tt.want)
			}
		})
	}
	if _, ok := Parse("nothing here"); ok {
		t.Error("Parse found a mark in a line without one")
	}
}
