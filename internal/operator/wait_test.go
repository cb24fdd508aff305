package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/operator/box"
)

func running(version string, u manage.Update, trial bool) manage.Status {
	return manage.Status{Version: version, Boot: manage.Boot{Slot: "b", Trial: trial}, Update: &u}
}

// TestFollow tells an update as it is seen from outside: what is said on the
// way, and how it ends.
func TestFollow(t *testing.T) {
	gone := fmt.Errorf("%w: connection refused", box.ErrUnreachable)
	loading := func(n int64) manage.Status {
		return running("1", manage.Update{Progress: manage.Progress{Phase: manage.PhaseDownloading, Release: "2", Bytes: n, Of: 100}}, false)
	}
	earlier := manage.Outcome{Release: "2", Why: "of last week"}
	for name, tt := range map[string]struct {
		answers []any // manage.Status or error, one per question
		before  *manage.Outcome
		want    manage.Outcome
		fault   string
		told    []string
	}{
		"kept": {
			answers: []any{
				loading(0), loading(55), gone, gone, manage.Status{}, running("2", manage.Update{Trial: "2"}, true),
				running("2", manage.Update{Last: &manage.Outcome{Release: "2", Blessed: true}}, false),
			},
			want: manage.Outcome{Release: "2", Blessed: true},
			told: []string{"download: 0 %", "download: 55 %", "the box restarts", "2 is on trial in slot b"},
		},
		"not kept": {
			answers: []any{gone, running("1", manage.Update{Last: &manage.Outcome{Release: "2", Why: "not healthy"}}, false)},
			want:    manage.Outcome{Release: "2", Why: "not healthy"},
			told:    []string{"the box restarts"},
		},
		"never came to a trial": {
			answers: []any{running("1", manage.Update{Progress: manage.Progress{Phase: manage.PhaseIdle, Error: "repository away"}}, false)},
			want:    manage.Outcome{Release: "2", Why: "repository away"},
		},
		"an earlier outcome is none": {
			before:  &earlier,
			answers: []any{running("1", manage.Update{Last: &earlier}, false), running("1", manage.Update{Last: &manage.Outcome{Release: "2", Blessed: true}}, false)},
			want:    manage.Outcome{Release: "2", Blessed: true},
		},
		"another box answers": {
			answers: []any{gone, box.ErrStranger},
			fault:   box.ErrStranger.Error(),
		},
		"no end": {
			answers: []any{loading(1)},
			fault:   "no outcome yet",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told bytes.Buffer
				f := &follower{release: "2", show: newProgress(&told)}
				f.before.Update = &manage.Update{Last: tt.before}
				ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
				defer cancel()
				n := 0
				got, err := f.follow(ctx, func(context.Context) (manage.Status, error) {
					a := tt.answers[min(n, len(tt.answers)-1)]
					n++
					if err, bad := a.(error); bad {
						return manage.Status{}, err
					}
					return a.(manage.Status), nil
				})
				if (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
					t.Fatalf("error %v, want %q", err, tt.fault)
				}
				if got != tt.want {
					t.Errorf("outcome %+v, want %+v", got, tt.want)
				}
				for _, line := range tt.told {
					if strings.Count(told.String(), line) != 1 {
						t.Errorf("%q was told %d times in:\n%s", line, strings.Count(told.String(), line), told.String())
					}
				}
			})
		})
	}
}

// TestBarOnATerminal draws on one line.
func TestBarOnATerminal(t *testing.T) {
	var b bytes.Buffer
	p := &progress{w: &b, terminal: true}
	p.bar("download", 50, 100)
	p.bar("download", 200, 100) // more than announced
	p.step("done")
	out := b.String()
	if strings.Count(out, "\n") != 2 || !strings.Contains(out, " 50 %") || !strings.Contains(out, "100 %") || !strings.HasSuffix(out, "\ndone\n") {
		t.Errorf("%q", out)
	}
}

// TestHarmless: no text of a box steers the terminal.
func TestHarmless(t *testing.T) {
	p := &printer{}
	p.line("%s", "a\x1b[2Jb\rc\x00d\nü\u202e")
	if got, want := p.b.String(), "a?[2Jb?c?d ü?\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("x"), ExitFault},
		{&usageError{"x", ""}, ExitUsage},
		{fmt.Errorf("x: %w", box.ErrUnreachable), ExitUnreachable},
		{fmt.Errorf("x: %w", box.ErrNotAdmitted), ExitRefused},
		{box.ErrStranger, ExitFault},
		{&manage.Error{Code: manage.CodeDenied}, ExitRefused},
		{&manage.Error{Code: manage.CodeLocked}, ExitRefused},
		{&manage.Error{Code: "signature"}, ExitRefused},
		{fmt.Errorf("%w: %w", box.ErrUnable, &manage.Error{Code: manage.CodeInternal}), ExitFault},
	} {
		if got := exitCode(tt.err, true); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
		if got := exitCode(tt.err, false); got != ExitUsage {
			t.Errorf("%v before a command's work: %d", tt.err, got)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 20 << 20: "20.0 MiB", 3 << 30: "3.0 GiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	if got := when(time.Unix(0, 0).UTC()); !strings.HasPrefix(got, "19") {
		t.Errorf("when = %q", got)
	}
}
