package mapping

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/demail"
)

// large writes a table of n entries with addresses of usual length.
func large(n int) string {
	var b strings.Builder
	b.Grow(n * 90)
	b.WriteString(header + "\n")
	for i := range n {
		fmt.Fprintf(&b, "vorname.nachname-%d@gemeinde.example;vorname.nachname-%d@gemeinde.de-mail.example;both\n", i, i)
	}
	return b.String()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestBytesPerEntry: a table is as large as its addresses and little more, so
// that a million entries stay far below 300 MB. What is measured is the heap, so
// the bound is generous.
func TestBytesPerEntry(t *testing.T) {
	const n = 100_000
	text := large(n)
	before := heap()
	table, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	own := float64(heap()-before) / n
	runtime.KeepAlive(text)
	if table.Len() != n {
		t.Fatalf("%d entries", table.Len())
	}
	if own < 70 || own > 160 { // below the addresses' own length the measurement is broken
		t.Errorf("%.0f bytes per entry", own)
	}
	t.Logf("%.0f bytes per entry", own)
}

// processor is the time that this process has used so far, which a busy machine
// disturbs less than the clock.
func processor(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const million = 1_000_000

// BenchmarkLoad reads a million entries from CSV. "peak-MB" is the greatest heap
// that loading needs beside the text itself.
func BenchmarkLoad(b *testing.B) {
	text := large(million)
	before := heap()
	var table *Table
	var peak uint64
	for b.Loop() {
		var err error
		start, used := time.Now(), processor(b)
		var builder Builder
		builder.CSV(text, 1)
		if table, err = builder.Table(); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "s/load")
		b.ReportMetric((processor(b) - used).Seconds(), "cpu-s/load")
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		peak = max(peak, m.HeapAlloc-before)
		runtime.KeepAlive(builder)
	}
	b.ReportMetric(float64(peak)/1e6, "peak-MB")
	own := heap() - before
	b.ReportMetric(float64(own)/million, "bytes/entry")
	runtime.KeepAlive(text)
	runtime.KeepAlive(table)
}

// BenchmarkLookup asks a table of a million entries, in random order.
func BenchmarkLookup(b *testing.B) {
	table, err := read(large(million))
	if err != nil {
		b.Fatal(err)
	}
	const asked = 1 << 16
	mails := make([]string, asked)
	for i := range mails {
		mails[i] = table.address(rand.IntN(million), byMail)
	}
	run := func(name string, ask func(mail string) bool) {
		b.Run(name, func(b *testing.B) {
			used := processor(b)
			for i := 0; b.Loop(); i++ {
				if !ask(mails[i%asked]) {
					b.Fatal("lost an address")
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N), "ns/look-up")
			b.ReportMetric(float64((processor(b)-used).Nanoseconds())/float64(b.N), "cpu-ns/look-up")
		})
	}
	run("out", func(mail string) bool {
		_, ok := table.DeMail(mail)
		return ok
	})
	run("in", func(mail string) bool {
		local, _ := split(mail)
		a, err := demail.ParseAddress(local + "@gemeinde.de-mail.example")
		return err == nil && len(table.Mail(a)) == 1
	})
}
