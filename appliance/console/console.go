// Package console is the page on the box's screen, for the technician in front
// of it: name, version, addresses, the fingerprint of the management key, why
// the box is locked, slots and health, in German and English.
//
// It asks and never acts: there is no input, so that whoever stands in front of
// the box learns what to do, and can do nothing.
//
// Promises: the page fits Width by Height characters whatever the box tells,
// with a last line that says how much did not fit; no text of the status can
// steer the terminal (control characters and what the screen's font lacks
// become "?"); it is written only when it changed, and once a minute, because
// kernel messages may have run over it. When apid does not answer, the last
// known page stays with a note on top, and before the first answer the page
// shows what init reported.
//
// It holds nothing that an operator's tool would not show: no mail, no
// addresses of people, no secrets.
package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// Size of the page: what every firmware's text mode offers.
const (
	Width  = 80
	Height = 24
)

const (
	interval    = 3 * time.Second // between questions
	askTimeout  = 8 * time.Second // for one answer
	repaintTime = time.Minute     // after which an unchanged page is written again
)

// Screen shows the page on Out.
type Screen struct {
	Out io.Writer
	// Ask asks apid's local socket for the status.
	Ask func(ctx context.Context) (manage.Status, error)
	// Boot is what init reported, shown until apid answers.
	Boot manage.Status
	// Log is the engineers' log; nil means slog.Default.
	Log *slog.Logger
}

// FromReport is the part of the status that init's report knows.
func FromReport(r report.Report) manage.Status {
	s := manage.Status{Version: r.Version, Variant: r.Variant, Epoch: r.Epoch}
	s.Boot.Slot, s.Boot.Trial = string(r.Slot), r.Trial
	if r.Locked != nil {
		locked := manage.Locked(*r.Locked)
		s.Locked = &locked
	}
	return s
}

// Run shows the page until ctx ends. It fails when the screen does.
func (s *Screen) Run(ctx context.Context) error {
	log := s.Log
	if log == nil {
		log = slog.Default()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	known, silent := s.Boot, false
	var shown string
	var painted time.Time
	for {
		status, err := s.ask(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			known = status
		case !silent:
			log.Warn("apid does not answer", "error", err)
		}
		silent = err != nil
		page := Render(known, silent)
		if page != shown || time.Since(painted) >= repaintTime {
			if _, err := io.WriteString(s.Out, page); err != nil {
				return fmt.Errorf("console: %w", err)
			}
			shown, painted = page, time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Screen) ask(ctx context.Context) (manage.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return s.Ask(ctx)
}
