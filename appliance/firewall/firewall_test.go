package firewall

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// document is the example configuration with texts replaced, old and new in turn.
func document(t *testing.T, replace ...string) *config.Document {
	t.Helper()
	data, err := os.ReadFile("../../internal/config/testdata/example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for i := 0; i+1 < len(replace); i += 2 {
		if strings.Count(text, replace[i]) != 1 {
			t.Fatalf("%q does not stand exactly once in the example", replace[i])
		}
		text = strings.Replace(text, replace[i], replace[i+1], 1)
	}
	doc, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// cases are the archives in testdata: replace/with pairs for the example, and
// the rules that follow from it.
func cases(t *testing.T) map[string]*txtar.Archive {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	all := map[string]*txtar.Archive{}
	for _, f := range files {
		a, err := txtar.ParseFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all[f] = a
	}
	return all
}

func rulesOf(t *testing.T, a *txtar.Archive) Ruleset {
	t.Helper()
	var replace []string
	for _, f := range a.Files {
		switch f.Name {
		case "no configuration":
			return Rules(nil)
		case "replace", "with":
			replace = append(replace, string(f.Data))
		}
	}
	return Rules(document(t, replace...))
}

// TestRules compares with the golden rules. UPDATE=1 writes them anew; read the
// difference: it is what the network may do.
func TestRules(t *testing.T) {
	for file, a := range cases(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			got := rulesOf(t, a).String()
			last := &a.Files[len(a.Files)-1]
			if last.Name != "rules" {
				t.Fatalf("the archive ends with %q, want rules", last.Name)
			}
			d := cmp.Diff(string(last.Data), got)
			if d == "" {
				return
			}
			if os.Getenv("UPDATE") != "1" {
				t.Fatal(d)
			}
			last.Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestMark(t *testing.T) {
	one, two := Rules(document(t)), Rules(document(t, "serial: 1 ", "serial: 2 "))
	if one.mark() != two.mark() {
		t.Error("rules change with the serial, which they do not use")
	}
	other := Rules(document(t, "port: 8443", "port: 9443"))
	if one.mark() == other.mark() {
		t.Error("the mark does not change with the rules")
	}
}

func TestOfFamily(t *testing.T) {
	var all []netip.Prefix
	for _, s := range []string{"10.2.0.0/16", "fd10::/64", "10.1.0.7/32", "10.2.3.0/24", "10.2.0.0/16", "10.1.0.6/32", "0.0.0.0/32"} {
		all = append(all, netip.MustParsePrefix(s))
	}
	if got, want := ofFamily(all, false), "[0.0.0.0/32 10.1.0.6/32 10.1.0.7/32 10.2.0.0/16]"; strings.Join(strings.Fields(stringOf(got)), " ") != want {
		t.Errorf("ofFamily = %s, want %s", stringOf(got), want)
	}
}

func stringOf(list []netip.Prefix) string {
	parts := make([]string, len(list))
	for i, p := range list {
		parts[i] = p.String()
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func TestBehind(t *testing.T) {
	for network, want := range map[string]string{
		"10.0.0.0/8":         "11.0.0.0",
		"10.0.0.255/32":      "10.0.1.0",
		"10.255.255.0/24":    "11.0.0.0",
		"255.255.255.255/32": "",
		"0.0.0.0/0":          "",
		"128.0.0.0/1":        "",
		"fd10::/64":          "fd10:0:0:1::",
	} {
		got := ""
		if a, ok := netip.AddrFromSlice(behind(netip.MustParsePrefix(network))); ok {
			got = a.String()
		}
		if got != want {
			t.Errorf("behind %s comes %q, want %q", network, got, want)
		}
	}
}
