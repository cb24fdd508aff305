package service

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// watchdogShare is how many times per watchdog interval the service asks for
// its own health: sd_watchdog_enabled(3) recommends every half interval; a
// third leaves room for one slow answer.
const watchdogShare = 3

// Watchdog returns a task that feeds systemd's watchdog (WatchdogSec=) as long
// as healthy returns nil. healthy must answer within its context, a third of the
// interval; one that fails or hangs is not fed, is logged once per change, and
// in the end systemd restarts the service. Without a watchdog the task ends at once.
func Watchdog(healthy func(ctx context.Context) error) Task {
	return func(ctx context.Context) error {
		interval, err := daemon.SdWatchdogEnabled(false)
		if err != nil {
			return fmt.Errorf("read systemd's watchdog interval: %w", err)
		}
		if interval == 0 {
			return nil
		}
		return feed(ctx, interval/watchdogShare, healthy, func() error {
			_, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			return err
		})
	}
}

// feed calls eat each period after a healthy answer.
func feed(ctx context.Context, period time.Duration, healthy func(context.Context) error, eat func() error) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	sick := false
	for {
		fault := askHealth(ctx, period, healthy)
		if fault == nil {
			fault = eat()
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case fault != nil && !sick:
			slog.Error("watchdog not fed", "error", fault)
		case fault == nil && sick:
			slog.Info("watchdog fed again")
		}
		sick = fault != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// askHealth bounds healthy in time even when it ignores its context: its
// goroutine is then left behind, for systemd is about to end the process.
func askHealth(ctx context.Context, limit time.Duration, healthy func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- healthy(ctx) }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("health did not answer within %v: %w", limit, ctx.Err())
	}
}
