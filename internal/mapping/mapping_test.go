package mapping

import (
	"errors"
	"fmt"
	"slices"
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

func TestTable(t *testing.T) {
	office := deMail(t, "poststelle@gemeinde-a.de-mail.example")
	table, err := New([]Entry{
		{"Poststelle@Gemeinde-A.example", office, Both},
		{"buero@gemeinde-a.example", office, Both},
		{"bauamt@gemeinde-a.example", deMail(t, "bauamt@gemeinde-a.de-mail.example"), Both},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, mail := range []string{"poststelle@gemeinde-a.example", "POSTSTELLE@gemeinde-a.EXAMPLE", "buero@gemeinde-a.example"} {
		if got, ok := table.DeMail(mail); !ok || got != office {
			t.Errorf("DeMail(%s) = %v, %v", mail, got, ok)
		}
	}
	if got, ok := table.DeMail("poststelle@gemeinde-b.example"); ok {
		t.Errorf("a stranger maps to %v", got)
	}
	if got := table.Mail(office); !slices.Equal(got, []string{"poststelle@gemeinde-a.example", "buero@gemeinde-a.example"}) {
		t.Errorf("Mail(%s) = %q", office, got)
	}
	if unknown := deMail(t, "nobody@gemeinde-a.de-mail.example"); table.Has(unknown) || len(table.Mail(unknown)) > 0 {
		t.Error("an unknown De-Mail address is in the table")
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	a, b := deMail(t, "a@x.de-mail.example"), deMail(t, "b@x.de-mail.example")
	table, err := New([]Entry{{"one@x.example", a, Both}, {"ONE@x.example", b, Both}, {"", a, Both}, {"two@x.example", demail.Address{}, Both}})
	if table != nil || !errors.Is(err, ErrAmbiguous) {
		t.Fatalf("New: %v, %v", table, err)
	}
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) != 3 {
		t.Fatalf("faults: %v", err)
	}
}

func TestFoldTouchesASCIIOnly(t *testing.T) {
	if got := Fold("ÄA@İx"); got != "Äa@İx" {
		t.Errorf("Fold = %q", got)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	office := deMail(t, "poststelle@gemeinde-a.de-mail.example")
	table, err := New([]Entry{{"poststelle@gemeinde-a.example", office, Both}})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		table.DeMail("poststelle@gemeinde-a.example")
		table.Mail(office)
	}); n != 0 {
		t.Errorf("%v allocations per look-up", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	const size = 200_000
	entries := make([]Entry, size)
	for i := range entries {
		entries[i] = Entry{fmt.Sprintf("amt-%d@gemeinde.example", i), deMail(b, fmt.Sprintf("amt-%d@gemeinde.de-mail.example", i)), Both}
	}
	table, err := New(entries)
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		if _, ok := table.DeMail(entries[i%size].Mail); !ok {
			b.Fatal("lost an address")
		}
		i += 7919
	}
}
