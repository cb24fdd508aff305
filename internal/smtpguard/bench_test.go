package smtpguard

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// counted is a listener that counts the reads and writes of its connections, each
// of which is a system call.
type counted struct {
	net.Listener
	reads, writes *atomic.Int64
}

type countedConn struct {
	net.Conn
	l counted
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{c, l}, nil
}

func (c countedConn) Read(p []byte) (int, error)  { c.l.reads.Add(1); return c.Conn.Read(p) }
func (c countedConn) Write(p []byte) (int, error) { c.l.writes.Add(1); return c.Conn.Write(p) }

// discard takes messages and keeps none.
func discard(r io.Reader) (string, error) {
	_, err := io.Copy(io.Discard, r)
	return "taken", err
}

// letter is a message of about n bytes in lines of 76 characters.
func letter(n int) []byte {
	line := strings.Repeat("x", 76) + "\r\n"
	return []byte("Subject: letter\r\n\r\n" + strings.Repeat(line, n/len(line)) + ".\r\n")
}

// BenchmarkMessages hands in messages of 10 KiB one after the other on one
// connection, with the client in the same process. record is how many bytes the
// client puts into one TLS record: Postfix and Exim write 4 KiB, others 16 KiB.
func BenchmarkMessages(b *testing.B) {
	for _, shape := range []struct {
		name   string
		record int
	}{{"record=16K", 16 << 10}, {"record=4K", 4 << 10}, {"record=1400", 1400}} {
		b.Run(shape.name, func(b *testing.B) { benchMessages(b, shape.record) })
	}
}

func benchMessages(b *testing.B, size int) {
	o := options(&record{data: discard}, Limits{})
	s := New(o)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l := counted{ln, new(atomic.Int64), new(atomic.Int64)}
	go func() { _ = s.Serve(l, Implicit) }()
	defer stop(s)
	cfg := insecure()
	cfg.DynamicRecordSizingDisabled = true
	c, err := tls.Dial("tcp", ln.Addr().String(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	answers := make([]byte, 4096)
	await := func(want string) {
		for have := 0; ; {
			n, err := c.Read(answers[have:])
			if err != nil {
				b.Fatal(err)
			}
			have += n
			last := bytes.LastIndexByte(answers[:have-1], '\n') + 1
			if answers[have-1] == '\n' && bytes.HasPrefix(answers[last:have], []byte(want)) {
				return
			}
		}
	}
	await("220")
	_, _ = io.WriteString(c, "EHLO client.example\r\n")
	await("250 ")
	envelope := []byte("MAIL FROM:<a@tenant.example> SIZE=10240 BODY=8BITMIME\r\nRCPT TO:<b@x.example>\r\nDATA\r\n")
	body := letter(10 << 10)
	b.ReportAllocs()
	used := cpuTime()
	l.reads.Store(0)
	l.writes.Store(0)
	for b.Loop() {
		_, _ = c.Write(envelope)
		await("354")
		for rest := body; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			_, _ = c.Write(rest[:min(size, len(rest))])
		}
		await("250")
	}
	b.ReportMetric(float64(cpuTime()-used)/float64(b.N), "cpu-ns/op") // of both ends
	b.ReportMetric(float64(l.reads.Load())/float64(b.N), "reads/op")
	b.ReportMetric(float64(l.writes.Load())/float64(b.N), "writes/op")
}

// cpuTime is what this process has used of all processors; on a machine with
// others on it, it tells more than the clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
