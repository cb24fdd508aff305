package queue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"gitlab.opencode.de/pforte/pforte/internal/durable"
)

// BenchmarkCommit takes messages in charge, durably, and beside it writes the same
// bodies as plain files (write, fsync, rename, folder fsync), in turns on the same
// disk. "ratio" is queue to files.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{10 << 10, 200 << 10} {
		for _, writers := range []int{1, 20, 100} {
			b.Run(fmt.Sprintf("%dKiB/%dwriters", size>>10, writers), func(b *testing.B) {
				benchCommit(b, size, writers)
			})
		}
	}
}

func benchCommit(b *testing.B, size, writers int) {
	dir := b.TempDir()
	q, err := Open(vfs.Default, filepath.Join(dir, "queue"), Options{Ballast: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	files := filepath.Join(dir, "files")
	if err := durable.MkdirAll(durable.OS{}, files, 0o700); err != nil {
		b.Fatal(err)
	}
	content := testBody(size, 1)
	var number atomic.Int64
	commit := func() error {
		body, err := q.NewBody(int64(size))
		if err != nil {
			return err
		}
		if _, err := body.Write(content); err != nil {
			return err
		}
		return q.Commit(context.Background(), testEnvelope("a", "x@y"), body)
	}
	file := func() error {
		return durable.WriteFile(filepath.Join(files, fmt.Sprint(number.Add(1))), content, 0o600)
	}
	var spent [2]time.Duration
	const turns = 4
	b.ResetTimer()
	for turn := range turns {
		n := b.N/turns + (b.N%turns+turn)/turns
		for i, do := range []func() error{commit, file} {
			start := time.Now()
			if err := inParallel(writers, n, do); err != nil {
				b.Fatal(err)
			}
			spent[i] += time.Since(start)
		}
	}
	b.ReportMetric(float64(b.N)/spent[0].Seconds(), "commits/s")
	b.ReportMetric(float64(b.N)/spent[1].Seconds(), "files/s")
	b.ReportMetric(spent[1].Seconds()/spent[0].Seconds(), "ratio")
}

// inParallel runs do n times, by that many workers.
func inParallel(workers, n int, do func() error) error {
	var wg sync.WaitGroup
	var left, failed atomic.Int64
	left.Store(int64(n))
	var fault atomic.Value
	for range workers {
		wg.Go(func() {
			for left.Add(-1) >= 0 && failed.Load() == 0 {
				if err := do(); err != nil {
					failed.Add(1)
					fault.Store(err)
				}
			}
		})
	}
	wg.Wait()
	if err, ok := fault.Load().(error); ok {
		return err
	}
	return nil
}

// BenchmarkLife is a message's whole way, Commit, Due, Begin, Body, Finish, with 50
// senders; and beside it, in turns, the same with plain files (write, fsync, rename,
// folder fsync, read, remove). "ratio" is queue to files, "group" the changes that
// shared one fsync of the log.
func BenchmarkLife(b *testing.B) {
	for _, c := range []struct{ size, writers int }{{10 << 10, 50}, {100 << 10, 50}, {10 << 20, 5}} {
		b.Run(fmt.Sprintf("%dKiB/%dwriters", c.size>>10, c.writers), func(b *testing.B) {
			benchLife(b, c.size, c.writers)
		})
	}
}

func benchLife(b *testing.B, size, writers int) {
	dir := b.TempDir()
	q, err := Open(vfs.Default, filepath.Join(dir, "queue"), Options{Ballast: -1})
	if err != nil {
		b.Fatal(err)
	}
	defer q.Close()
	content := testBody(size, 1)
	var number atomic.Int64
	file := func() error {
		name := filepath.Join(dir, fmt.Sprint(number.Add(1)))
		if err := durable.WriteFile(name, content, 0o600); err != nil {
			return err
		}
		if _, err := os.ReadFile(name); err != nil {
			return err
		}
		return os.Remove(name)
	}
	var spent [2]time.Duration
	const turns = 4
	b.SetBytes(int64(size))
	b.ResetTimer()
	for turn := range turns {
		n := b.N/turns + (b.N%turns+turn)/turns
		for i, do := range []func() error{
			func() error { return lives(q, content, writers, n) },
			func() error { return inParallel(writers, n, file) },
		} {
			start := time.Now()
			if err := do(); err != nil {
				b.Fatal(err)
			}
			spent[i] += time.Since(start)
		}
	}
	b.ReportMetric(float64(b.N)/spent[0].Seconds(), "messages/s")
	b.ReportMetric(float64(b.N)/spent[1].Seconds(), "files/s")
	b.ReportMetric(spent[1].Seconds()/spent[0].Seconds(), "ratio")
	b.ReportMetric(q.Metrics().GroupSize(), "group")
}

// lives brings in n messages and delivers them meanwhile.
func lives(q *Queue, content []byte, writers, n int) error {
	var wg sync.WaitGroup
	var sent, delivered error
	wg.Go(func() {
		sent = inParallel(writers, n, func() error {
			body, err := q.NewBody(int64(len(content)))
			if err != nil {
				return err
			}
			if _, err := body.Write(content); err != nil {
				return err
			}
			e := testEnvelope("a", "x@y")
			e.Keys = []string{"message-id:" + string(body.ID()), "address:x@y", "body:" + string(body.ID())}
			return q.Commit(context.Background(), e, body)
		})
	})
	var done atomic.Int64
	wg.Go(func() {
		delivered = inParallel(writers, writers, func() error {
			for done.Load() < int64(n) {
				if err := deliverSome(q, &done); err != nil {
					return err
				}
			}
			return nil
		})
	})
	wg.Wait()
	return errors.Join(sent, delivered)
}

func deliverSome(q *Queue, done *atomic.Int64) error {
	list, err := q.Due(time.Now(), 1)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		time.Sleep(time.Millisecond)
		return nil
	}
	id := list[0].ID
	if err := q.Begin(id); err != nil {
		return err
	}
	r, err := q.Body(id)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	if err == nil {
		err = q.Finish(id, Outcome{Results: []Result{{Recipient: 0, State: Delivered}}})
	}
	done.Add(1)
	return err
}

// BenchmarkRestart opens a queue with many waiting messages and hands out the
// first of them.
func BenchmarkRestart(b *testing.B) {
	const messages = 50_000
	dir := filepath.Join(b.TempDir(), "queue")
	q, err := Open(vfs.Default, dir, Options{Ballast: -1})
	if err != nil {
		b.Fatal(err)
	}
	if err := inParallel(100, messages, func() error {
		body, err := q.NewBody(1 << 10)
		if err != nil {
			return err
		}
		return q.Commit(context.Background(), testEnvelope("a", "x@y"), body)
	}); err != nil {
		b.Fatal(err)
	}
	if err := q.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		q, err := Open(vfs.Default, dir, Options{Ballast: -1})
		if err != nil {
			b.Fatal(err)
		}
		if list, err := q.Due(time.Now(), 100); err != nil || len(list) != 100 {
			b.Fatalf("%d due, %v", len(list), err)
		}
		if err := q.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(messages, "waiting")
}
