package confirmation

import (
	"errors"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

func TestNormalMessage(t *testing.T) {
	h := demail.NewHeader()
	for _, kind := range []string{"", "normal", "confirmation of nothing"} {
		if err := h.Replace(demail.FieldMessageType, kind); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(h, nil, demail.VerifyOptions{}); !errors.Is(err, ErrNotConfirmation) || Is(h) {
			t.Errorf("%q: %v", kind, err)
		}
	}
}
