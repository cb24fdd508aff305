package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/operator/box"
)

const (
	// waitLimit bounds following an update: download, restart, three trials at
	// most, and the way back.
	waitLimit = 90 * time.Minute
	// pollInterval is the pause between questions; the box allows two calls per
	// second.
	pollInterval = 2 * time.Second
)

// startAndWait starts an update and follows it to its end.
func (o *operator) startAndWait(cmd *cobra.Command, start manage.UpdateStart) error {
	c, err := o.connect(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	var before manage.Status
	var started manage.UpdateStarted
	if err := c.Call(cmd.Context(), manage.MethodStatus, nil, &before); err != nil {
		return err
	}
	if err := c.Call(cmd.Context(), manage.MethodUpdate, start, &started); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), waitLimit)
	defer cancel()
	f := &follower{release: started.Version, before: before, show: newProgress(cmd.ErrOrStderr())}
	f.show.step("update to %s started", started.Version)
	outcome, err := f.follow(ctx, func(ctx context.Context) (s manage.Status, err error) {
		err = c.Call(ctx, manage.MethodStatus, nil, &s)
		return s, err
	})
	f.show.end()
	if err != nil {
		return err
	}
	err = o.print(cmd, outcome, func(p *printer) {
		if outcome.Blessed {
			p.line("%s runs and was kept", outcome.Release)
		} else {
			p.line("%s was not kept: %s", outcome.Release, outcome.Why)
		}
	})
	if err == nil && !outcome.Blessed {
		return &verdict{fmt.Sprintf("update to %s failed", outcome.Release)}
	}
	return err
}

// follower watches one update from outside.
type follower struct {
	release string
	before  manage.Status // when it was started
	show    *progress
	gone    bool // the box does not answer: it restarts
}

// follow asks until the update has an outcome. A box that does not answer
// restarts; every other fault ends it.
func (f *follower) follow(ctx context.Context, ask func(context.Context) (manage.Status, error)) (manage.Outcome, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s, err := ask(ctx)
		switch {
		case err == nil:
			if outcome, over := f.judge(s); over {
				return outcome, nil
			}
		case ctx.Err() != nil:
		case errors.Is(err, box.ErrUnreachable):
			if !f.gone {
				f.show.step("the box restarts")
			}
			f.gone = true
		default:
			return manage.Outcome{}, err
		}
		select {
		case <-ctx.Done():
			return manage.Outcome{}, &faultError{fmt.Errorf("update to %s: no outcome yet: %w", f.release, ctx.Err()), "the update goes on; follow it with: pforte update status"}
		case <-tick.C:
		}
	}
}

// judge tells what it sees and reports whether the update is over.
func (f *follower) judge(s manage.Status) (manage.Outcome, bool) {
	f.gone = false
	if s.Update == nil { // its service is not up yet
		return manage.Outcome{}, false
	}
	if last := s.Update.Last; last != nil && last.Release == f.release && !f.old(*last) {
		return *last, true
	}
	switch p := s.Update.Progress; {
	case p.Phase == manage.PhaseIdle && p.Error != "":
		return manage.Outcome{Release: f.release, Why: p.Error, At: s.Time}, true
	case p.Phase == manage.PhaseDownloading && p.Of > 0:
		f.show.bar("download", p.Bytes, p.Of)
	case s.Boot.Trial && s.Version == f.release:
		f.show.step("%s is on trial in slot %s", s.Version, s.Boot.Slot)
	}
	return manage.Outcome{}, false
}

// old reports whether an outcome is that of an earlier update.
func (f *follower) old(last manage.Outcome) bool {
	was := f.before.Update
	return was != nil && was.Last != nil && *was.Last == last
}

// progress tells people what takes long: a bar on a terminal, else plain lines.
type progress struct {
	w        io.Writer
	terminal bool
	last     string // step that was told
	tenth    int64  // of a download that was told in plain lines
	open     bool   // the bar's line has no end yet
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), tenth: -1}
}

// step tells a step once.
func (p *progress) step(format string, args ...any) {
	text := harmless(fmt.Sprintf(format, args...))
	if text == p.last {
		return
	}
	p.end()
	p.last = text
	fmt.Fprintln(p.w, text)
}

// bar shows how far something is.
func (p *progress) bar(what string, done, of int64) {
	const width = 40
	percent := min(max(done*100/of, 0), 100)
	if !p.terminal {
		if percent/10 > p.tenth {
			p.tenth = percent / 10
			fmt.Fprintf(p.w, "%s: %d %% of %s\n", what, percent, size(of))
		}
		return
	}
	full := int(percent * width / 100)
	fmt.Fprintf(p.w, "\r%s [%-*s] %3d %% of %s ", what, width, barOf(full), percent, size(of))
	p.open = true
}

func barOf(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = '#'
	}
	return string(b)
}

// end ends the bar's line.
func (p *progress) end() {
	if p.open {
		fmt.Fprintln(p.w)
		p.open = false
	}
}
