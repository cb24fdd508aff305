package boot

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	watchdogDevice = "/dev/watchdog0"
	// watchdogSeconds is how long the box may hang before the hardware resets
	// it. systemd sets its own time when it takes over.
	watchdogSeconds = 120
	// watchdogTick is how often a long wait assures the watchdog that it goes on.
	watchdogTick = 10 * time.Second
)

// watchdog is the machine's watchdog timer; the zero value is none.
type watchdog struct {
	file *os.File
}

// armWatchdog starts the first watchdog, once it is there. A machine without
// one boots all the same; the report says so, and the health judges it.
func (b *box) armWatchdog() {
	if b.watchdog.file != nil {
		return
	}
	f, err := os.OpenFile(watchdogDevice, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	b.watchdog.file = f
	b.report.Watchdog = "unknown"
	if info, err := unix.IoctlGetWatchdogInfo(int(f.Fd())); err == nil {
		b.report.Watchdog = unix.ByteSliceToString(info.Identity[:])
	}
	// A driver that cannot set its time keeps its own; most default to 30-60 s.
	_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, watchdogSeconds)
}

// tick tells the watchdog that all is well.
func (w *watchdog) tick() {
	if w.file != nil {
		_ = unix.IoctlWatchdogKeepalive(int(w.file.Fd()))
	}
}

// release gives the running watchdog to systemd. Closing without the magic
// character leaves the timer running, so a hang from now on is covered too.
func (w *watchdog) release() {
	if w.file != nil {
		w.tick()
		_ = w.file.Close()
		w.file = nil
	}
}

// during ticks until stop is called, for work that may outlast the timer.
func (w *watchdog) during() (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(watchdogTick)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				w.tick()
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}
