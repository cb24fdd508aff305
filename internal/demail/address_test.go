package demail

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"poststelle@gemeinde.de-mail.example":               "poststelle@gemeinde.de-mail.example",
		"Poststelle@Bauamt.Gemeinde.DE-Mail.example":        "poststelle@bauamt.gemeinde.de-mail.example",
		"max.mustermann+x=1@de-mail.example":                "max.mustermann+x=1@de-mail.example",
		"Versandbestaetigung@provider.de-mail.example":      "versandbestaetigung@provider.de-mail.example",
		strings.Repeat("a", 64) + "@de-mail.example":        strings.Repeat("a", 64) + "@de-mail.example",
		"a@" + strings.Repeat("b.", 93) + "cde":             "a@" + strings.Repeat("b.", 93) + "cde",
		"a@1.2.3.4":                                         "a@1.2.3.4",
		"a@" + strings.Repeat("b", 63) + ".de-mail.example": "a@" + strings.Repeat("b", 63) + ".de-mail.example",
	} {
		a, err := ParseAddress(in)
		if err != nil || a.String() != want || a.Local()+"@"+a.Domain() != want {
			t.Errorf("ParseAddress(%q) = %q, %v", in, a, err)
		}
	}
	for _, in := range []string{
		"", "@", "a", "a@", "@b.example", "a@b", "a@b..c", "a@.b.c", "a@b.c.", "a@-b.c", "a@b-.c",
		"a b@c.example", `"a b"@c.example`, `"a"@c.example`, "a@b@c.example", ".a@c.example", "a.@c.example",
		"a..b@c.example", "a@[1.2.3.4]", "a@c.example ", " a@c.example", "<a@c.example>", "a,b@c.example",
		"ä@c.example", "a@ä.example", "a@\u212a.example", "a\x00@c.example", "a@c.exam\r\nple", "a;b@c.example",
		"a(x)@c.example", strings.Repeat("a", 65) + "@c.example",
		"a@" + strings.Repeat("b", 64) + ".example",
		"a@" + strings.Repeat("b.", 94) + "cd",                           // domain of 190
		strings.Repeat("a", 64) + "@" + strings.Repeat("b.", 93) + "cde", // 254 in all
	} {
		if a, err := ParseAddress(in); !errors.Is(err, ErrAddress) || !a.IsZero() {
			t.Errorf("ParseAddress(%q) = %q, %v, want ErrAddress", in, a, err)
		}
	}
}

func mustAddress(t testing.TB, s string) Address {
	t.Helper()
	a, err := ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAddressIn(t *testing.T) {
	a := mustAddress(t, "x@amt.gemeinde.de-mail.example")
	for domain, want := range map[string]bool{
		"de-mail.example": true, "DE-Mail.example": true, "gemeinde.de-mail.example": true,
		"amt.gemeinde.de-mail.example": true, "mt.gemeinde.de-mail.example": false,
		"": false, "example.": false, "x.amt.gemeinde.de-mail.example": false,
	} {
		if got := a.In(domain); got != want {
			t.Errorf("In(%q) = %v", domain, got)
		}
	}
	if (Address{}).In("de-mail.example") || (Address{}).In("") {
		t.Error("the zero address lies in a domain")
	}
}

func TestIsSystem(t *testing.T) {
	const provider = "Provider.de-mail.example"
	for _, typ := range []MessageType{
		TypeDispatch, TypeReceipt, TypeRetrieve, TypeMalwareAcknowledge,
		TypeMalwareNotification, TypeNotification, TypeIdentification,
	} {
		if a := mustAddress(t, typ.SystemSender(provider)); !IsSystem(a, provider) {
			t.Errorf("%s is no system address", a)
		}
	}
	if TypeNormal.SystemSender(provider) != "" {
		t.Error("normal messages have a system sender")
	}
	for _, s := range []string{"meldung@gemeinde.de-mail.example", "poststelle@provider.de-mail.example"} {
		if IsSystem(mustAddress(t, s), provider) {
			t.Errorf("%s is a system address", s)
		}
	}
}

func TestAddressText(t *testing.T) {
	var a Address
	if err := a.UnmarshalText([]byte("A@b.example")); err != nil || a.String() != "a@b.example" {
		t.Errorf("got %q, %v", a, err)
	}
	if err := a.UnmarshalText([]byte("nothing")); err == nil || a.String() != "a@b.example" {
		t.Error("a bad text changed the address")
	}
	if err := a.UnmarshalText(nil); err != nil || !a.IsZero() {
		t.Error("empty text is not the zero address")
	}
	if b, err := mustAddress(t, "a@b.example").MarshalText(); err != nil || string(b) != "a@b.example" {
		t.Errorf("got %q, %v", b, err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"poststelle@gemeinde.de-mail.example", "A@B.C", `"a b"@c.example`, "a@[1.2.3.4]", "@a:b@c.de", "a> SIZE=1@x.de", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		b, err := ParseAddress(a.String())
		if err != nil || a != b {
			t.Fatalf("%q: again: %q, %v", a, b, err)
		}
		if len(a.Local()) > MaxLocal || len(a.Domain()) > MaxDomain || len(a.String()) > MaxAddress {
			t.Fatalf("%q is too long", a)
		}
		if strings.ContainsAny(a.String(), "<> \t\r\n\";,:\\()[]\x00") || !strings.EqualFold(s, a.String()) {
			t.Fatalf("%q became %q", s, a)
		}
	})
}
