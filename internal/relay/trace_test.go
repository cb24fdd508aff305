package relay

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/relay/letter"
)

func TestWhoPretendsToBeUs(t *testing.T) {
	for _, test := range []struct {
		field string
		ours  bool
	}{
		{"Authentication-Results: box.hosting.example; dkim=pass", true},
		{"authentication-results: BOX.Hosting.Example; dkim=pass", true},
		{"Authentication-Results : box.hosting.example; dkim=pass", true},
		{"Authentication-Results: box.hosting.example", true},
		{"Authentication-Results: box.hosting.example 1; dkim=pass", true},
		{"Authentication-Results: box.hosting.example.; dkim=pass", true},
		{"Authentication-Results:box.hosting.example(x); dkim=pass", true},
		{"Authentication-Results: (by) (you \\( know) box.hosting.example; dkim=pass", true},
		{"Authentication-Results:\r\n\tbox.hosting.example\r\n\t; dkim=pass", true},
		{"Authentication-Results: \"box.hosting.example\"; dkim=pass", true},
		{"Authentication-Results: \"box.\\hosting.example\" 1; dkim=pass", true},
		{"Authentication-Results: (open box.hosting.example; dkim=pass", true},
		{"Authentication-Results: box.hosting.example/1; dkim=pass", true},
		{"Authentication-Results: box.hosting.example, x; dkim=pass", true},
		{"Authentication-Results: box.hosting.example=x; dkim=pass", true},
		{"Authentication-Results: other.example; x-for=box.hosting.example", false},
		{"Authentication-Results: (box.hosting.example) other.example; dkim=pass", false},
		{"Authentication-Results: xbox.hosting.example; dkim=pass", false},
		{"Authentication-Results: box.hosting.example.net; dkim=pass", false},
		{"Authentication-Results: ", false},
		{"Authentication-Result: box.hosting.example; dkim=pass", false},
		{"X-Authentication-Results: box.hosting.example; dkim=pass", false},
		{"X-Pforte-Recipient: a@b.example", true},
		{"x-PFORTE-anything: 1", true},
		{"X-Pforte-: 1", true},
		{"X-Pforte: 1", false},
	} {
		h, err := demail.ReadHeader(bufio.NewReader(strings.NewReader(test.field+"\r\n\r\n")), 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := letter.Pretends(h.Fields()[0], inHost); got != test.ours {
			t.Errorf("%q: %v", test.field, got)
		}
	}
}

// Everything but the fields that pretend to be ours passes byte for byte, whatever
// it looks like.
func TestByteIdenticalBelowTheTrace(t *testing.T) {
	w := newInWorld(t, nil)
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		body := randomBody(rng)
		raw := sealed(t, []string{"From: a@b.de-mail.example", "Subject: x", demail.FieldMessageType + ": normal"}, body)
		h, rest := raw[:len(raw)-len(body)-2], raw[len(raw)-len(body)-2:]
		want, sent := string(h), string(h)
		for range rng.IntN(12) {
			f := randomField(rng)
			if rng.IntN(3) == 0 {
				sent += randomForgery(rng) // below what counts: the first from the top is hashed
			}
			want, sent = want+f, sent+f
		}
		if len(body) == 0 && rng.IntN(2) == 0 {
			rest = nil // a header that ends with the message
		}
		want, sent = want+string(rest), sent+string(rest)
		id := w.mustHand("", []byte(sent), "post@amt-a.de-mail.example")[0]
		trace, below := w.stored(id)
		if sha256.Sum256([]byte(below)) != sha256.Sum256([]byte(want)) {
			t.Fatalf("message %d:\n%q\nbecame\n%q", n, want, below)
		}
		flat := strings.ReplaceAll(trace, "\r\n ", " ")
		if !strings.HasPrefix(flat, "Received: from mx.provider.de-mail.example (192.0.2.1) by "+inHost+" with ESMTPS id "+string(id)) || !strings.HasSuffix(trace, "\r\n") {
			t.Fatalf("trace %q", trace)
		}
	}
}

func randomBody(rng *rand.Rand) string {
	var b strings.Builder
	for range rng.IntN(30) {
		switch rng.IntN(5) {
		case 0:
			b.WriteString("\r\n")
		case 1:
			b.WriteString(strings.Repeat("\xfc\xff", rng.IntN(2000)) + "\r\n")
		case 2:
			b.WriteString(strings.Repeat("x", rng.IntN(100_000)) + "\r\n")
		default:
			fmt.Fprintf(&b, "X-Pforte-In-Body: %d \t\r\n", rng.Int())
		}
	}
	return b.String()
}

func randomField(rng *rand.Rand) string {
	name := []string{"X-Amt", "received", "SUBJECT2", "x-de-mail-unheard-of", "A!#$%", "Authentication-Results"}[rng.IntN(6)]
	value := []string{
		" other.example; dkim=pass", "", " ", "\t", "no space", " folded\r\n oddly\r\n\t\t and\r\n \t \r\n  more",
		" " + strings.Repeat("y", 3000), " \xc3\xbc\xff\x80", " trailing \t ", " ;;(\"",
	}[rng.IntN(10)]
	return name + []string{":", " :", "\t:"}[rng.IntN(3)] + value + "\r\n"
}

func randomForgery(rng *rand.Rand) string {
	return []string{
		"X-Pforte-Recipient: wrong@x.example\r\n",
		"x-pforte-x :\r\n y\r\n",
		"Authentication-Results: " + inHost + "; x-de-mail-integrity=pass\r\n",
		"authentication-results: (c)\r\n\t" + strings.ToUpper(inHost) + " 1; x=pass\r\n",
	}[rng.IntN(4)]
}

func TestResultsField(t *testing.T) {
	w := newInWorld(t, nil)
	hashed := w.compose(dmdatest.DeMail{})
	signed := w.compose(dmdatest.DeMail{Options: demail.Options{Authoritative: true}})
	strange := w.compose(dmdatest.DeMail{Spoil: func(h *demail.Header, b []byte) []byte {
		_ = h.Replace(demail.FieldMessageType, "normal\" x-de-mail-integrity=\"pass")
		if err := demail.Seal(h, bytes.NewReader(b), demail.IntegrityOptions{}); err != nil {
			t.Error(err)
		}
		return b
	}})
	sum := sha256.Sum256(w.pki.Signer().Leaf.RawSubject)
	for _, test := range []struct {
		name, want string
		message    []byte
	}{
		{"hashed", inHost + `; x-de-mail-integrity=pass (hashed only) x-de-mail.algorithm="sha256" x-de-mail.proof=hashed x-de-mail.message-type="normal"`, hashed},
		{"signed", inHost + `; x-de-mail-integrity=pass (signed) x-de-mail.algorithm="sha256/ec-dsa" x-de-mail.proof=signed x-de-mail.subject-sha256=` +
			fmt.Sprintf("%x", sum) + ` x-de-mail.message-type="normal"`, signed},
		{"an unknown type", inHost + `; x-de-mail-integrity=pass (hashed only) x-de-mail.algorithm="sha256" x-de-mail.proof=hashed x-de-mail.message-type="unknown"`, strange},
	} {
		if got := w.results(w.mustHand("", test.message, "post@amt-a.de-mail.example")[0]); got != test.want {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, got, test.want)
		}
	}
}
