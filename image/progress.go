package image

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress tells a person what is going on: one line a step. On a terminal the
// running step's line counts its seconds; elsewhere every line is whole.
type progress struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	step     string
	began    time.Time
}

func newProgress(w io.Writer) *progress {
	if w == nil {
		w = io.Discard
	}
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

// start begins a step; the returned function ends it.
func (p *progress) start(name string) (done func(detail string, err error)) {
	p.mu.Lock()
	p.step, p.began = name, time.Now()
	p.mu.Unlock()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		p.tick(stop)
	}()
	return func(detail string, err error) {
		close(stop)
		<-stopped
		if err != nil {
			detail = "failed"
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.clear()
		fmt.Fprintf(p.w, "%-10s %6.1f s  %s\n", name, time.Since(p.began).Seconds(), detail)
	}
}

// slow is when a step that is still running gets mentioned.
const slow = 2 * time.Second

// tick shows that a slow step is alive: each second on a terminal, once elsewhere.
func (p *progress) tick(stop <-chan struct{}) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	told := false
	for {
		select {
		case <-stop:
			return
		case <-t.C:
		}
		p.mu.Lock()
		since := time.Since(p.began)
		switch {
		case since < slow:
		case p.terminal:
			fmt.Fprintf(p.w, "\r%-10s %6.0f s  ...", p.step, since.Seconds())
		case !told:
			fmt.Fprintf(p.w, "%-10s ...\n", p.step)
			told = true
		}
		p.mu.Unlock()
	}
}

// clear wipes the running line of a terminal.
func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// note prints a line within a step.
func (p *progress) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, "%-10s           %s\n", p.step, fmt.Sprintf(format, args...))
}
