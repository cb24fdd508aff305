package config

import (
	"errors"
	"strings"
	"testing"
)

func TestReplaceMappingTable(t *testing.T) {
	const doc = `tenants:
  # the first
  - id: a
    account: "x@y"   # stays
    name: A
    mappingTable: |  # goes

      one
        two

    # stays
    domains: []
  - account: z
    id: b
    mappingTable: |-
      last`
	tests := []struct {
		name, doc, tenant, old, new string
		line                        int
		err                         error
	}{
		{"in the middle", doc, "a", "    mappingTable: |  # goes\n\n      one\n        two\n", "    mappingTable: |\n      x;y\n\n      z\n", 7, nil},
		{"at the end", doc, "b", "    mappingTable: |-\n      last", "    mappingTable: |\n      x;y\n\n      z\n", 16, nil},
		{"none before", "tenants:\n- id: a\n  account: x@y # stays\n  name: A\n", "a", "  name: A\n", "  mappingTable: |\n    x;y\n\n    z\n  name: A\n", 5, nil},
		{"unknown tenant", doc, "c", "", "", 0, ErrNoTenant},
		{"no tenants", "version: 1\n", "a", "", "", 0, ErrNoTenant},
		{"no account", "tenants:\n- id: a\n", "a", "", "", 0, ErrLayout},
		{"flow style", "tenants: [{id: a, account: x}]\n", "a", "", "", 0, ErrLayout},
		{"quoted table", "tenants:\n- id: a\n  mappingTable: \"x\"\n", "a", "", "", 0, ErrLayout},
		{"behind a dash", "tenants:\n- mappingTable: |\n    x\n  id: a\n", "a", "", "", 0, ErrLayout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out, line, err := ReplaceMappingTable([]byte(test.doc), test.tenant, "\ufeffx;y\r\n\r\n  z ")
			if test.err != nil {
				if !errors.Is(err, test.err) || out != nil {
					t.Fatalf("%s, %v", out, err)
				}
				return
			}
			if want := strings.Replace(test.doc, test.old, test.new, 1); err != nil || string(out) != want || line != test.line {
				t.Errorf("line %d, %v\n%s\nwant line %d\n%s", line, err, out, test.line, want)
			}
		})
	}
	if _, _, err := ReplaceMappingTable([]byte("a: [\n"), "a", "x"); !errors.As(err, new(Faults)) {
		t.Errorf("no YAML: %v", err)
	}
}
