package demail

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func render(r Recipients) string { return fmt.Sprint(r.To, r.CC, r.BCC) }

func TestParseRecipients(t *testing.T) {
	for in, want := range map[string]string{
		"to=a@b.example": "[a@b.example] [] []",
		"to=a@b.example;c@d.example ;cc=e@f.example ;bcc=g@h.example": "[a@b.example c@d.example] [e@f.example] [g@h.example]",
		" TO =\r\n A@B.example ; c@d.example;Cc=e@f.example":          "[a@b.example c@d.example] [e@f.example] []",
		"bcc=g@h.example":                                  "[] [] [g@h.example]",
		"cc=e@f.example;to=a@b.example":                    "[a@b.example] [e@f.example] []",
		`to="Amt; cc=x" <a@b.example>;Meier <c@d.example>`: "[a@b.example c@d.example] [] []",
		`to="a \" ; b" <a@b.example>`:                      "[a@b.example] [] []",
		"to=x=y@b.example":                                 "[x=y@b.example] [] []",
	} {
		r, err := ParseRecipients(in)
		if err != nil || render(r) != want {
			t.Errorf("%q: %s, %v", in, render(r), err)
		}
	}
	for _, in := range []string{
		"", "a@b.example", "to=", "to=;cc=a@b.example", "to=a@b.example;", "to=a@b.example;to=c@d.example",
		"to=a@b.example;cc=c@d.example;to=e@f.example", "from=a@b.example", "to=a@b.example,c@d.example",
		"to=a@b.example>", "to=<a@b.example", `to="a <a@b.example>`, "to=a@b.example;;cc=c@d.example",
		"to=" + strings.Repeat("a@b.example;", MaxRecipients) + "a@b.example",
	} {
		if r, err := ParseRecipients(in); !errors.Is(err, ErrRecipients) {
			t.Errorf("%.40q: %.40s, %v", in, render(r), err)
		}
	}
}

func TestFormatRecipients(t *testing.T) {
	a, b := mustAddress(t, "a@b.example"), mustAddress(t, "cc.x@b.example")
	s, err := Recipients{To: []Address{a, b}, CC: []Address{b}, BCC: []Address{a}}.Format()
	if want := "to=a@b.example;cc.x@b.example ;cc=cc.x@b.example\r\n  ;bcc=a@b.example"; err != nil || strings.ReplaceAll(s, "\r\n ", "") != strings.ReplaceAll(want, "\r\n ", "") {
		t.Errorf("%q, %v", s, err)
	}
	var many Recipients
	for i := range 500 {
		many.To = append(many.To, mustAddress(t, fmt.Sprintf("empfaenger%d@gemeinde.de-mail.example", i)))
	}
	s, err = many.Format()
	if err != nil {
		t.Fatal(err)
	}
	h := NewHeader()
	if err := h.Append(FieldChosenRecipient, s); err != nil {
		t.Fatal(err)
	}
	again, err := ParseRecipients(reread(t, h).Get(FieldChosenRecipient))
	if err != nil || cmp.Diff(render(many), render(again)) != "" {
		t.Errorf("500 recipients: %v", err)
	}
	if len(again.All()) != 500 {
		t.Errorf("%d recipients", len(again.All()))
	}
	for name, r := range map[string]Recipients{
		"none": {}, "zero address": {To: []Address{{}}},
		"looks like a key": {To: []Address{a, mustAddress(t, "cc=x@b.example")}},
	} {
		if s, err := r.Format(); !errors.Is(err, ErrRecipients) {
			t.Errorf("%s: %q, %v", name, s, err)
		}
	}
}

func FuzzParseRecipients(f *testing.F) {
	for _, s := range []string{
		"to=a@b.example", "to=a@b.example;c@d.example ;cc=e@f.example ;bcc=g@h.example", `to="x;y" <a@b.example>`,
		"to=cc=a@b.example", "to=a@b.example;to=c@d.example", "to = a@b.example\r\n ;c@d.example", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRecipients(s)
		if err != nil {
			return
		}
		out, err := r.Format()
		if err != nil {
			if !strings.Contains(out+r.All()[0].String()+s, "=") {
				t.Fatalf("%q cannot be written: %v", s, err)
			}
			return
		}
		again, err := ParseRecipients(out)
		if err != nil || render(again) != render(r) {
			t.Fatalf("%q: %s became %s: %v", s, render(r), render(again), err)
		}
	})
}
