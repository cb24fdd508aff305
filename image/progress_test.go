package image

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestProgressLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out)
		done := p.start("quick")
		p.note("a %s", "note")
		time.Sleep(time.Second)
		done("ready", nil)
		done = p.start("slow")
		time.Sleep(10 * time.Second)
		done("", errors.New("broken"))
		want := "quick                a note\n" +
			"quick         1.0 s  ready\n" +
			"slow       ...\n" +
			"slow         10.0 s  failed\n"
		if d := cmp.Diff(want, out.String()); d != "" {
			t.Error(d)
		}
	})
}
