package main

import (
	"context"
	"fmt"
	"time"
)

// chunkSmuggling puts a second message into what BDAT says is content.
func chunkSmuggling(ctx context.Context, w *way) error {
	if fault := w.takesChunks(); fault != nil {
		return fault
	}
	if err := w.trueEnd(ctx); err != nil {
		return err
	}
	if !w.direct {
		return w.falseEndsInChunks(ctx)
	}
	for _, end := range falseEnds() {
		if err := w.refusedInChunks(end); err != nil {
			return fmt.Errorf("%q: %w", end, err)
		}
	}
	return w.unreadable()
}

// second is what is smuggled behind an end mark.
func second(l *letter, smuggled string) string {
	return fmt.Sprintf("%sDATA\r\nFrom: <%s>\r\nTo: <%s>\r\nSubject: interop\r\nDate: Fri, 20 Nov 2026 08:00:00 +0000\r\nMessage-ID: <%s@mail.intern.example>\r\n\r\nmarker %s\r\nsecond\r\n.\r\n",
		l.envelope(), l.from, l.to, smuggled, smuggled)
}

// trueEnd: in a chunk even CRLF.CRLF is content like any other, and stays so where
// the message goes on by DATA.
func (w *way) trueEnd(ctx context.Context) error {
	for _, size := range []int{tiny, 1 << 20} {
		smuggled := name()
		inner, err := w.letter(nil)
		if err != nil {
			return err
		}
		f := form{"CRLF.CRLF and a second message as content", 1,
			func(marker string) []byte {
				return []byte("marker " + marker + "\r\nfirst\r\n.\r\n" + second(inner, smuggled) + "BDAT 5 LAST\r\nx: y\r\nQUIT\r\n")
			},
			func(c *client, l []*letter) error { return c.bdat(l[0], pieces(l[0].raw, size)) }}
		if err := w.inForm(ctx, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if _, n := w.end.where(has(smuggled)); n > 0 {
			return fmt.Errorf("%s: %d messages out of its content", f.name, n)
		}
	}
	return nil
}

// refusedInChunks sends a false end in one chunk, and cut in two inside of it, all
// in one write. Pforte must take nothing and stay in step.
func (w *way) refusedInChunks(end string) error {
	for cut := range len(end) + 1 {
		l, err := w.letter([]byte("marker " + name() + "\r\nfirst"))
		if err != nil {
			return err
		}
		content := string(l.raw) + end + second(l, name())
		list := pieces([]byte(content), len(l.raw)+cut)
		if cut == 0 {
			list = [][]byte{[]byte(content)}
		} else {
			list = [][]byte{list[0], []byte(content[len(list[0]):])}
		}
		if err := w.refusedChunks(l, list); err != nil {
			return fmt.Errorf("cut at %d: %w", cut, err)
		}
	}
	return nil
}

func (w *way) refusedChunks(l *letter, list [][]byte) error {
	before := w.box.Accepted()
	c, err := w.in()
	if err != nil {
		return err
	}
	defer c.Close()
	wire := []byte(l.envelope())
	for i, piece := range list {
		wire = append(wire, chunk(piece, i == len(list)-1)...)
	}
	if err := whole(c, append(wire, "NOOP\r\n"...)); err != nil {
		return err
	}
	var codes []int
	for range len(list) + 3 { // MAIL, RCPT, NOOP
		code, _ := c.answer()
		codes = append(codes, code)
	}
	refused := false
	for _, code := range codes[2 : len(codes)-1] {
		refused = refused || code/100 == 5
	}
	if codes[0] != 250 || codes[1] != 250 || !refused || codes[len(codes)-1] != 250 {
		return fmt.Errorf("answers %d, want a refusal, and 250 to NOOP behind it", codes)
	}
	if n := w.box.Accepted() - before; n != 0 {
		return fmt.Errorf("%d messages were taken, want 0", n)
	}
	return nil
}

// unreadable: nobody knows where such a chunk ends, so nothing behind it is a
// command; nor is it behind a DATA that comes between chunks.
func (w *way) unreadable() error {
	for _, line := range []string{"BDAT", "BDAT LAST", "BDAT -1 LAST", "BDAT +5 LAST", "BDAT 0x5 LAST", "BDAT 5,LAST", "BDAT 5 LAST X", "BDAT 99999999999999999999 LAST",
		"BDAT 99999999999999999 LAST", "BDAT 6\r\nA: b\r\nDATA", "BDAT 6\r\nA: b\r\nBDAT x"} {
		before := w.box.Accepted()
		l, err := w.letter(odd(name()))
		if err != nil {
			return err
		}
		c, err := w.in()
		if err != nil {
			return err
		}
		wire := l.envelope() + line + "\r\nRSET\r\n" + l.envelope()
		wire += string(chunk(l.raw, true))
		_ = whole(c, []byte(wire)) // it may be cut off before the end
		c.drain()
		c.Close()
		if n := w.box.Accepted() - before; n != 0 {
			return fmt.Errorf("%q: Pforte took %d messages, want 0", line, n)
		}
	}
	return nil
}

// falseEndsInChunks goes through a peer, who may take them, mend them, refuse them,
// or be fooled; Pforte must hand on what it takes, once, and no more.
func (w *way) falseEndsInChunks(ctx context.Context) error {
	took, came := w.box.Accepted(), w.end.count()
	smuggled := map[string]string{}
	for _, end := range falseEnds() {
		smuggled[end] = name()
		l, err := w.letter([]byte("marker " + name() + "\r\nfirst"))
		if err != nil {
			return err
		}
		c, err := w.in()
		if err != nil {
			return err
		}
		wire := append([]byte(l.envelope()), chunk([]byte(string(l.raw)+end+second(l, smuggled[end])), true)...)
		_ = whole(c, append(wire, "QUIT\r\n"...)) // it may be cut off before the end
		c.drain()
		c.Close()
	}
	if _, err := w.simple(ctx, odd, "", whole); err != nil { // a sentinel behind them
		return fmt.Errorf("a letter behind false ends: %w", err)
	}
	w.untilQuiet(ctx)
	if took, came = w.box.Accepted()-took, w.end.count()-came; took != came {
		return fmt.Errorf("%d messages were taken by Pforte, and %d came out", took, came)
	}
	var split splits
	for _, end := range falseEnds() {
		if _, n := w.end.where(has(smuggled[end])); n > 0 {
			split.ends = append(split.ends, end)
		}
	}
	if len(split.ends) > 0 {
		return split
	}
	return nil
}

// untilQuiet waits until nothing has been taken or come out for a while.
func (w *way) untilQuiet(ctx context.Context) {
	for took, came := -1, -1; ctx.Err() == nil && (took != w.box.Accepted() || came != w.end.count()); {
		took, came = w.box.Accepted(), w.end.count()
		time.Sleep(settle)
	}
}
