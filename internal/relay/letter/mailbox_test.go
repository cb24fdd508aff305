package letter

import (
	"fmt"
	"net/mail"
	"strings"
	"testing"
)

func TestMailboxes(t *testing.T) {
	tests := []struct {
		in   string
		want string // addresses, joined by spaces
		err  error
	}{
		{"a@x.example", "a@x.example", nil},
		{"  a@x.example  ", "a@x.example", nil},
		{"<a@x.example>", "a@x.example", nil},
		{"Amt <a@x.example>, b@x.example", "a@x.example b@x.example", nil},
		{"Amt\r\n <a@x.example>,\r\n\tb@x.example", "a@x.example b@x.example", nil},
		{`"Muster, Erika" <a@x.example>`, "a@x.example", nil},
		{`"\"quoted\" <not@this.example>" <a@x.example>`, "a@x.example", nil},
		{"(not@this.example) a@x.example (nor (this@one.example), ok\\)) , b@x.example", "a@x.example b@x.example", nil},
		{"Amt: a@x.example, B <b@x.example>; , c@x.example", "a@x.example b@x.example c@x.example", nil},
		{"undisclosed-recipients:;", "", nil},
		{"", "", nil},
		{",,a@x.example,", "a@x.example", nil},
		{"a@x.example <b@x.example>", "b@x.example", nil},
		{"<@relay.example,@other.example:a@x.example>", "a@x.example", nil},
		{"a (comment) @ x.example", "a@x.example", nil},
		{`"a b"@x.example`, `"a b"@x.example`, nil},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", nil},
		{"=?utf-8?Q?Gr=C3=BCn=2C?= <a@x.example>", "a@x.example", nil},
		{"J. R. Muster <a@x.example>", "a@x.example", nil},
		{"Muster, Erika <a@x.example>", "", errMissingAddress},
		{"nobody", "", errMissingAddress},
		{"Amt <>", "", errMissingAddress},
		{"Amt <a@x.example", "", errUnclosedAngle},
		{`"Amt <a@x.example>`, "", errUnclosedQuote},
		{"(Amt <a@x.example>", "", errUnclosedQuote},
		{"<a@x.example> b@x.example", "", errBehindAddress},
		{"<a@x.example> <b@x.example>", "", errBehindAddress},
		{"<a@x.example>: b@x.example", "", errBehindAddress},
		{"<<a@x.example>>", "", errMailbox},
		{strings.Repeat("a@x.example,", maxMailboxes+1), "", errManyMailboxes},
	}
	for _, test := range tests {
		got, err := mailboxes(test.in)
		var all []string
		for _, m := range got {
			all = append(all, m.address)
		}
		if err != test.err || err == nil && strings.Join(all, " ") != test.want {
			t.Errorf("%.60q: %q, %v; want %q, %v", test.in, all, err, test.want, test.err)
		}
	}
}

func TestRewriteKeepsAllElse(t *testing.T) {
	in := "\"Amt, x\" <A@X.example> (c), b@x.example,\r\n\tGruppe: <a@x.example>;"
	got, err := rewrite(in, func(a string) (string, bool) { return "new@y.example", strings.EqualFold(a, "a@x.example") })
	if want := "\"Amt, x\" <new@y.example> (c), b@x.example,\r\n\tGruppe: <new@y.example>;"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// What the scanner takes it takes apart without loss: nothing changed gives the
// same text, and a change is found again in the same places. Where the standard
// library reads a list too, both read the same addresses.
func FuzzMailboxes(f *testing.F) {
	for _, s := range []string{"a@x.example", "Amt <a@x.example>, \"b, c\" <b@x.example>", "g: a@x, <b@y>;", "(c(d)) a@x (e)", "<@r:a@x>", "\"q\\\"\"@x", "a@[::1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := mailboxes(s)
		if err != nil {
			return
		}
		same, err := rewrite(s, func(string) (string, bool) { return "", false })
		if err != nil || same != s {
			t.Fatalf("%q became %q, %v", s, same, err)
		}
		n := 0
		changed, err := rewrite(s, func(string) (string, bool) { n++; return fmt.Sprintf("n%d@new.example", n), true })
		if err != nil {
			t.Fatal(err)
		}
		again, err := mailboxes(changed)
		if err != nil || len(again) != len(list) {
			t.Fatalf("%q became %q with %d addresses, want %d: %v", s, changed, len(again), len(list), err)
		}
		for i, m := range again {
			if m.address != fmt.Sprintf("n%d@new.example", i+1) {
				t.Fatalf("%q became %q: address %d is %q", s, changed, i, m.address)
			}
		}
		if std, err := mail.ParseAddressList(s); err == nil && plain(s) {
			if len(std) != len(list) {
				t.Fatalf("%q: %d addresses, the standard library finds %d", s, len(list), len(std))
			}
			for i := range std {
				if std[i].Address != list[i].address {
					t.Fatalf("%q: %q, the standard library says %q", s, list[i].address, std[i].Address)
				}
			}
		}
	})
}

// plain leaves out what the standard library reads in its own way: quotations in
// the local part, which it takes away, and domain literals.
func plain(s string) bool { return !strings.ContainsAny(s, "\"\\[]") }
