package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// falseEnds are what some servers take for the end of a message, and none may.
func falseEnds() []string {
	return []string{"\n.\n", "\n.\r", "\r.\n", "\r.\r", "\n.\r\n", "\r.\r\n", "\r\n.\r\r\n", "\r\r\n.\r\r\n", "\r\n\x00.\r\n", "\r\n.\n", "\r\n.\r"}
}

// splits is a cell in which the peer, before Pforte, was fooled.
type splits struct{ ends []string }

func (s splits) Error() string {
	return fmt.Sprintf("peer splits %d of %d", len(s.ends), len(falseEnds()))
}

// smuggling puts a second message behind each false end mark.
func smuggling(ctx context.Context, w *way) error {
	var split splits
	for _, end := range falseEnds() {
		before := w.box.Accepted()
		marker, smuggled := name(), name()
		if err := w.smuggle(marker, smuggled, end); err != nil {
			return fmt.Errorf("%q: %w", end, err)
		}
		if w.direct {
			// The answer came after Pforte had decided.
			if n := w.box.Accepted() - before; n != 0 {
				return fmt.Errorf("%q: Pforte took %d messages, want 0", end, n)
			}
			continue
		}
		if _, err := w.simple(ctx, odd, "", whole); err != nil { // a sentinel behind it
			return fmt.Errorf("%q: a letter behind it: %w", end, err)
		}
		time.Sleep(settle)
		took := w.box.Accepted() - before - 1
		_, first := w.end.where(has(marker))
		_, second := w.end.where(has(smuggled))
		switch {
		case first+second != took:
			return fmt.Errorf("%q: Pforte took %d messages, and %d came out", end, took, first+second)
		case second > 0:
			split.ends = append(split.ends, end)
		}
	}
	if len(split.ends) > 0 {
		return split
	}
	return nil
}

// smuggle sends one message with a false end and commands behind it, and reads
// the answer to the true end.
func (w *way) smuggle(marker, smuggled, end string) error {
	l, err := w.letter([]byte("marker " + marker + "\r\nfirst"))
	if err != nil {
		return err
	}
	c, err := w.in()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.commands(l.envelope()+"DATA\r\n", 250, 250, 354); err != nil {
		return err
	}
	if err := whole(c, append(append(append([]byte(nil), l.raw...), end...), second(l, smuggled)...)); err != nil {
		return err
	}
	code, text := c.answer()
	if w.direct && code/100 != 5 {
		return fmt.Errorf("answer %q, want a permanent refusal", strings.TrimSpace(text))
	}
	_, _ = c.say("QUIT") // reads one more answer, if the peer has more
	return nil
}

// desync sends what is right in the wrong pieces, and, to Pforte itself, what
// must never be carried out.
func desync(ctx context.Context, w *way) error {
	if _, err := w.simple(ctx, odd, "", inFragments); err != nil {
		return fmt.Errorf("in fragments: %w", err)
	}
	if !w.direct {
		return nil
	}
	for _, a := range []struct {
		what  string
		lines func(l *letter) string
	}{
		{"the message ahead of 354", func(l *letter) string { return l.envelope() + "DATA\r\n" + string(stuffed(l.raw)) }},
		{"BDAT with commands inside", func(l *letter) string {
			return l.envelope() + "BDAT 4000 LAST X\r\n" + l.envelope() + "DATA\r\n" + string(stuffed(l.raw))
		}},
		{"commands ahead of a refused DATA", func(l *letter) string { return "DATA\r\n" + l.envelope() + "DATA\r\n" + string(stuffed(l.raw)) }},
		{"a command that ends in LF", func(l *letter) string {
			return strings.ReplaceAll(l.envelope(), "\r\n", "\n") + "DATA\r\n" + string(stuffed(l.raw))
		}},
	} {
		before := w.box.Accepted()
		l, err := w.letter(odd(name()))
		if err != nil {
			return err
		}
		c, err := w.in()
		if err != nil {
			return err
		}
		_ = whole(c, []byte(a.lines(l))) // it may be cut off before the end
		c.drain()
		c.Close()
		if n := w.box.Accepted() - before; n != 0 {
			return fmt.Errorf("%s: Pforte took %d messages, want 0", a.what, n)
		}
	}
	return nil
}

// drain reads until the server closes, resets, or is silent.
func (c *client) drain() {
	_ = c.SetReadDeadline(time.Now().Add(settle))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.r, 1<<20))
}
