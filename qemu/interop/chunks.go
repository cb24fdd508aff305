package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// chunk is one BDAT (RFC 3030 §2) with its bytes.
func chunk(piece []byte, last bool) []byte {
	end := ""
	if last {
		end = " LAST"
	}
	return append(fmt.Appendf(nil, "BDAT %d%s\r\n", len(piece), end), piece...)
}

// pieces cuts content into pieces of at most size bytes.
func pieces(content []byte, size int) [][]byte { return slices.Collect(slices.Chunk(content, size)) }

// bdat sends a letter in chunks, each after the answer to the one before.
func (c *client) bdat(l *letter, list [][]byte) error {
	if err := c.commands(l.envelope(), 250, 250); err != nil {
		return err
	}
	for i, piece := range list {
		if err := whole(c, chunk(piece, i == len(list)-1)); err != nil {
			return err
		}
		if err := c.want(250); err != nil {
			return fmt.Errorf("BDAT %d of %d: %w", i+1, len(list), err)
		}
	}
	return nil
}

// bdatGroup sends letters in one write, which ends in QUIT.
func (c *client) bdatGroup(letters []*letter, cut func(content []byte) [][]byte) error {
	var wire []byte
	var codes []int
	for _, l := range letters {
		list := cut(l.raw)
		wire = append(wire, l.envelope()...)
		codes = append(codes, 250, 250)
		for i, piece := range list {
			wire, codes = append(wire, chunk(piece, i == len(list)-1)...), append(codes, 250)
		}
	}
	wrote := make(chan error, 1)
	go func() { wrote <- whole(c, append(wire, "QUIT\r\n"...)) }()
	for i, want := range append(codes, 221) {
		if code, text := c.answer(); code != want {
			return fmt.Errorf("answer %d in a group of chunks: %s, want %d", i+1, strings.TrimSpace(text), want)
		}
	}
	return <-wrote
}

// form is one way to write letters in chunks.
type form struct {
	name    string
	letters int // that arrive
	body    func(marker string) []byte
	send    func(c *client, letters []*letter) error
}

// tiny is smaller than every end mark that stands between two lines; large chunks
// are what servers send of a long message.
const (
	tiny      = 3
	largeUnit = 1 << 20
)

func forms() []form {
	return []form{
		{"one chunk", 1, odd, func(c *client, l []*letter) error { return c.bdat(l[0], [][]byte{l[0].raw}) }},
		{"two chunks", 1, odd, func(c *client, l []*letter) error { return c.bdat(l[0], pieces(l[0].raw, len(l[0].raw)/2+1)) }},
		{"an empty last chunk", 1, odd, func(c *client, l []*letter) error { return c.bdat(l[0], [][]byte{l[0].raw, nil}) }},
		{"chunks of 3 bytes", 1, odd, func(c *client, l []*letter) error { return c.bdat(l[0], pieces(l[0].raw, tiny)) }},
		{"20 MiB", 1, largeBody, func(c *client, l []*letter) error { return c.bdat(l[0], pieces(l[0].raw, largeUnit)) }},
		{"after RSET between chunks", 1, odd, func(c *client, l []*letter) error {
			if err := c.commands(l[0].envelope(), 250, 250); err != nil {
				return err
			}
			if err := whole(c, append(chunk(l[0].raw, false), "RSET\r\n"...)); err != nil {
				return err
			}
			for range 2 {
				if err := c.want(250); err != nil {
					return err
				}
			}
			return c.bdat(l[0], [][]byte{l[0].raw})
		}},
		{"after DATA", 2, odd, func(c *client, l []*letter) error {
			if err := c.data(l[0], whole); err != nil {
				return err
			}
			return c.bdat(l[1], [][]byte{l[1].raw})
		}},
		{"three letters in one write", 3, odd, func(c *client, l []*letter) error {
			return c.bdatGroup(l, func(b []byte) [][]byte { return [][]byte{b} })
		}},
		{"two letters in chunks of 3 bytes and one write", 2, odd, func(c *client, l []*letter) error {
			return c.bdatGroup(l, func(b []byte) [][]byte { return pieces(b, tiny) })
		}},
	}
}

// chunking sends letters in chunks. A peer that can is also wanted to hand them to
// Pforte in chunks.
func chunking(ctx context.Context, w *way) error {
	if fault := w.takesChunks(); fault != nil {
		return fault
	}
	before, sent := w.handedInChunks(), 0
	for _, f := range forms() {
		if err := w.inForm(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		sent += f.letters
	}
	if w.chunkLog == "" {
		return nil
	}
	// The peer writes its log after Pforte's answer.
	for limit := time.Now().Add(arrival); ; time.Sleep(settle) {
		n := w.handedInChunks() - before
		switch {
		case n >= sent:
			return nil
		case ctx.Err() != nil || time.Now().After(limit):
			return fmt.Errorf("the peer handed %d of %d letters to Pforte in chunks", n, sent)
		}
	}
}

// takesChunks says who does not offer CHUNKING on this way, if somebody does not.
// Pforte must.
func (w *way) takesChunks() error {
	c, err := w.in()
	if err != nil {
		return err
	}
	defer c.Close()
	switch {
	case c.ext["CHUNKING"]:
		return nil
	case w.direct:
		return errors.New("CHUNKING is not offered by Pforte")
	}
	return notOffered{"peer", "CHUNKING"}
}

// handedInChunks counts what the peer, by its log, has handed to Pforte by BDAT.
func (w *way) handedInChunks() (n int) {
	text, _ := os.ReadFile(w.chunkLog)
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(" => ")) && bytes.Contains(line, []byte(" K ")) {
			n++
		}
	}
	return n
}

func (w *way) inForm(ctx context.Context, f form) error {
	c, err := w.in()
	if err != nil {
		return err
	}
	defer c.Close()
	var letters []*letter
	var markers []string
	var bodies [][]byte
	for range f.letters {
		marker := name()
		body := f.body(marker)
		l, err := w.letter(body)
		if err != nil {
			return err
		}
		letters, markers, bodies = append(letters, l), append(markers, marker), append(bodies, body)
	}
	if err := f.send(c, letters); err != nil {
		return err
	}
	for i := range markers {
		if _, err := w.once(ctx, markers[i], bodies[i]); err != nil {
			return err
		}
	}
	return nil
}
