package config

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equal = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func example(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestExample(t *testing.T) {
	doc, err := Parse(example(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(doc.Tenants); n != 2 {
		t.Errorf("%d tenants, want 2", n)
	}
	out, err := Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(out)
	if err != nil {
		t.Fatalf("a written document is refused: %v\n%s", err, out)
	}
	if d := cmp.Diff(doc, again, equal); d != "" {
		t.Errorf("written and read again, the document differs:\n%s", d)
	}
}

func TestBounds(t *testing.T) {
	var faults Faults
	_, err := Parse(bytes.Repeat([]byte("#"), MaxSize+1))
	if !errors.As(err, &faults) || len(faults) != 1 || !strings.Contains(faults[0].Text, "more than") {
		t.Errorf("too large: %v", err)
	}
	many := "version: 1\n" + strings.Repeat("nonsense: 1\n", 3) + "tenants:\n" + strings.Repeat("  - {id: [], name: []}\n", MaxFaults)
	_, err = Parse([]byte(many))
	if !errors.As(err, &faults) || len(faults) != MaxFaults+1 || !strings.Contains(faults[MaxFaults].Text, "more faults are not shown") {
		t.Errorf("too many faults: %d", len(faults))
	}
	for _, deep := range []string{
		"box: " + strings.Repeat("[", 100_000),
		"box: " + strings.Repeat("{a: ", 100_000),
		"box: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		strings.Repeat("- ", 100_000),
	} {
		if _, err := Parse([]byte(deep)); !errors.As(err, &faults) || len(faults) == 0 {
			t.Errorf("%.20q…: %v", deep, err)
		}
	}
	// A thousand aliases of a thousand aliases would be a million values.
	bomb := "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nbox: [*b,*b,*b,*b,*b,*b,*b,*b]\n"
	if _, err := Parse([]byte(bomb)); !errors.As(err, &faults) {
		t.Errorf("aliases: %v", err)
	}
}
