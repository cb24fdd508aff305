package main

import (
	"crypto/tls"
	"fmt"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

// TestSinkSeesLossAndDoubles: the judge of the benchmark is judged.
func TestSinkSeesLossAndDoubles(t *testing.T) {
	w, err := peers.NewWorld()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	s, err := newSink(w.PKI.Server(), w.PKI.Pool())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.down)
	g := &generator{port: s.port, sessions: 3, cfg: &tls.Config{ServerName: peers.Provider, RootCAs: w.PKI.Pool(), Certificates: []tls.Certificate{w.Token}}}
	for _, size := range []int{100, 10 << 10, 300 << 10} { // in one read, over many
		l, expected := newLetters("x", 0, 20, size)
		s.expect(expected)
		if _, err := g.send(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if err := s.verdict(); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		if _, err := g.send(t.Context(), &letters{l.from, l.to, l.names[:1], l.text}); err != nil {
			t.Fatal(err)
		}
		want(t, s, "1 came more than once")
		s.expect(expected)
		if _, err := g.send(t.Context(), &letters{l.from, l.to, l.names[:19], l.text}); err != nil {
			t.Fatal(err)
		}
		want(t, s, "1 are missing")
		damaged := append([]byte("y"), l.text...)
		if _, err := g.send(t.Context(), &letters{l.from, l.to, l.names[19:], damaged}); err != nil {
			t.Fatal(err)
		}
		want(t, s, "1 are damaged")
	}
}

func want(t *testing.T, s *sink, text string) {
	t.Helper()
	if got := fmt.Sprint(s.verdict()); !strings.Contains(got, text) {
		t.Errorf("the sink says %q, want %q", got, text)
	}
}
