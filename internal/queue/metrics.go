package queue

import (
	"sync/atomic"
	"time"
)

// Metrics are what the queue has done since Open, and how it stands. Counters only
// grow.
type Metrics struct {
	Commits  uint64 // messages taken in charge, births included
	Begins   uint64 // attempts begun, by message
	Finishes uint64 // attempts finished, by message
	Bytes    uint64 // bodies taken in charge
	// Batches are durable changes of the index; Syncs are the fsyncs of its log that made
	// them so. Batches/Syncs is the group size: how many shared one.
	Batches  uint64
	Syncs    uint64
	SyncTime Histogram // of Syncs
	FileTime Histogram // of the fsyncs of body files and their folders
	Taken    int       // messages handed out by Due
	Held     int64     // messages on hold
	Reserved int64     // bytes that open transactions keep (Reserve)
	Tenants  map[string]Counts
}

// GroupSize is how many durable changes shared one fsync, on average.
func (m Metrics) GroupSize() float64 {
	if m.Syncs == 0 {
		return 0
	}
	return float64(m.Batches) / float64(m.Syncs)
}

// HistogramBounds are the upper bounds of the buckets of each Histogram; what
// exceeds the last one is in one more bucket.
func HistogramBounds() []time.Duration {
	return []time.Duration{
		100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond,
		2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, time.Second, 5 * time.Second,
	}
}

const histogramBuckets = 14

// Histogram counts durations by size.
type Histogram struct {
	Buckets [histogramBuckets]uint64 // not cumulative
	Count   uint64
	Sum     time.Duration
}

// histogram is a Histogram that is being filled.
type histogram struct {
	buckets [histogramBuckets]atomic.Uint64
	sum     atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	i := 0
	for bounds := HistogramBounds(); i < len(bounds) && d > bounds[i]; {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) read() (out Histogram) {
	for i := range h.buckets {
		out.Buckets[i] = h.buckets[i].Load()
		out.Count += out.Buckets[i]
	}
	out.Sum = time.Duration(h.sum.Load())
	return out
}

// meter counts for Metrics.
type meter struct {
	commits, begins, finishes, bytes, batches atomic.Uint64
	logTime, fileTime                         histogram
}

// tally is what one batch adds to the meter.
type tally struct{ commits, begins, finishes, bytes uint64 }

func (m *meter) count(t tally) {
	m.commits.Add(t.commits)
	m.begins.Add(t.begins)
	m.finishes.Add(t.finishes)
	m.bytes.Add(t.bytes)
	m.batches.Add(1)
}

func (m *meter) logSync(d time.Duration)  { m.logTime.add(d) }
func (m *meter) fileSync(d time.Duration) { m.fileTime.add(d) }

// Metrics costs no disk access.
func (q *Queue) Metrics() Metrics {
	m := Metrics{
		Commits: q.meter.commits.Load(), Begins: q.meter.begins.Load(), Finishes: q.meter.finishes.Load(),
		Bytes: q.meter.bytes.Load(), Batches: q.meter.batches.Load(),
		SyncTime: q.meter.logTime.read(), FileTime: q.meter.fileTime.read(),
		Reserved: q.reserved.Load(), Tenants: map[string]Counts{},
	}
	m.Syncs = m.SyncTime.Count
	q.mu.Lock()
	defer q.mu.Unlock()
	m.Taken = len(q.taken)
	for tenant, c := range q.totals {
		m.Held += c.Held
		if c != (Counts{}) {
			m.Tenants[tenant] = c
		}
	}
	return m
}
