package daemon

import (
	"crypto/tls"
	"fmt"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// BenchmarkAccept is mail of 10 KiB from 50 sessions into a synced queue on disk,
// TLS on, with the provider down.
func BenchmarkAccept(b *testing.B) {
	w := newWorld(b)
	w.fs = vfs.Default
	w.schedule = queue.Schedule{}
	w.provider.SetDown(true)
	w.guard.PerAddress = 100
	w.start()
	message := compose(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 10<<10/72), "From: "+mailA, "To: "+citizen, "Subject: x", "Message-ID: <1@gemeinde-a.example>")
	wire := stuffed(message)
	const sessions = 50
	var left atomic.Int64
	left.Store(int64(b.N))
	var group sync.WaitGroup
	clients := make([]*talk, sessions)
	for i := range clients {
		clients[i] = w.greeted(w.clientA)
		_ = clients[i].Conn.(*tls.Conn).SetDeadline(time.Time{})
	}
	b.SetBytes(int64(len(message)))
	b.ResetTimer()
	for _, c := range clients {
		group.Go(func() {
			tp := textproto.NewConn(c.Conn)
			for left.Add(-1) >= 0 {
				if err := tp.PrintfLine("MAIL FROM:<%s>\r\nRCPT TO:<%s>\r\nDATA", mailA, citizen); err != nil {
					b.Error(err)
					return
				}
				for _, code := range []int{250, 250, 354} {
					if _, _, err := tp.ReadResponse(code); err != nil {
						b.Error(err)
						return
					}
				}
				if _, err := c.Write(wire); err != nil {
					b.Error(err)
					return
				}
				if _, _, err := tp.ReadResponse(250); err != nil {
					b.Error(fmt.Errorf("final dot: %w", err))
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "mails/s")
}
