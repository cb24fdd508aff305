package confirmation

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// kept is a folder of messages that a provider made once, with its authority's
// certificate. No key to it is left, so nobody can sign anything else with it.
const kept = "testdata/kept"

// keptTime is when their certificates are valid; UPDATE=1 needs it anew.
func keptTime() time.Time { return time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) }

func keptTrust(t testing.TB) demail.VerifyOptions {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(kept, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		t.Fatal("no authority")
	}
	return demail.VerifyOptions{Roots: roots, Time: keptTime(), Revocation: func(_, _ *x509.Certificate) error { return nil }}
}

// keptMessages are header, body and what they say, by name.
func keptMessages(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(kept, "*.eml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no messages in %s: %v", kept, err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		if out[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestKept: messages of an earlier day are still read, with their integrity.
// UPDATE=1 makes new ones.
func TestKept(t *testing.T) {
	if os.Getenv("UPDATE") == "1" {
		updateKept(t)
	}
	trust := keptTrust(t)
	for name, raw := range keptMessages(t) {
		h, body := open(t, raw)
		if _, err := demail.VerifyIntegrity(h, bytes.NewReader(body), trust); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		c, err := Parse(h, bytes.NewReader(body), trust)
		if err != nil || c.Fault != nil || strings.ReplaceAll(string(c.Type), " ", "-")+".eml" != name {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

func updateKept(t *testing.T) {
	k := newKit(t)
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(kept, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	write("ca.pem", k.pki.CAPEM())
	keep := func(h *demail.Header, body []byte) {
		var b bytes.Buffer
		_, _ = h.WriteTo(&b)
		write(strings.ReplaceAll(h.Get(demail.FieldMessageType), " ", "-")+".eml", append(b.Bytes(), body...))
	}
	for _, kind := range []demail.MessageType{demail.TypeDispatch, demail.TypeReceipt, demail.TypeRetrieve, demail.TypeMalwareAcknowledge} {
		keep(k.confirm(t, kind))
	}
	for _, kind := range []demail.MessageType{demail.TypeNotification, demail.TypeMalwareNotification} {
		d, err := k.provider.Notification(kind, demail.NotifyUnknownRecipient, k.original, address(t, recipient), address(t, sender))
		if err != nil {
			t.Fatal(err)
		}
		keep(k.compose(t, d))
	}
	d, err := k.provider.Identification(address(t, sender))
	if err != nil {
		t.Fatal(err)
	}
	keep(k.compose(t, d))
}

// statementOf is what a signature stands for.
func statementOf(c *Confirmation) string {
	return fmt.Sprintf("%s %s %s %s %s %v", c.OriginalMessageID, c.OriginalDeMailMessageID, c.Hash.ValueKey(), c.Time, c.DeliveryTime, c.Recipients)
}

// FuzzConfirmation mutates bodies and, apart from them, the XML in them. Whatever
// comes out as signed must be what the kept messages say: there is no key to sign
// anything else with.
func FuzzConfirmation(f *testing.F) {
	trust := keptTrust(f)
	said := map[string]bool{}
	var headers []*demail.Header
	for _, raw := range keptMessages(f) {
		h, body := open(f, raw)
		c, err := Parse(h, bytes.NewReader(body), trust)
		if err != nil {
			f.Fatal(err)
		}
		said[statementOf(c)] = true
		f.Add(uint8(len(headers)), body, false)
		f.Add(uint8(len(headers)), xmlOf(f, h, body), true)
		headers = append(headers, h)
	}
	f.Add(uint8(0), []byte(`<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>`), true)
	f.Fuzz(func(t *testing.T, which uint8, data []byte, isXML bool) {
		h := headers[int(which)%len(headers)]
		if isXML {
			h, data = wrap(h, data)
		}
		check(t, h, data, trust, said)
	})
}

func check(t *testing.T, h *demail.Header, body []byte, trust demail.VerifyOptions, said map[string]bool) {
	t.Helper()
	c, err := Parse(h, bytes.NewReader(body), trust)
	switch {
	case err != nil && (c != nil || errors.Is(err, ErrMalformed) == errors.Is(err, ErrSignature)):
		t.Fatalf("%v, %v", c, err)
	case err == nil && c.Signed && !said[statementOf(c)]:
		t.Fatalf("signed by nobody: %s", statementOf(c))
	}
}
