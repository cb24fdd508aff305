package host

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMissing(t *testing.T) {
	got := Missing([]Need{
		{"there", "sh"},
		{"file-there", "/etc/passwd"},
		{"gone", "no-such-program-here"},
		{"file-gone", "/no/such/file"},
	})
	if diff := cmp.Diff([]string{"gone", "file-gone"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestNeedsAreComplete(t *testing.T) {
	for _, n := range Needs() {
		if n.Package == "" || n.Shows == "" {
			t.Errorf("incomplete need %+v", n)
		}
	}
}
