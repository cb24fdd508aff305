package keyd

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

const (
	usesFile    = "uses.json"
	usesVersion = 1
)

// uses counts signatures by purpose. Counts only grow.
type uses struct {
	path string

	mu    sync.Mutex
	count map[hsm.Purpose]uint64
	dirty bool
}

type usesRecord struct {
	Version int                    `json:"version"`
	Uses    map[hsm.Purpose]uint64 `json:"uses"`
}

// loadUses reads the counts. Damaged ones are logged and start from zero: they
// are evidence, and no reason to stop the mail.
func loadUses(path string, log *slog.Logger) *uses {
	u := &uses{path: path, count: map[hsm.Purpose]uint64{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return u
	}
	var r usesRecord
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && r.Version != usesVersion {
		err = fmt.Errorf("version %d is not understood", r.Version)
	}
	if err != nil {
		log.Error("counts of key uses start from zero", "path", path, "error", err)
		return u
	}
	maps.Copy(u.count, r.Uses)
	return u
}

// add counts one use and returns the new count.
func (u *uses) add(p hsm.Purpose) uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.count[p]++
	u.dirty = true
	return u.count[p]
}

func (u *uses) of(p hsm.Purpose) uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count[p]
}

// flush makes the counts durable if they changed.
func (u *uses) flush() error {
	u.mu.Lock()
	if !u.dirty {
		u.mu.Unlock()
		return nil
	}
	b, err := json.Marshal(usesRecord{usesVersion, u.count})
	u.dirty = false
	u.mu.Unlock()
	if err == nil {
		err = durable.WriteFile(u.path, append(b, '\n'), fileMode)
	}
	if err != nil {
		u.mu.Lock()
		u.dirty = true
		u.mu.Unlock()
		return fmt.Errorf("write counts of key uses: %w", err)
	}
	return nil
}

const (
	// signRate and signBurst bound the signatures of one user. A TPM makes 3 to
	// 20 per second, so only software TPMs ever come near the bound.
	signRate  = 200 // per second
	signBurst = 400
)

// buckets bounds the rate of uses by user. Only permitted users get here, so
// there are few.
type buckets struct {
	rate, burst float64 // per second; at once

	mu    sync.Mutex
	users map[uint32]*bucket
}

type bucket struct {
	tokens float64
	filled time.Time
}

func newBuckets(rate, burst float64) *buckets {
	return &buckets{rate: rate, burst: burst, users: map[uint32]*bucket{}}
}

// take reports whether the user may sign once more now.
func (b *buckets) take(uid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	u := b.users[uid]
	if u == nil {
		u = &bucket{tokens: b.burst}
		b.users[uid] = u
	} else {
		u.tokens = min(b.burst, u.tokens+b.rate*now.Sub(u.filled).Seconds())
	}
	u.filled = now
	if u.tokens < 1 {
		return false
	}
	u.tokens--
	return true
}
