package demail

import (
	"crypto"
	"errors"
	"strings"
	"testing"
)

// TestParseProof: what a confirmation quotes is found again, however it is folded.
func TestParseProof(t *testing.T) {
	h := sealed(t)
	in, err := findIntegrity(h)
	if err != nil {
		t.Fatal(err)
	}
	value := h.Get(FieldIntegrity)
	for _, v := range []string{value, strings.ReplaceAll(value, " ", "\r\n\t"), strings.ReplaceAll(value, " ", "  ")} {
		p, err := ParseProof(v)
		if err != nil || p.IsZero() || p.Algorithm != in.alg || string(p.BodyHash) != string(in.bh) || string(p.Value) != string(in.b) {
			t.Errorf("%q: %+v, %v", v, p, err)
		}
		if strings.ContainsAny(p.BodyKey()+p.ValueKey(), " \r\n\t") || p.BodyKey() == p.ValueKey() {
			t.Errorf("keys %q, %q", p.BodyKey(), p.ValueKey())
		}
	}
	for _, v := range []string{"", "v=1", "v=1; a=md5; h=From; bh=AA==; b=AA=="} {
		if p, err := ParseProof(v); !errors.Is(err, ErrIntegrityField) || !p.IsZero() {
			t.Errorf("%q: %+v, %v", v, p, err)
		}
	}
	if (Proof{Algorithm: Algorithm{Hash: crypto.SHA256}}).IsZero() {
		t.Error("a proof is none")
	}
}
