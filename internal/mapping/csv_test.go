package mapping

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestSpreadsheets: however a spreadsheet writes it, it is the same table.
func TestSpreadsheets(t *testing.T) {
	want := "mail;deMail;direction\n*@neu.example;*@neu.de-mail.example;both\na@amt.example;a@amt.de-mail.example;both\nb@amt.example;a@amt.de-mail.example;send\n;c@amt.de-mail.example;none\n"
	for name, text := range map[string]string{
		"as written here": want,
		"byte order mark, CRLF": "\ufeffmail;deMail;direction\r\n*@neu.example;*@neu.de-mail.example;both\r\na@amt.example;a@amt.de-mail.example;both\r\n" +
			"b@amt.example;a@amt.de-mail.example;send\r\n;c@amt.de-mail.example;none\r\n",
		"commas, quotes, upper case, no last line end": "\"mail\",\"deMail\",\"direction\"\n\"*@neu.example\",\"*@neu.de-mail.example\",\n\"A@Amt.example\",\"A@amt.De-Mail.example\",\"both\"\n" +
			"\"b@amt.example\", \"a@amt.de-mail.example\" ,\"Send\"\n,\"c@amt.de-mail.example\",none",
		"German, other order, empty columns and lines": "Richtung;E-Mail;De-Mail;;\n;*@neu.example;*@neu.de-mail.example;;\n\n;;;;\nbeide;a@amt.example ;\ta@amt.de-mail.example\n" +
			" Senden ;b@amt.example;a@amt.de-mail.example;;\n\nkeine;;c@amt.de-mail.example;;\n;;;;\n",
	} {
		t.Run(name, func(t *testing.T) {
			table, err := read(text)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := table.WriteCSV(&out); err != nil || out.String() != want {
				t.Errorf("%v\n%s", err, out.String())
			}
		})
	}
}

func TestUnreadableTables(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"empty":                {"", "line 7: the table is empty"},
		"Windows-1252":         {"mail;deMail\na@b.example;c@d.example\nm\xfcller@b.example;x@d.example\nm\xf6ller@b.example;y@d.example\n", "line 9: the table is not UTF-8 but probably Windows-1252 or ISO 8859-1 (2 lines"},
		"UTF-16":               {"\xff\xfem\x00a\x00", "line 7: the table is written in UTF-16"},
		"no header":            {"a@b.example;c@d.example\n", "line 7: there is no column \"a@b.example\""},
		"misspelt direction":   {"mail;deMail;directoin\n", "line 7: there is no column \"directoin\""},
		"column twice":         {"mail;mail;deMail\n", "line 7: column \"mail\" stands there twice"},
		"column missing":       {"\n\ndeMail;direction\n", "line 9: the first line does not name"},
		"quotation mark":       {"mail;deMail\n\"a@b.example;c@d.example\n", "line 8: a quotation mark"},
		"text after quotes":    {"mail;deMail\n\"a@b.example\"x;c@d.example\n", "line 8: a quotation mark"},
		"text without column":  {"mail;deMail\na@b.example;c@d.example;send\n", "line 8: \"send\" stands in a column without a name"},
		"quotes in the header": {"\"mail;deMail\n", "line 7: the first line has a quotation mark"},
	} {
		t.Run(name, func(t *testing.T) {
			var b Builder
			b.CSV(test.text, 7)
			_, err := b.Table()
			var faults *Faults
			if !errors.As(err, &faults) || faults.Total == 0 || !strings.HasPrefix(faults.Shown[0].String(), test.want) {
				t.Errorf("%v, want %s", err, test.want)
			}
		})
	}
}

// TestFormulas: nothing that is written runs in a spreadsheet, and it is read
// back as it was.
func TestFormulas(t *testing.T) {
	list := []Entry{{"=1+1@amt.example", "+x@amt.de-mail.example", Both}, {"-x@amt.example", "'x@amt.de-mail.example", Both}, {"'=x@amt.example", "x'@amt.de-mail.example", Both}}
	table, err := New(list)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := table.WriteCSV(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		for field := range strings.SplitSeq(line, ";") {
			if strings.ContainsAny(field[:1], "=+-@") {
				t.Errorf("a spreadsheet runs %s", line)
			}
		}
	}
	again, err := read(out.String())
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Collect(again.All()); !slices.Equal(got, list) {
		t.Errorf("read back: %q", got)
	}
}

// FuzzCSV: any bytes give a table or faults, never both, and a table that is
// written is read back to the same one.
func FuzzCSV(f *testing.F) {
	f.Add("mail;deMail;direction\n*@neu.example;*@neu.de-mail.example;both\na@amt.example;a@amt.de-mail.example;both\n")
	for _, seed := range []string{
		"\ufeffRichtung;E-Mail;De-Mail;\r\n;\"a@amt.example\";a@amt.de-mail.example;\r\nkeine;x@amt.example\r\n",
		"mail,deMail\n\"'=1+1@a.example\",'+a@b.example\n''x@a.example,'x@b.example\n",
		"mail;deMail;direction\n*@a.example;*@b.example;send\n*@c.example;*@b.example;receive\nx@a.example;x@b.example;both\ny@a.example;x@b.example;receive\n;z@b.example;none\n",
		"mail;deMail\na@b.example;c@d.example\na@b.example;c@d.example\n\"\"\"\n",
		"mail;deMail\nm\xfcller@b.example;x@d.example\n",
		"\xff\xfem\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := read(text)
		if (table == nil) == (err == nil) {
			t.Fatalf("%v and %v", table, err)
		}
		if err != nil {
			var faults *Faults
			if !errors.As(err, &faults) || faults.Total < 1 || len(faults.Shown) > MaxFaults || len(faults.Shown) < min(faults.Total, MaxFaults) {
				t.Fatalf("faults: %v", err)
			}
			if !slices.IsSortedFunc(faults.Shown, func(a, b Fault) int { return a.Line - b.Line }) {
				t.Fatalf("out of order: %v", err)
			}
			return
		}
		var one, two bytes.Buffer
		if err := table.WriteCSV(&one); err != nil {
			t.Fatal(err)
		}
		again, err := read(one.String())
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%q", err, one.String())
		}
		if err := again.WriteCSV(&two); err != nil || one.String() != two.String() {
			t.Fatalf("%v: %q and %q", err, one.String(), two.String())
		}
		agree(t, table, again)
	})
}

// agree asks both tables about every address of the first.
func agree(t *testing.T, a, b *Table) {
	t.Helper()
	for e := range a.All() {
		x, okX := a.DeMail(e.Mail)
		y, okY := b.DeMail(e.Mail)
		if x != y || okX != okY {
			t.Fatalf("%s sends as %s and %s", e.Mail, x, y)
		}
		if okX && !a.Has(x) {
			t.Fatalf("%s sends as %s, which the table does not have", e.Mail, x)
		}
		if e.DeMail == "" || isRule(e.DeMail) {
			continue
		}
		d := deMail(t, e.DeMail)
		if !slices.Equal(a.Mail(d), b.Mail(d)) || a.Has(d) != b.Has(d) || len(a.Mail(d)) > 0 && !a.Has(d) {
			t.Fatalf("%s: %q and %q", d, a.Mail(d), b.Mail(d))
		}
	}
}
