package relay

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/emersion/go-smtp"

	"gitlab.opencode.de/pforte/pforte/internal/queue"
)

// An open session holds less than 256 KiB, whatever the size of its message: with
// the greatest header, and in the middle of a large body.
func TestMemoryOfAnOutgoingSession(t *testing.T) {
	const (
		sessions = 16
		most     = 256 << 10
		body     = 4 << 20
	)
	fields := []string{"From: " + outMail, "To: " + outCitizen}
	for n := 0; n < maxOutHeader-2000; n += 900 {
		fields = append(fields, "X-Amt: "+strings.Repeat("x", 890))
	}
	head := outLetter("", fields...)
	for name, c := range map[string]struct{ at, rcpts int }{
		"in the header":             {len(head) - 5000, 1},
		"in the body":               {len(head) + 3<<20, 1},
		"in the body, to a hundred": {len(head) + 3<<20, 100},
	} {
		t.Run(name, func(t *testing.T) {
			w := newOutWorld(t, nil)
			q, err := queue.Open(vfs.Default, t.TempDir(), queue.Options{Ballast: -1, DiskSlow: -1}) // bodies in memory would count
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = q.Close() })
			w.queue, w.r.o.Queue = q, q
			heap := func() int64 {
				runtime.GC()
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}
			before := heap()
			reached, goOn, done := make(chan struct{}), make(chan struct{}), make(chan error, sessions)
			for range sessions {
				s := w.session("server a")
				go func() {
					if err := s.Mail(outMail, &smtp.MailOptions{Size: body}); err != nil {
						done <- err
						return
					}
					for i := range c.rcpts {
						if err := s.Rcpt(fmt.Sprintf("a%d@buerger.de-mail.example", i), &smtp.RcptOptions{}); err != nil {
							done <- err
							return
						}
					}
					_, err := s.Data(&slow{head: head, size: len(head) + body, at: c.at, pause: func() { reached <- struct{}{}; <-goOn }})
					done <- err
				}()
			}
			for range sessions {
				select {
				case <-reached:
				case err := <-done:
					close(goOn)
					t.Fatalf("a session ended early: %v", err)
				}
			}
			each := (heap() - before) / sessions
			close(goOn)
			for range sessions {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			t.Logf("%d KiB for each session", each>>10)
			if each > most {
				t.Errorf("a session holds %d KiB", each>>10)
			}
		})
	}
}

// slow is a message that pauses once, at the byte at.
type slow struct {
	head     string
	done     int
	size, at int
	pause    func()
}

func (s *slow) Read(p []byte) (int, error) {
	if s.done >= s.at && s.pause != nil {
		s.pause()
		s.pause = nil
	}
	if s.done >= s.size {
		return 0, io.EOF
	}
	const text = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n"
	n := 0
	if s.done < len(s.head) {
		n = copy(p, s.head[s.done:min(len(s.head), s.done+4096)])
	} else {
		n = copy(p, text)
	}
	s.done += n
	return n, nil
}
