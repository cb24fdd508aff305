package lan

import (
	"context"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair joins two networks by one wire, as if each were a guest of the other.
func pair(t *testing.T) (a, b *Network) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string, addrs ...string) *Network {
		var ps []netip.Prefix
		for _, s := range addrs {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		n, err := New(filepath.Join(dir, name), ps...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		return n
	}
	a = open("a", "10.1.0.1/24", "10.1.0.3/24", "fd01::1/64")
	b = open("b", "10.1.0.2/24", "fd01::2/64")
	wire := func(from, to *Network) net.Conn {
		c, err := net.Dial("unix", from.Socket())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ca, cb := wire(a, b), wire(b, a)
	go func() { _, _ = io.Copy(ca, cb) }()
	go func() { _, _ = io.Copy(cb, ca) }()
	return a, b
}

func TestTCPBothFamilies(t *testing.T) {
	a, b := pair(t)
	for _, tt := range []struct{ listen, from string }{
		{"10.1.0.3:25", "10.1.0.2"},
		{"[fd01::1]:25", "fd01::2"},
	} {
		t.Run(tt.listen, func(t *testing.T) {
			at := netip.MustParseAddrPort(tt.listen)
			l, err := a.Listen(at)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, err := b.Dial(ctx, netip.MustParseAddr(tt.from), at)
			if err != nil {
				t.Fatal(err)
			}
			if got := c.RemoteAddr().String(); got != tt.listen {
				t.Errorf("remote address %s, want %s", got, tt.listen)
			}
			want := strings.Repeat("a letter, ", 20_000)
			go func() {
				_, _ = io.WriteString(c, want)
				_ = c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || string(got) != want {
				t.Fatalf("echo: %d bytes, %v; want %d", len(got), err, len(want))
			}
		})
	}
}

func TestGuestThatBreaksTheFraming(t *testing.T) {
	a, _ := pair(t)
	c, err := net.Dial("unix", a.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 64<<10)
	for {
		if _, err := c.Read(buf); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Fatal("a guest with a frame of 4 GiB was not disconnected")
			}
			return
		}
	}
}

func TestNewRefusesATakenSocket(t *testing.T) {
	a, _ := pair(t)
	if _, err := New(a.Socket(), netip.MustParsePrefix("10.9.0.1/24")); err == nil {
		t.Fatal("a second network on the same socket was not refused")
	}
}
