package smtpguard

import (
	"strings"
	"testing"
)

// TestPlainAnnouncesUTF8: Postfix 3.7 looks for SMTPUTF8 in the answer before TLS
// and bounces what needs it. Nothing that helps an attacker is announced there.
func TestPlainAnnouncesUTF8(t *testing.T) {
	_, addr := serve(t, &record{}, Limits{}, StartTLS)
	c := dialPlain(t, addr)
	c.expect("220")
	c.put("EHLO client.example\r\n")
	got := c.expect("250")
	if !strings.Contains(got, "\r\n250-SMTPUTF8\r\n") {
		t.Errorf("EHLO before TLS says %q, want SMTPUTF8 in it", got)
	}
	for _, never := range []string{"AUTH", "SIZE", "PIPELINING"} {
		if strings.Contains(got, never) {
			t.Errorf("EHLO before TLS says %q, want no %s", got, never)
		}
	}
}
