package config

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"net/netip"
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
