package relay

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// BenchmarkDeliver empties a queue on disk into a provider that takes everything at
// once: what is left is the dispatcher and the queue's fsyncs.
func BenchmarkDeliver(b *testing.B) {
	q, err := queue.Open(vfs.Default, b.TempDir(), queue.Options{Ballast: -1, DiskSlow: -1})
	if err != nil {
		b.Fatal(err)
	}
	box := newBoxOn(b, q)
	box.flood(b.N, "a", "a@x")
	before := q.Metrics()
	b.ResetTimer()
	box.run()
	box.hop.await(b, func(from []string) bool { return len(from) == b.N })
	box.close()
	b.StopTimer()
	after := q.Metrics()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
	b.ReportMetric(float64(after.Syncs-before.Syncs)/float64(b.N), "fsyncs/message")
	b.ReportMetric(float64(box.hop.most), "places")
}
