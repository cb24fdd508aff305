// Package service is what every long-running process of the box has in common
// with systemd: it is told when to stop, gets its sockets, says that it is
// ready, proves that it is alive, and logs.
//
// A service's main looks like this:
//
//	ctx, stop := service.Context()
//	defer stop()
//	sockets, err := service.Sockets()
//	control, err := sockets.One("relayd-control")
//	return service.Run(ctx,
//		relay.Run,
//		service.Watchdog(relay.Healthy),
//		func(ctx context.Context) error { return server.Run(ctx, control) },
//	)
//
// and its own Run calls service.Ready once it can do its work.
//
// Without systemd (a test, a developer's shell) Ready, Status and Watchdog do
// nothing, and Sockets is empty. The package starts no process, opens no file
// and listens on nothing by itself. See sd_notify(3), sd_listen_fds(3) and
// systemd.service(5).
package service

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Context returns a context that ends at SIGTERM (systemd stops the service) or
// SIGINT. After the first signal the second one ends the process at once.
func Context() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Task is a part of a service: it works until ctx ends, then returns. An end
// without error while ctx is still alive means that the task is done.
type Task func(ctx context.Context) error

// Run runs all tasks at once. The first task that fails (or panics) ends the
// context of the others. Run returns when every task has returned, with all
// their errors joined; an error that only says that ctx ended is no error.
func Run(ctx context.Context, tasks ...Task) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) })
	faults := make([]error, len(tasks))
	var wg sync.WaitGroup
	for i, task := range tasks {
		wg.Go(func() {
			if err := runTask(ctx, task); err != nil {
				faults[i] = err
				cancel()
			}
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

func runTask(ctx context.Context, task Task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	err = task(ctx)
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// Ready tells systemd that the service does its work now (Type=notify), with a
// line for people that `systemctl status` shows.
func Ready(status string) error {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="+oneLine(status)); err != nil {
		return fmt.Errorf("tell systemd that the service is ready: %w", err)
	}
	return nil
}

// Status replaces the line for people. Errors are ignored: nothing depends on it.
func Status(status string) {
	_, _ = daemon.SdNotify(false, "STATUS="+oneLine(status))
}

// oneLine keeps a status from smuggling further assignments into the message.
func oneLine(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' {
			b[i] = ' '
		}
	}
	return string(b)
}
