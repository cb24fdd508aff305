package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunStopsAllWhenOneFails(t *testing.T) {
	fault := errors.New("disk on fire")
	stopped := false
	err := Run(t.Context(),
		func(context.Context) error { return fault },
		func(ctx context.Context) error { <-ctx.Done(); stopped = true; return ctx.Err() },
	)
	if !errors.Is(err, fault) || errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want only %v", err, fault)
	}
	if !stopped {
		t.Error("Run returned before the other task")
	}
}

func TestRunKeepsGoingWhenOneIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		err := Run(ctx,
			func(context.Context) error { return nil },
			func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		)
		if err != nil || time.Since(start) != time.Hour {
			t.Errorf("Run = %v after %v, want nil after an hour", err, time.Since(start))
		}
	})
}

func TestRunTurnsAPanicIntoAnError(t *testing.T) {
	err := Run(t.Context(), func(context.Context) error { panic("broken") })
	if err == nil || !strings.Contains(err.Error(), "panic: broken") {
		t.Errorf("Run = %v, want the panic", err)
	}
}

func TestFeedOnlyWhileHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second+time.Millisecond)
		defer cancel()
		start := time.Now()
		var meals int
		err := feed(ctx, time.Second, func(ctx context.Context) error {
			switch age := time.Since(start); {
			case age < 3*time.Second: // healthy at 0, 1, 2
				return nil
			case age < 6*time.Second: // sick at 3, 4, 5
				return errors.New("queue is stuck")
			case age == 6*time.Second: // hangs
				<-ctx.Done()
				return ctx.Err()
			}
			return nil // healthy at 7, 8, 9, 10
		}, func() error { meals++; return nil })
		if err != nil || meals != 7 {
			t.Errorf("feed = %v with %d meals, want 7", err, meals)
		}
	})
}

// manager stands in for systemd's notification socket.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // t.TempDir may exceed the 108 bytes of a socket path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func read(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestReadyAndWatchdog(t *testing.T) {
	conn := manager(t)
	if err := Ready("3 keys\nMAINPID=1"); err != nil {
		t.Fatal(err)
	}
	if got, want := read(t, conn), "READY=1\nSTATUS=3 keys MAINPID=1"; got != want {
		t.Errorf("Ready sent %q, want %q", got, want)
	}
	t.Setenv("WATCHDOG_USEC", "30000000")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Watchdog(func(context.Context) error { return nil }))
	}()
	if got := read(t, conn); got != "WATCHDOG=1" {
		t.Errorf("Watchdog sent %q", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := read(t, conn); got != "STOPPING=1" {
		t.Errorf("at the end Run sent %q", got)
	}
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	if err := Ready("fine"); err != nil {
		t.Error(err)
	}
	if err := Watchdog(nil)(t.Context()); err != nil {
		t.Error(err)
	}
	set, err := Sockets()
	if err != nil || len(set) != 0 {
		t.Errorf("Sockets = %v, %v, want none", set, err)
	}
	if _, err := set.One("keyd-sign"); err == nil || !strings.Contains(err.Error(), "FileDescriptorName=keyd-sign") {
		t.Errorf("One = %v, want the remedy", err)
	}
}

func TestLoggerWritesPriorityAndOneLine(t *testing.T) {
	var b strings.Builder
	log := NewLogger(&b).With("purpose", "provider-client").WithGroup("peer")
	log.Error("sign", "uid", 903)
	log.Log(t.Context(), slog.LevelWarn, "slow\nbox", "uid", 0)
	want := "<3>msg=sign purpose=provider-client peer.uid=903\n" +
		"<4>msg=\"slow\\nbox\" purpose=provider-client peer.uid=0\n"
	if b.String() != want {
		t.Errorf("log = %q\nwant %q", b.String(), want)
	}
}
