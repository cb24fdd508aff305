package vm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"gitlab.opencode.de/pforte/pforte/internal/milestone"
)

const (
	maxLine  = 8 << 10 // bytes of one serial line; longer ones are split
	maxLines = 50_000  // kept per run; older ones are only in serial.log
)

// Line is one line of the serial port with the time since power-on.
type Line struct {
	At   time.Duration
	Text string
}

// Serial keeps what one run of a machine printed and lets callers wait for
// milestone lines. A mark is never missed: waiting looks at the past first.
type Serial struct {
	start time.Time

	mu      sync.Mutex
	lines   []Line
	dropped int
	marks   []Mark
	closed  bool
	changed chan struct{} // closed and replaced at every change
}

// Mark is a milestone with the time since power-on.
type Mark struct {
	milestone.Mark
	At time.Duration
}

func newSerial() *Serial {
	return &Serial{start: time.Now(), changed: make(chan struct{})}
}

// read takes the port's output until it ends, and copies it to log.
func (s *Serial) read(r io.Reader, log io.Writer) {
	br := bufio.NewReaderSize(io.TeeReader(r, log), maxLine)
	for {
		text, err := br.ReadSlice('\n')
		if len(text) > 0 {
			s.add(clean(string(text)))
		}
		if err != nil && err != bufio.ErrBufferFull {
			break
		}
	}
	s.mu.Lock()
	s.closed = true
	s.signal()
	s.mu.Unlock()
}

// clean drops line ends and terminal control sequences, which the firmware prints.
func clean(s string) string {
	s = strings.TrimRight(s, "\r\n")
	if !strings.ContainsRune(s, 0x1b) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != 0x1b {
			b.WriteByte(s[i])
			continue
		}
		i++
		if i < len(s) && s[i] == '[' {
			for i++; i < len(s) && (s[i] < 0x40 || s[i] > 0x7e); i++ {
			}
		}
	}
	return b.String()
}

func (s *Serial) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Since(s.start)
	if len(s.lines) >= maxLines {
		s.lines = s.lines[maxLines/2:]
		s.dropped += maxLines / 2
	}
	s.lines = append(s.lines, Line{at, text})
	if m, ok := milestone.Parse(text); ok {
		s.marks = append(s.marks, Mark{m, at})
	}
	s.signal()
}

func (s *Serial) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Wait returns the first mark of the given name that fits, from the beginning
// of the run. It ends with an error that carries the last serial lines when
// ctx ends or the machine goes off. fits may be nil.
func (s *Serial) Wait(ctx context.Context, name string, fits func(Mark) bool) (Mark, error) {
	return s.WaitAny(ctx, 0, func(m Mark) bool { return m.Name == name && (fits == nil || fits(m)) }, name)
}

// WaitAny is Wait for any mark that fits, from the mark with index from on;
// what names the thing waited for in the error.
func (s *Serial) WaitAny(ctx context.Context, from int, fits func(Mark) bool, what string) (Mark, error) {
	for i := from; ; {
		s.mu.Lock()
		for ; i < len(s.marks); i++ {
			if fits(s.marks[i]) {
				m := s.marks[i]
				s.mu.Unlock()
				return m, nil
			}
		}
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		if closed {
			return Mark{}, fmt.Errorf("vm: the machine went off while waiting for %s; last lines:\n%s", what, s.Tail(40))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Mark{}, fmt.Errorf("vm: waiting for %s: %w; last lines:\n%s", what, ctx.Err(), s.Tail(40))
		}
	}
}

// WaitText waits until a line contains text; it is for what firmware prints.
func (s *Serial) WaitText(ctx context.Context, text string) error {
	for {
		s.mu.Lock()
		changed, closed := s.changed, s.closed
		s.mu.Unlock()
		switch {
		case s.Contains(text):
			return nil
		case closed:
			return fmt.Errorf("vm: the machine went off while waiting for %q; last lines:\n%s", text, s.Tail(40))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("vm: waiting for %q: %w; last lines:\n%s", text, ctx.Err(), s.Tail(40))
		}
	}
}

// Marks returns all milestones so far.
func (s *Serial) Marks() []Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mark(nil), s.marks...)
}

// Contains reports whether a line so far contains text.
func (s *Serial) Contains(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.Contains(l.Text, text) {
			return true
		}
	}
	return false
}

// Tail returns the last n lines, each after the seconds since power-on.
func (s *Serial) Tail(n int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, l := range s.lines[max(0, len(s.lines)-n):] {
		fmt.Fprintf(&b, "%7.2fs %s\n", l.At.Seconds(), l.Text)
	}
	return b.String()
}
