package smtpguard

import (
	"errors"
	"os"
	"time"
)

// window says how long the next read may take.
type window struct {
	until time.Time     // absolute end
	idle  time.Duration // per read, 0: only until
	rate  int64         // bytes per second that push the end of grace back, 0: none
	grace time.Time
	read  int64 // bytes read in this window
	wakes bool  // a draining server ends it
}

func (w *window) deadline(now time.Time) time.Time {
	d := w.until
	if w.idle > 0 {
		d = earlier(d, now.Add(w.idle))
	}
	if w.rate > 0 {
		d = earlier(d, w.grace.Add(time.Duration(float64(w.read)/float64(w.rate)*float64(time.Second))))
	}
	return d
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (c *conn) setWindow(w window) {
	c.mu.Lock()
	c.window = w
	c.mu.Unlock()
}

// messageWindow is that of one whole message, in one piece or in chunks.
func (c *conn) messageWindow() {
	now, l := time.Now(), &c.s.limits
	c.setWindow(window{until: now.Add(l.Data), idle: l.DataIdle, rate: l.DataRate, grace: now.Add(l.DataStart)})
}

// arm sets the deadline of the next read; c.mu is held.
func (c *conn) arm() {
	d := c.window.deadline(time.Now())
	if c.draining && c.window.wakes {
		d = time.Unix(1, 0)
	}
	_ = c.wire.SetReadDeadline(d)
}

// source is the network under the input buffer.
type source struct{ c *conn }

// Read is where the guard waits for the peer; so all answers go out before it.
func (s source) Read(p []byte) (int, error) {
	s.c.flush()
	s.c.mu.Lock()
	s.c.arm()
	wire := s.c.wire
	s.c.mu.Unlock()
	n, err := wire.Read(p)
	s.c.mu.Lock()
	s.c.window.read += int64(n)
	s.c.mu.Unlock()
	return n, err
}

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
