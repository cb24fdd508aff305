package operator

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"gitlab.opencode.de/pforte/pforte/internal/manage"
)

// printer collects text for people. What comes from a box is made harmless: no
// answer of a broken box steers the terminal.
type printer struct{ b bytes.Buffer }

// labelWidth is the column in which values begin.
const labelWidth = 16

// line writes one line.
func (p *printer) line(format string, args ...any) {
	p.b.WriteString(harmless(fmt.Sprintf(format, args...)) + "\n")
}

// entry writes a value behind its label; an empty one is left out.
func (p *printer) entry(label, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if text == "" {
		return
	}
	p.line("%-*s%s", labelWidth, label, text)
}

// raw writes text that has to arrive as it is, such as PEM.
func (p *printer) raw(text string) {
	for line := range strings.Lines(text) {
		p.line("%s", strings.TrimRight(line, "\r\n"))
	}
}

func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 -0700") }

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "OFF"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// counts writes one row of the queue.
func (p *printer) counts(row, name string, c manage.QueueCounts) {
	p.line(row, name, fmt.Sprint(c.Messages), fmt.Sprint(c.Recipients), size(c.Bytes), fmt.Sprint(c.Held), fmt.Sprint(c.Dead))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
