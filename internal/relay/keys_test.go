package relay

import (
	"crypto/sha256"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

func TestKeys(t *testing.T) {
	empty := sha256.Sum256([]byte("\r\n"))
	for got, want := range map[string]string{
		messageIDKey(" <a@b.example> "):    "message-id:<a@b.example>",
		privateIDKey("AZ 1\r\n\t/2"):       "private-id:AZ 1 /2",
		addressKey("Amt@Gemeinde.EXAMPLE"): "address:amt@gemeinde.example",
		bodyKey(empty[:]):                  "body:frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=", // RFC 6376 §3.4.3
		integrityKey("AB C\r\n =="):        "integrity:ABC==",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, key := range []string{messageIDKey(strings.Repeat("x", 5000)), privateIDKey(strings.Repeat("x ", 5000)), integrityKey(strings.Repeat("x", 5000))} {
		if len(key) > queue.MaxText {
			t.Errorf("key of %d bytes", len(key))
		}
	}
}

// A field that was folded anew on its way leads to the same key.
func TestIdentify(t *testing.T) {
	h := demail.NewHeader()
	for _, f := range [][2]string{{"Message-ID", "<1@amt.example>"}, {"X-De-Mail-Private-Id", "AZ 1\r\n 2"}} {
		if err := h.Append(f[0], f[1]); err != nil {
			t.Fatal(err)
		}
	}
	attributes := map[string]string{}
	keys := identify(h, attributes)
	if got := strings.Join(keys, "|"); got != "message-id:<1@amt.example>|private-id:AZ 1 2" {
		t.Errorf("keys %s", got)
	}
	if attributes[attrMessageID] != "<1@amt.example>" || attributes[attrPrivateID] != "AZ 1 2" {
		t.Errorf("attributes %v", attributes)
	}
}
