// Package systemd asks the service manager to do what only it may: start and
// stop units, read their files again, restart or power off the machine.
//
// It speaks D-Bus over systemd's private socket (org.freedesktop.systemd1(5)),
// which root alone may use and which needs no bus daemon. Each call makes its own
// connection and closes it: calls are rare, and a connection that systemd dropped
// in between is never met.
//
// Every call is bounded by its context, and by Limit where that has no deadline.
// A job that systemd has begun goes on when the wait for it ends.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Limit bounds a call whose context has no deadline. It covers the longest start
// and stop of our units together.
const Limit = 4 * time.Minute

// noSuchUnit is systemd's error for a name that it does not know.
const noSuchUnit = "org.freedesktop.systemd1.NoSuchUnit"

// ErrJob: systemd took the job, and the unit did not get there.
var ErrJob = errors.New("job failed")

// Socket is where systemd listens for root.
const Socket = "/run/systemd/private"

// Manager is the running service manager.
type Manager struct {
	Socket string // "" means Socket; for tests
}

// State of a unit: ActiveState and SubState of org.freedesktop.systemd1(5).
type State struct {
	Active string // "active", "activating", "inactive", "failed", …; "" for an unknown unit
	Sub    string // "running", "dead", "auto-restart", …
}

// do runs f with a connection that lives as long as f.
func (m Manager) do(ctx context.Context, what string, f func(ctx context.Context, c *dbus.Conn) error) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, Limit)
		defer cancel()
	}
	c, err := dbus.NewConnection(func() (*godbus.Conn, error) { return m.dial(ctx) })
	if err != nil {
		return fmt.Errorf("systemd: %s: connect: %w", what, err)
	}
	defer c.Close()
	if err := f(ctx, c); err != nil {
		return fmt.Errorf("systemd: %s: %w", what, err)
	}
	return nil
}

// dial connects and says who we are. The connection ends with ctx.
func (m Manager) dial(ctx context.Context) (*godbus.Conn, error) {
	path := m.Socket
	if path == "" {
		path = Socket
	}
	c, err := godbus.Dial("unix:path="+path, godbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err := c.Auth([]godbus.Auth{godbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// job asks for a job and waits until it is done.
func (m Manager) job(ctx context.Context, what, unit string, ask func(c *dbus.Conn, ctx context.Context, unit, mode string, done chan<- string) (int, error)) error {
	return m.do(ctx, what+" "+unit, func(ctx context.Context, c *dbus.Conn) error {
		done := make(chan string, 1)
		if _, err := ask(c, ctx, unit, "replace", done); err != nil {
			return err
		}
		select {
		case result := <-done:
			if result != "done" && result != "skipped" {
				return fmt.Errorf("%w: %s", ErrJob, result)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// Start starts a unit and waits until it is up (Type=notify: ready), or until
// systemd skipped it because of its conditions.
func (m Manager) Start(ctx context.Context, unit string) error {
	return m.job(ctx, "start", unit, (*dbus.Conn).StartUnitContext)
}

// Stop stops a unit and waits until it is down. A unit that systemd does not know
// is down.
func (m Manager) Stop(ctx context.Context, unit string) error {
	err := m.job(ctx, "stop", unit, (*dbus.Conn).StopUnitContext)
	if fault := (godbus.Error{}); errors.As(err, &fault) && fault.Name == noSuchUnit {
		return nil
	}
	return err
}

// Restart stops a unit, if it is up, starts it and waits until it is up.
func (m Manager) Restart(ctx context.Context, unit string) error {
	return m.job(ctx, "restart", unit, (*dbus.Conn).RestartUnitContext)
}

// Reload makes systemd read its unit files again.
func (m Manager) Reload(ctx context.Context) error {
	return m.do(ctx, "reload", func(ctx context.Context, c *dbus.Conn) error { return c.ReloadContext(ctx) })
}

// States gives the state of each unit.
func (m Manager) States(ctx context.Context, names ...string) (map[string]State, error) {
	out := make(map[string]State, len(names))
	err := m.do(ctx, "list units", func(ctx context.Context, c *dbus.Conn) error {
		list, err := c.ListUnitsByNamesContext(ctx, names)
		for _, u := range list {
			if u.LoadState == "loaded" {
				out[u.Name] = State{Active: u.ActiveState, Sub: u.SubState}
			}
		}
		return err
	})
	return out, err
}

// Failed lists the units that have failed.
func (m Manager) Failed(ctx context.Context) ([]string, error) {
	var out []string
	err := m.do(ctx, "list failed units", func(ctx context.Context, c *dbus.Conn) error {
		list, err := c.ListUnitsFilteredContext(ctx, []string{"failed"})
		for _, u := range list {
			out = append(out, u.Name)
		}
		return err
	})
	return out, err
}

// Reboot shuts the machine down in order and starts it again. It returns as soon
// as systemd has begun; nothing stops it then.
func (m Manager) Reboot(ctx context.Context) error { return m.target(ctx, "reboot.target") }

// PowerOff shuts the machine down in order and switches it off, in the manner of Reboot.
func (m Manager) PowerOff(ctx context.Context) error { return m.target(ctx, "poweroff.target") }

func (m Manager) target(ctx context.Context, name string) error {
	return m.do(ctx, "start "+name, func(ctx context.Context, c *dbus.Conn) error {
		_, err := c.StartUnitContext(ctx, name, "replace-irreversibly", nil)
		return err
	})
}
