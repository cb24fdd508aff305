package nexthop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkSend hands messages over TLS to a server in this process that throws
// them away, on a connection that stays open.
func BenchmarkSend(b *testing.B) {
	for _, size := range []int{10 << 10, 10 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			addr := discarding(b, "8BITMIME", "PIPELINING", "SIZE 100000000", "DSN")
			body := "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", size/72)
			ctx := context.Background()
			c, err := Dial(ctx, Server{Address: addr, Mode: Implicit, TLS: clientTLS(serverName), Helo: "box.example"}, Limits{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			m := message(body, "b@x.example")
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			before := used(b)
			for b.Loop() {
				if res, err := c.Send(ctx, m); err != nil || res[0].Outcome != Delivered {
					b.Fatal(res, err)
				}
			}
			b.ReportMetric(float64((used(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// used is the processor time of this process: client and server.
func used(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// discarding is a server with these extensions that takes everything.
func discarding(t testing.TB, ext ...string) string {
	return serveTLS(t, func(c net.Conn) { discard(c, ext) })
}

func discard(c net.Conn, ext []string) {
	hello := "250-mx.example\r\n"
	for _, e := range ext {
		hello += "250-" + e + "\r\n"
	}
	hello += "250 OK\r\n"
	br, bw := bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c)
	chunk, tail := make([]byte, 64<<10), make([]byte, 0, 16)
	_, _ = io.WriteString(bw, "220 hi\r\n")
	for {
		if br.Buffered() == 0 && bw.Flush() != nil {
			return
		}
		line, err := br.ReadSlice('\n')
		if err != nil {
			return
		}
		answer := "250 2.0.0 ok\r\n"
		switch string(bytes.ToUpper(line[:4])) {
		case "EHLO":
			answer = hello
		case "DATA":
			_, _ = bw.WriteString("354 go\r\n")
			if bw.Flush() != nil {
				return
			}
			for tail = tail[:0]; string(tail) != "\r\n.\r\n"; {
				n, err := br.Read(chunk)
				if err != nil {
					return
				}
				tail = append(tail, chunk[max(0, n-5):n]...)
				tail = append(tail[:0], tail[max(0, len(tail)-5):]...)
			}
		}
		_, _ = bw.WriteString(answer)
	}
}
