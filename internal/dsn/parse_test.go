package dsn

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// What Report writes, Parse reads as it was meant.
func TestParseReadsOurReports(t *testing.T) {
	r := sample()
	r.Recipients = append(r.Recipients, Recipient{Address: "grüße@x.example", Original: `utf-8;bü\cher@x.example`, Action: Relayed, Status: "2.0.0"})
	_, heads, bodies := parts(t, r)
	if kind := heads[1].Header.Get("Content-Type"); kind != "message/delivery-status" {
		t.Fatalf("second part is %s", kind)
	}
	if bytes.ContainsFunc(bodies[1], func(r rune) bool { return r > '~' }) {
		t.Errorf("the status is not ASCII:\n%s", bodies[1])
	}
	got, err := Parse(bytes.NewReader(bodies[1]))
	if err != nil {
		t.Fatalf("%v:\n%s", err, bodies[1])
	}
	if got.Hostname != r.Hostname || got.ENVID != r.ENVID || !got.Arrival.Equal(r.Arrival) || len(got.Recipients) != len(r.Recipients) {
		t.Fatalf("%+v", got)
	}
	for i, want := range r.Recipients {
		one := got.Recipients[i]
		if !one.Last.Equal(want.Last) || !one.RetryUntil.Equal(want.RetryUntil) {
			t.Errorf("recipient %d: times %v, %v", i, one.Last, one.RetryUntil)
		}
		if one.Last, one.RetryUntil = want.Last, want.RetryUntil; !reflect.DeepEqual(one, want) {
			t.Errorf("recipient %d: %+v, want %+v", i, one, want)
		}
	}
}

// Reports of others: Postfix, Exchange, and what RFC 3464 and RFC 6533 show.
func TestParseForeign(t *testing.T) {
	for name, test := range map[string]struct {
		status string
		want   Recipient
	}{
		"postfix": {"Reporting-MTA: dns; mail.x.example\nX-Postfix-Queue-ID: 4ABC\nX-Postfix-Sender: rfc822; a@x.example\nArrival-Date: Mon, 23 Nov 2026 08:00:00 +0100 (CET)\n\n" +
			"Final-Recipient: rfc822; b@y.example\nOriginal-Recipient: rfc822;b@y.example\nAction: failed\nStatus: 5.1.1\nRemote-MTA: dns; mx.y.example\n" +
			"Diagnostic-Code: smtp; 550 5.1.1 <b@y.example>: Recipient address rejected:\n    User unknown\n",
			Recipient{Address: "b@y.example", Original: "rfc822;b@y.example", Action: Failed, Status: "5.1.1", RemoteMTA: "mx.y.example",
				Diagnostic: "550 5.1.1 <b@y.example>: Recipient address rejected: User unknown", Remote: true}},
		"upper case, comment in status, expanded": {"REPORTING-MTA: dns;x\r\n\r\nFINAL-RECIPIENT: RFC822;list@y\r\nACTION: Expanded\r\nSTATUS: 2.0.0 (fine)\r\n\r\n",
			Recipient{Address: "list@y", Action: Expanded, Status: "2.0.0"}},
		"rfc 6533": {"Reporting-MTA: dns;x\r\n\r\nFinal-Recipient: utf-8;gr\\x{FC}n@y\r\nOriginal-Recipient: utf-8;grün@y\r\nAction: delayed\r\nStatus: 4.4.1\r\n",
			Recipient{Address: "grün@y", Original: "utf-8;grün@y", Action: Delayed, Status: "4.4.1"}},
	} {
		got, err := Parse(strings.NewReader(test.status))
		if err != nil || len(got.Recipients) != 1 || !reflect.DeepEqual(got.Recipients[0], test.want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, test.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const head, rcpt = "Reporting-MTA: dns;x\r\n\r\n", "Final-Recipient: rfc822;b@y\r\nAction: failed\r\nStatus: 5.0.0\r\n\r\n"
	if _, err := Parse(strings.NewReader(head + rcpt)); err != nil {
		t.Fatal(err)
	}
	for name, status := range map[string]string{
		"nothing":          "",
		"no recipient":     head,
		"no MTA":           "Arrival-Date: x\r\n\r\n" + rcpt,
		"no address":       head + strings.Replace(rcpt, "rfc822;b@y", "rfc822;", 1),
		"another type":     head + strings.Replace(rcpt, "rfc822", "x400", 1),
		"no action":        head + strings.Replace(rcpt, "failed", "exploded", 1),
		"no status":        head + strings.Replace(rcpt, "5.0.0", "5.x", 1),
		"no field":         head + "what\r\n" + rcpt,
		"continues none":   " x\r\n" + head + rcpt,
		"long line":        head + "X: " + strings.Repeat("x", maxField) + "\r\n" + rcpt,
		"long field":       head + "X: x\r\n" + strings.Repeat(" "+strings.Repeat("x", 70)+"\r\n", maxField/70+1) + rcpt,
		"many fields":      head + strings.Repeat("X: x\r\n", maxFields+1) + rcpt,
		"many recipients":  head + strings.Repeat(rcpt, maxRecipients+1),
		"too large":        head + strings.Repeat(rcpt, 2) + strings.Repeat("\r\n", maxStatus/2),
		"bad escape":       head + strings.Replace(rcpt, "rfc822;b", `utf-8;\x{D800}`, 1),
		"the first counts": head + "Action: x\r\n" + rcpt,
	} {
		if got, err := Parse(strings.NewReader(status)); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func TestXtext(t *testing.T) {
	for in, want := range map[string]string{"": "", "a@x": "a@x", "a+b=c d": "a+2Bb+3Dc+20d", "\xff\x00": "+FF+00"} {
		got := Xtext(in)
		back, err := ParseXtext(got)
		if got != want || err != nil || back != in {
			t.Errorf("%q: %q, back %q, %v", in, got, back, err)
		}
	}
	for _, bad := range []string{"+", "+2", "+2b", "+GG", "a b", "a=b", "ü", "a\x7f"} {
		if got, err := ParseXtext(bad); err == nil {
			t.Errorf("%q was taken as %q", bad, got)
		}
	}
}

func TestOriginal(t *testing.T) {
	for in, want := range map[string]string{
		"rfc822;a+b@x.example": "rfc822;a+2Bb@x.example", "RFC822;a@x": "RFC822;a@x", "rfc822;grün@x": `utf-8;gr\x{FC}n@x`,
		"utf-8;a\\b@x": `utf-8;a\x{5C}b@x`, "x400;c=de": "x400;c+3Dde", "": "", "a@x": "", ";a@x": "", "rfc822;": "", "rf c;a@x": "",
	} {
		got, ok := Original(in)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v; want %q", in, got, ok, want)
		}
	}
	if kind, address, err := ParseOriginal(`UTF-8;gr\x{FC}n+2B@x`); kind != "utf-8" || address != "grün+@x" || err != nil {
		t.Errorf("%q %q %v", kind, address, err)
	}
	for _, bad := range []string{"", "rfc822", "rfc822;", "rfc822;a b", ";x", `utf-8;\x{}`, `utf-8;\x{110000}`, `utf-8;\x{41`, "utf-8;+FF"} {
		if kind, address, err := ParseOriginal(bad); err == nil {
			t.Errorf("%q was taken as %q %q", bad, kind, address)
		}
	}
}

// FuzzDSN: whatever Parse takes, a Report can write, and Parse reads that as the
// same again.
func FuzzDSN(f *testing.F) {
	var b bytes.Buffer
	sample().status(&lines{w: &b})
	f.Add(b.Bytes())
	for _, s := range []string{"", "Reporting-MTA: dns;x\n\nFinal-Recipient: rfc822;b@y\nAction: failed\nStatus: 5.1.1\n",
		"Reporting-MTA: dns;x\r\nX:\r\n y\r\n\r\nFinal-Recipient: utf-8;\\x{FC}@y\r\nOriginal-Recipient: utf-8;ü\r\nAction: relayed\r\nStatus: 2.0.0\r\nDiagnostic-Code: smtp;250 ok\r\n\r\n",
		"Reporting-MTA: dns;x\n\n\n\nAction: delayed\nAction: failed\nStatus: 4.4.1 x\nFinal-Recipient: rfc822; b\nWill-Retry-Until: Mon, 23 Nov 2026 08:00:00 +0100 (CET)"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		once, err := Parse(bytes.NewReader(in))
		if err != nil {
			return
		}
		first, again := rewrite(t, once)
		second, _ := rewrite(t, again)
		if !bytes.Equal(first, second) {
			t.Fatalf("%q became %q, then %q", in, first, second)
		}
		if len(again.Recipients) != len(once.Recipients) {
			t.Fatalf("%d recipients became %d:\n%q", len(once.Recipients), len(again.Recipients), first)
		}
		for i, r := range once.Recipients {
			if a := again.Recipients[i]; a.Action != r.Action || a.Status != r.Status || a.Remote && !r.Remote {
				t.Fatalf("%+v became %+v", r, a)
			}
		}
	})
}

func rewrite(t *testing.T, s *Status) ([]byte, *Status) {
	t.Helper()
	r := &Report{Hostname: s.Hostname, ENVID: s.ENVID, Arrival: s.Arrival, Recipients: s.Recipients}
	var b bytes.Buffer
	r.status(&lines{w: &b})
	checkLines(t, b.Bytes())
	again, err := Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatalf("%v: our own\n%s", err, b.Bytes())
	}
	return b.Bytes(), again
}

// FuzzOriginal: xtext and ORCPT as they come from a session.
func FuzzOriginal(f *testing.F) {
	for _, s := range []string{"", "rfc822;a+2Bb@x", `utf-8;gr\x{FC}n@x`, "utf-8;+C3+BC@x", "x;+00", "rfc822;+0D+0AAction:+20x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if text, err := ParseXtext(in); err == nil {
			if back, err := ParseXtext(Xtext(text)); err != nil || back != text {
				t.Fatalf("%q became %q, then %q", in, text, back)
			}
		}
		kind, address, err := ParseOriginal(in)
		if err != nil {
			return
		}
		out, ok := Original(kind + ";" + address)
		if !ok || strings.ContainsAny(out, "\r\n ") {
			t.Fatalf("%q became %q, %v", in, out, ok)
		}
		if kind2, address2, err := ParseOriginal(out); err != nil || ascii(address) && (kind2 != kind || address2 != address) {
			t.Fatalf("%q: %q %q became %q %q, %v", in, kind, address, kind2, address2, err)
		}
		field := fmt.Sprintf("Reporting-MTA: dns;x\r\n\r\nOriginal-Recipient: %s\r\nFinal-Recipient: rfc822;b@y\r\nAction: failed\r\nStatus: 5.0.0\r\n", typed(kind, address))
		if s, err := Parse(strings.NewReader(field)); err == nil && len(s.Recipients) != 1 {
			t.Fatalf("%q broke out of its line", in)
		}
	})
}

// The notice of a delay says what De-Mail's time limit is and what can be done, in
// both languages, with its umlauts.
func TestDelayNoticeSaysWhatToDo(t *testing.T) {
	r := sample()
	r.Recipients = []Recipient{{Address: "b@x.example", Action: Delayed, Status: "4.4.1", RetryUntil: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)}}
	_, _, bodies := parts(t, r)
	text := unquote(t, bodies[0])
	for _, want := range []string{"noch nicht übergeben", "4 Stunden", "pforte queue show", "pforte queue retry", "22.11.2026 08:00", "within 4 hours", "2026-11-22 08:00"} {
		if !strings.Contains(text, want) {
			t.Errorf("the notice lacks %q:\n%s", want, text)
		}
	}
}
