package mapping

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

func deMail(t testing.TB, s string) demail.Address {
	t.Helper()
	a, err := demail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// parse reads a table whose addresses are short: "a" stands for a@amt.example on
// the left and a@amt.de-mail.example on the right.
func parse(t testing.TB, rows string) *Table {
	t.Helper()
	table, err := read("mail;deMail;direction\n" + expand(rows))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func expand(rows string) string {
	var b strings.Builder
	for row := range strings.Lines(rows) {
		f := strings.Split(strings.TrimSpace(row), ";")
		if len(f) != 3 {
			continue
		}
		for i, domain := range []string{"@amt.example", "@amt.de-mail.example"} {
			if f[i] != "" {
				f[i] += domain
			}
		}
		b.WriteString(strings.Join(f, ";") + "\n")
	}
	return b.String()
}

func read(text string) (*Table, error) {
	var b Builder
	b.CSV(text, 1)
	return b.Table()
}

func TestDirections(t *testing.T) {
	const rule = "*;*;both\n"
	tests := []struct {
		name, rows, mail string
		sends            string // as which De-Mail address, "" if none
		deMail           string
		gets             []string
		has              bool
	}{
		{"both", "a;a;both", "a", "a", "a", []string{"a"}, true},
		{"nobody", "a;a;both", "b", "", "b", nil, false},
		{"several may send as one", "a;a;both\nb;a;send", "b", "a", "a", []string{"a"}, true},
		{"only a sender", "b;a;send", "b", "a", "a", nil, true},
		{"fan-out, holder first", "c;a;receive\na;a;both\nb;a;receive", "b", "", "a", []string{"a", "c", "b"}, true},
		{"copies without a holder", "b;a;receive\nc;a;receive", "c", "", "a", []string{"b", "c"}, true},
		{"sends as one, gets another's copies", "b;b;both\nb;a;receive\na;a;both", "b", "b", "a", []string{"a", "b"}, true},
		{"copies first, sender later", "b;a;receive\nb;b;send", "b", "b", "a", []string{"b"}, true},
		{"send and receive of one pair", "a;a;both\nb;a;send\nb;a;receive", "b", "a", "a", []string{"a", "b"}, true},
		{"none, no rule", "a;a;none", "a", "", "a", nil, false},

		{"rule", rule, "a", "a", "a", []string{"a"}, true},
		{"rule and nobody's local part", rule, "x y", "", "a", []string{"a"}, true},
		{"exact before rule, sending", rule + "a;z;both", "a", "z", "z", []string{"a"}, true},
		{"the holder's own address by rule is void", rule + "a;z;both", "z", "", "a", nil, false},
		{"a deputy takes nothing away", rule + "b;a;send", "b", "a", "a", []string{"a"}, true},
		{"and gets its own mail", rule + "b;a;send", "a", "a", "b", []string{"b"}, true},
		{"a copy takes nothing away", rule + "b;a;receive", "b", "", "a", []string{"a", "b"}, true},
		{"exception by e-mail address", rule + "a;;none", "a", "", "a", nil, false},
		{"exception by De-Mail address", rule + ";a;none", "a", "", "a", nil, false},
		{"exception for others holds nothing up", rule + "b;;none", "a", "a", "a", []string{"a"}, true},
		{"exception with a copy", rule + "a;a;none\nb;a;receive", "a", "", "a", []string{"b"}, true},
		{"rule that only receives", "*;*;receive", "a", "", "a", []string{"a"}, true},
		{"rule that only sends", "*;*;send", "a", "a", "a", nil, true},
		{"rule that only sends, and a holder", "*;*;send\nb;a;both", "a", "a", "a", []string{"b"}, true},
		{"rule that only receives, and a holder", "*;*;receive\nb;a;both", "b", "a", "a", []string{"b", "a"}, true},
		{"rule that only sends, overruled", "*;*;send\na;b;send", "a", "b", "a", nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table := parse(t, test.rows)
			got, ok := table.DeMail(strings.ToUpper(test.mail) + "@Amt.example")
			if want := strings.TrimPrefix(test.sends+"@amt.de-mail.example", "@amt.de-mail.example"); got.String() != want || ok != (want != "") {
				t.Errorf("%s sends as %q (%v), want %q", test.mail, got, ok, want)
			}
			a := deMail(t, test.deMail+"@amt.de-mail.example")
			var want []string
			for _, m := range test.gets {
				want = append(want, m+"@amt.example")
			}
			if got := table.Mail(a); !slices.Equal(got, want) {
				t.Errorf("what comes to %s goes to %q, want %q", a, got, want)
			}
			if table.Has(a) != test.has {
				t.Errorf("Has(%s) = %v", a, !test.has)
			}
			if d := deMail(t, "a@elsewhere.de-mail.example"); table.Has(d) || table.Mail(d) != nil {
				t.Error("holds an address of another domain")
			}
		})
	}
}

func TestSeveralRules(t *testing.T) {
	table, err := New([]Entry{
		{"*@amt.example", "*@amt.de-mail.example", Both},
		{"*@alt.example", "*@amt.de-mail.example", Send},
		{"*@archiv.example", "*@amt.de-mail.example", Receive},
		{"*@in.example", "*@in.amt.de-mail.example", Both},
	})
	if err != nil {
		t.Fatal(err)
	}
	for mail, want := range map[string]string{"a@amt.example": "a@amt.de-mail.example", "a@alt.example": "a@amt.de-mail.example", "a@archiv.example": "", "a@in.example": "a@in.amt.de-mail.example"} {
		if got, _ := table.DeMail(mail); got.String() != want {
			t.Errorf("%s sends as %q, want %q", mail, got, want)
		}
	}
	if got := table.Mail(deMail(t, "a@amt.de-mail.example")); !slices.Equal(got, []string{"a@amt.example", "a@archiv.example"}) {
		t.Errorf("a@amt goes to %q", got)
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	tests := []struct {
		name, rows string
		want       []string
	}{
		{"two holders", "a;a;both\nb;a;both", []string{"line 3: De-Mail address \"a@amt.de-mail.example\" already stands on line 2"}},
		{"two senders", "a;a;both\na;b;send", []string{"line 3: e-mail address \"a@amt.example\" already stands on line 2"}},
		{"one copy twice", "a;a;receive\nb;b;both\na;a;receive", []string{"line 4: De-Mail address"}},
		{"holder and copy", "a;a;both\na;a;receive", []string{"line 3: De-Mail address"}},
		{"none and both", "a;;none\na;a;both", []string{"line 3: e-mail address"}},
		{"none and both, De-Mail side", ";a;none\nb;a;both", []string{"line 3: De-Mail address"}},
		{"halves", "a;;both\n;a;receive\n;;none", []string{"line 2: the De-Mail address is missing", "line 3: the e-mail address is missing", "line 4: there is no address"}},
		{"bad addresses", "ä;a;both\na b;.a;both", []string{"line 2: \"ä@amt.example\" is no e-mail", "line 3: \"a b@amt.example\" is no e-mail", "line 3: \".a@amt.de-mail.example\" is no De-Mail"}},
		{"half a rule", "*;a;both\na;*;both\n*;;none\n*;*;none", []string{"line 2: ", "line 3: ", "line 4: ", "line 5: a rule with direction none"}},
		{"a rule twice", "*;*;both\n*;*;send\n*;*;receive\n*;*;receive", []string{"line 3: the rule for sending from amt.example", "line 5: the rule for copies of"}},
		{"different kinds, in the order of lines", "a;a;both\nb;a;both\nc;c;sideways", []string{"line 3: De-Mail", "line 4: there is no direction \"sideways\""}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			table, err := read("mail;deMail;direction\n" + expand(test.rows))
			var faults *Faults
			if table != nil || !errors.As(err, &faults) {
				t.Fatalf("%v, %v", table, err)
			}
			if faults.Total != len(test.want) || len(faults.Shown) != len(test.want) {
				t.Fatalf("%v\nwant %q", faults, test.want)
			}
			for i, f := range faults.Shown {
				if !strings.HasPrefix(f.String(), test.want[i]) || f.Remedy == "" {
					t.Errorf("%s, want %s", f, test.want[i])
				}
			}
		})
	}
}

func TestBounds(t *testing.T) {
	var copies, faulty strings.Builder
	for i := range MaxCopies + 1 {
		fmt.Fprintf(&copies, "c%d;a;receive\n", i)
	}
	for range 3 * MaxFaults {
		faulty.WriteString("a;a;sideways\n")
	}
	_, err := read("mail;deMail;direction\n" + expand(copies.String()))
	var faults *Faults
	if !errors.As(err, &faults) || faults.Total != 1 || faults.Shown[0].Line != MaxCopies+2 {
		t.Errorf("too many copies: %v", err)
	}
	_, err = read("mail;deMail;direction\n" + expand(faulty.String()))
	if !errors.As(err, &faults) || len(faults.Shown) != MaxFaults || faults.Total != 3*MaxFaults || !strings.Contains(err.Error(), "600 faults, 200 shown") {
		t.Errorf("many faults: %d shown of %d", len(faults.Shown), faults.Total)
	}
	_, err = read("mail;deMail\na;" + strings.Repeat(`""`, maxRow))
	if !errors.As(err, &faults) || !strings.Contains(err.Error(), "more than 4096") {
		t.Errorf("long line: %v", err)
	}
}

func TestJudgeIsAsked(t *testing.T) {
	b := Builder{Judge: func(e Entry, line int) []Fault {
		if e == (Entry{"x@amt.example", "", None}) || e.Mail == e.DeMail {
			return nil
		}
		return []Fault{{Text: fmt.Sprint(e, line), Remedy: "do not"}}
	}}
	b.CSV("mail;deMail;direction\nA@b.example;a@B.example;\nx@amt.example;;none\n*@amt.example;*@x.example;send\n", 10)
	_, err := b.Table()
	var faults *Faults
	if !errors.As(err, &faults) || faults.Total != 1 || faults.Shown[0].String() != "line 13: {*@amt.example *@x.example send} 13; do not" {
		t.Errorf("%v", err)
	}
}

func TestEmptyTable(t *testing.T) {
	for _, table := range []*Table{{}, parse(t, "")} {
		a := deMail(t, "a@amt.de-mail.example")
		if _, ok := table.DeMail("a@amt.example"); ok || table.Has(a) || table.Mail(a) != nil || table.Len() != 0 {
			t.Error("an empty table holds something")
		}
	}
}

func TestFoldTouchesASCIIOnly(t *testing.T) {
	if got := Fold("ÄA@İx"); got != "Äa@İx" {
		t.Errorf("Fold = %q", got)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	table := parse(t, "a;a;both\n*;*;both")
	a := deMail(t, "a@amt.de-mail.example")
	if n := testing.AllocsPerRun(100, func() {
		table.DeMail("a@amt.example")
		table.Has(a)
	}); n != 0 {
		t.Errorf("%v allocations per look-up", n)
	}
}
