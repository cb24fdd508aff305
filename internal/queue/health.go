package queue

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// Condition is one finding about the store's health, as data.
type Condition struct {
	Code     string // "queue.sick", stable, for programs
	Severity Severity
	Text     string // the fault
	Remedy   string // what to do
}

// Severity orders conditions.
type Severity string

// Severities.
const (
	Warning  Severity = "warning"  // works, look at it soon
	Critical Severity = "critical" // mail is refused or kept back
)

// slowFor is how long a slow disk stays a condition after it was last seen.
const slowFor = time.Minute

// health is what is known about the disk. The sickness is sticky: after a
// failed write or fsync only a new process, which reads everything back, can
// know what is stored.
type health struct {
	mu       sync.Mutex
	sick     error         // first fault; never cleared
	fell     chan struct{} // closed when sick is set
	flush    error         // last flush or compaction failed; cleared by one that succeeds
	slow     time.Time     // last seen
	reserve  bool          // the disk was full, and the ballast is not back
	observer func(error)   // told of the first fault
}

func newHealth(observer func(error)) *health {
	return &health{fell: make(chan struct{}), observer: observer}
}

// fail records the first fault for good.
func (h *health) fail(err error) {
	h.mu.Lock()
	first := h.sick == nil
	if first {
		h.sick = err
		close(h.fell)
	}
	h.mu.Unlock()
	if first && h.observer != nil {
		h.observer(err)
	}
}

// err is nil while the store can be trusted with more mail.
func (h *health) err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sick != nil {
		return fmt.Errorf("%w: %w", ErrSick, h.sick)
	}
	if h.flush != nil {
		return fmt.Errorf("%w: %w", ErrSick, h.flush)
	}
	return nil
}

// dead is like err, but passes over faults that may heal.
func (h *health) dead() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sick != nil {
		return fmt.Errorf("%w: %w", ErrSick, h.sick)
	}
	return nil
}

// background records the result of a flush or compaction. Pebble tries a failed
// one again at once, so only the first of a row is told.
func (h *health) background(err error) {
	h.mu.Lock()
	first := h.flush == nil && err != nil
	h.flush = err
	h.mu.Unlock()
	if first && h.observer != nil {
		h.observer(err)
	}
}

func (h *health) sawSlow(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slow = now
}

func (h *health) setReserve(used bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reserve = used
}

func (h *health) usesReserve() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reserve
}

func (h *health) conditions(now time.Time) []Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Condition
	if err := errors.Join(h.sick, h.flush); err != nil {
		all = append(all, Condition{"queue.sick", Critical, "the mail store failed: " + err.Error(),
			"check the disk, then restart the box; mail that was accepted is read back then"})
	}
	if h.reserve {
		all = append(all, Condition{"queue.reserve", Critical, "the disk was full and the queue's reserve is in use",
			"free space on the data volume"})
	}
	if !h.slow.IsZero() && now.Sub(h.slow) < slowFor {
		all = append(all, Condition{"queue.slow", Warning, "the disk took too long to write",
			"check the disk; accepting mail is slow meanwhile"})
	}
	return all
}

// isFull reports whether err says that the disk has no room.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
