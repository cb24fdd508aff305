package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// about says on what and with what was measured.
func (b *bench) about() {
	fmt.Fprintf(b.out, "%d CPUs, %s, %s; %d sessions, %d rounds in turns, scale %g\n", runtime.NumCPU(), runtime.Version(), kernel(), sessions, b.rounds, b.scale)
}

func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown kernel"
	}
	return "Linux " + strings.TrimSpace(string(text))
}

// machineBusy is the time that all CPUs were not idle, since boot.
func machineBusy() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var user, nice, system, idle, wait, irq, soft, steal int64
	if _, err := fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &soft, &steal); err != nil {
		return 0
	}
	return time.Duration(user+nice+system+irq+soft+steal) * time.Second / 100
}

// print writes one case as a table.
func (b *bench) print(t test, sums map[string]*figures) {
	fmt.Fprintf(b.out, "\n%s: %d messages a round\n%-36s %12s %12s %8s\n", t.name, t.messages, "", pforte, postfix, "ratio")
	p, q := sums[pforte], sums[postfix]
	row := func(name, unit string, of func(*figures) float64) {
		x, y := of(p), of(q)
		text := fmt.Sprintf("  %-34s %12s %12s", name+" "+unit, number(x), number(y))
		if x > 0 && y > 0 {
			text += fmt.Sprintf(" %7.2fx", x/y)
		}
		fmt.Fprintln(b.out, text)
	}
	if !t.down {
		row("end to end", "messages/s", func(f *figures) float64 { return per(f.messages, f.wall) })
	}
	row("accepted", "messages/s", func(f *figures) float64 { return per(f.messages, f.accepting) })
	row("accept latency p50", "ms", func(f *figures) float64 { return ms((&sent{wait: f.wait}).percentile(0.5)) })
	row("accept latency p99", "ms", func(f *figures) float64 { return ms((&sent{wait: f.wait}).percentile(0.99)) })
	row("relay CPU per 1000 messages", "s", func(f *figures) float64 { return 1000 * f.cpu.Seconds() / float64(max(1, f.messages)) })
	row("relay peak RSS", "MiB", func(f *figures) float64 { return float64(f.peak) / (1 << 20) })
	row("generator + next hop CPU/1000", "s", func(f *figures) float64 { return 1000 * f.generator.Seconds() / float64(max(1, f.messages)) })
	row("their share of the machine", "%", func(f *figures) float64 { return share(f.generator, f.wall) })
	row("others' share of the machine", "%", func(f *figures) float64 { return share(max(0, f.busy-f.generator-f.cpu), f.wall) })
	row("new connections to the next hop", "", func(f *figures) float64 { return float64(f.connections) })
	if p.messages > 0 {
		fmt.Fprintf(b.out, "  Pforte: %.2f syncs per message (%.1f messages per sync), %.0f syncs/s, %.1f KiB written per message\n",
			float64(p.syncs)/float64(p.messages), float64(p.messages)/float64(max(1, p.syncs)), float64(p.syncs)/max(p.wall.Seconds(), 1e-9), float64(p.written)/float64(p.messages)/1024)
	}
}

func per(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

func share(cpu, wall time.Duration) float64 {
	if wall <= 0 {
		return 0
	}
	return 100 * cpu.Seconds() / (wall.Seconds() * float64(runtime.NumCPU()))
}

func number(x float64) string {
	switch {
	case x == 0:
		return "-"
	case x < 10:
		return fmt.Sprintf("%.2f", x)
	case x < 100:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
