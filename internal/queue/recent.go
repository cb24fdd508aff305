package queue

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// recent keeps what does not change about messages that were accepted just now, their
// envelopes and small bodies: most are delivered at once, and need not be read back. What
// changes is read from the index always, and who reads a body from here checks its hash
// as well. When the bound is reached, those that come are not kept, for the older ones
// are delivered first; but none stays for long.
type recent struct {
	mu    sync.Mutex
	all   map[[idBytes]byte]*letter
	order [][idBytes]byte // by age; some may have left already
	bytes int
}

const (
	// maxRecent bounds the memory of recent messages.
	maxRecent = 8 << 20
	// maxRecentBody is the largest body that is kept: an open session's memory goes over
	// to us with it.
	maxRecentBody = 2 * chunkSize
	// letterCost is what an envelope takes besides its body, about; one that takes far
	// more is not kept.
	letterCost       = 2 << 10
	maxLetterRcpts   = 10
	maxLetterPrefix  = 4 << 10
	recentOrderSlack = 64
	// recentAge is how long a message is recent: what was not delivered then waits.
	recentAge = 10 * time.Second
)

// letter is a message that was accepted just now.
type letter struct {
	envelope *Envelope // never changed
	body     []*chunk  // nil if it is not kept
	size     int
	came     time.Time
}

func newRecent() *recent { return &recent{all: map[[idBytes]byte]*letter{}} }

func (l *letter) cost() int { return letterCost + len(l.body)*chunkSize }

// add keeps a message that is about to be committed: nobody asks for it before.
func (r *recent) add(id [idBytes]byte, l *letter) {
	if len(l.envelope.Recipients) > maxLetterRcpts || len(l.envelope.Prefix) > maxLetterPrefix {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 {
		oldest := r.all[r.order[0]]
		if oldest != nil && l.came.Sub(oldest.came) < recentAge && len(r.order) <= 2*len(r.all)+recentOrderSlack {
			break
		}
		r.drop(r.order[0])
		r.order = r.order[1:]
	}
	if r.bytes+l.cost() > maxRecent {
		return
	}
	r.all[id] = l
	r.order = append(r.order, id)
	r.bytes += l.cost()
}

// drop forgets a message. The caller holds r.mu.
func (r *recent) drop(id [idBytes]byte) {
	if l := r.all[id]; l != nil {
		delete(r.all, id)
		r.bytes -= l.cost()
	}
}

func (r *recent) forget(id [idBytes]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
}

func (r *recent) get(id [idBytes]byte) *letter {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[id]
}

// reader reads the body.
func (l *letter) reader() io.Reader {
	all := make([]io.Reader, 0, len(l.body))
	for left, i := l.size, 0; left > 0; i++ {
		n := min(left, chunkSize)
		all = append(all, bytes.NewReader(l.body[i][:n]))
		left -= n
	}
	return io.MultiReader(all...)
}
