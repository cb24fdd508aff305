package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var equal = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func example(t testing.TB) []byte {
	t.Helper()
	return testdata(t, "example.yaml")
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestDocuments: the examples, and those that earlier versions took, are right.
func TestDocuments(t *testing.T) {
	older, err := fs.Glob(os.DirFS("testdata"), "older/*.yaml")
	if err != nil || len(older) == 0 {
		t.Fatalf("no older documents: %v", err)
	}
	for _, name := range append(older, "example.yaml", "complete.yaml") {
		t.Run(name, func(t *testing.T) { readTwice(t, testdata(t, name)) })
	}
}

// TestEveryFieldIsShown: whoever configures a box finds each key in complete.yaml.
func TestEveryFieldIsShown(t *testing.T) {
	text := string(testdata(t, "complete.yaml"))
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		if typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || typ.PkgPath() != reflect.TypeFor[Document]().PkgPath() {
			return
		}
		seen[typ] = true
		for key, i := range fieldsOf(typ) {
			if !regexp.MustCompile(`(?m)^[ #-]*` + key + `:`).MatchString(text) {
				t.Errorf("complete.yaml does not show %s of %s", key, typ)
			}
			look(typ.Field(i).Type)
		}
	}
	look(reflect.TypeFor[Document]())
	if len(seen) < 20 {
		t.Errorf("only %d types were looked at", len(seen))
	}
}

func readTwice(t *testing.T, data []byte) {
	t.Helper()
	doc, err := Parse(data)
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
	rows := strings.Repeat("      "+strings.Repeat(" ", 4000)+"\n", MaxText/4000)
	long := strings.Replace(string(example(t)), "    mappings:\n", "    mappingTable: |\n      mail;deMail\n"+rows+"    mappings:\n", 1)
	if _, err := Parse([]byte(long)); err != nil {
		t.Errorf("%d bytes of mapping table: %v", len(rows), err)
	}
	_, err = Parse(bytes.Repeat([]byte("# comment\n"), MaxText/10+1))
	if !errors.As(err, &faults) || len(faults) != 1 || !strings.Contains(faults[0].Text, "beside mapping tables") {
		t.Errorf("too large beside tables: %v", err)
	}
	rows = strings.Repeat("      x;y\n", 5*MaxFaults)
	long = strings.Replace(string(example(t)), "    mappings:\n", "    mappingTable: |\n      mail;deMail\n"+rows+"    mappings:\n", 1)
	_, err = Parse([]byte(long))
	if want := fmt.Sprintf("%d more faults are not shown", 9*MaxFaults); !errors.As(err, &faults) || len(faults) != MaxFaults+1 || faults[MaxFaults].Text != want {
		t.Errorf("too many faults in a table: %d, %v", len(faults), faults[len(faults)-1])
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
