package relay

import (
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

func TestPrecedence(t *testing.T) {
	for _, test := range []struct {
		system string
		fields string
		want   queue.Class
	}{
		{"", "", queue.Normal},
		{"normal", "", queue.Normal},
		{"bulk", "", queue.Bulk},
		{"urgent", "", queue.Urgent},
		{"normal", "Priority: urgent", queue.Urgent},
		{"normal", "PRIORITY: Urgent", queue.Urgent},
		{"urgent", "Priority: non-urgent", queue.Bulk},
		{"bulk", "Priority: normal", queue.Bulk},
		{"bulk", "X-Priority: 3", queue.Bulk},
		{"normal", "X-Priority: 1 (Highest)", queue.Urgent},
		{"normal", "X-Priority: 5", queue.Bulk},
		{"normal", "Importance: high", queue.Urgent},
		{"normal", "Importance: Low", queue.Bulk},
		{"normal", "Precedence: bulk", queue.Bulk},
		{"normal", "Precedence: list|Importance: high", queue.Bulk},
		{"normal", "Priority: urgent|Precedence: bulk", queue.Urgent},
		{"bulk", "Importance: normal|X-Priority: 2", queue.Urgent},
		{"normal", "Priority: |Importance: nonsense", queue.Normal},
		{"normal", "X-Priority: 12", queue.Normal},
	} {
		h := demail.NewHeader()
		for f := range strings.SplitSeq(test.fields, "|") {
			if name, value, ok := strings.Cut(f, ":"); ok {
				if err := h.Append(name, strings.TrimSpace(value)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := precedence(h, classOf(test.system)); got != test.want {
			t.Errorf("%s, %s: %d, want %d", test.system, test.fields, got, test.want)
		}
	}
}
