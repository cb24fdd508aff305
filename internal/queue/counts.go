package queue

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// Counts are how much of a tenant's mail is in the queue.
type Counts struct {
	Messages   int64 // waiting for an attempt or being tried
	Recipients int64 // of these messages, all of them
	Bytes      int64 // bodies, with those of dead letters
	Dead       int64 // dead letters
	Held       int64 // on hold; not among Messages and Recipients, but among Bytes
}

// countFields is how many numbers a Counts has on disk; more may follow later.
const countFields = 5

func (c Counts) list() [countFields]int64 {
	return [countFields]int64{c.Messages, c.Recipients, c.Bytes, c.Dead, c.Held}
}

func countsOf(n []int64) Counts {
	var list [countFields]int64
	copy(list[:], n)
	return Counts{list[0], list[1], list[2], list[3], list[4]}
}

func (c Counts) plus(d Counts) Counts {
	return Counts{c.Messages + d.Messages, c.Recipients + d.Recipients, c.Bytes + d.Bytes, c.Dead + d.Dead, c.Held + d.Held}
}

func (c Counts) negative() Counts {
	return Counts{-c.Messages, -c.Recipients, -c.Bytes, -c.Dead, -c.Held}
}

// encode is a list of signed varints: what is added to the tenant's counts.
func (c Counts) encode() []byte {
	var out []byte
	for _, n := range c.list() {
		out = binary.AppendVarint(out, n)
	}
	return out
}

func decodeCounts(b []byte) ([]int64, error) {
	var list []int64
	for len(b) > 0 {
		v, n := binary.Varint(b)
		if n <= 0 {
			return nil, fmt.Errorf("%w: counts", ErrCorrupt)
		}
		list = append(list, v)
		b = b[n:]
	}
	return list, nil
}

// countsMerger lets a batch add to a tenant's counts without reading them, so
// that commits of one tenant need not wait for each other. The name is on disk.
func countsMerger() *pebble.Merger {
	return &pebble.Merger{
		Name: "pforte.queue.counts.1",
		Merge: func(_, value []byte) (pebble.ValueMerger, error) {
			var s countsSum
			return &s, s.add(value)
		},
	}
}

// countsSum adds lists of numbers, the shorter ones filled up with zeros.
type countsSum struct{ sum []int64 }

func (s *countsSum) add(value []byte) error {
	list, err := decodeCounts(value)
	if err != nil {
		return err
	}
	for len(s.sum) < len(list) {
		s.sum = append(s.sum, 0)
	}
	for i, v := range list {
		s.sum[i] += v
	}
	return nil
}

// MergeNewer implements pebble.ValueMerger.
func (s *countsSum) MergeNewer(value []byte) error { return s.add(value) }

// MergeOlder implements pebble.ValueMerger.
func (s *countsSum) MergeOlder(value []byte) error { return s.add(value) }

// Finish implements pebble.ValueMerger.
func (s *countsSum) Finish(bool) ([]byte, io.Closer, error) {
	var out []byte
	for _, v := range s.sum {
		out = binary.AppendVarint(out, v)
	}
	return out, nil, nil
}
