// Package milestone writes and reads the one-line marks by which the box tells
// how far it came, and by which the test harness waits.
//
// A mark is one line, alone: "PFORTE name key=value key=value". A name is lower
// case words joined by dots ("boot.unlocked"); values with a space, a quote or
// an equals sign are quoted as Go strings. Marks never hold mail content,
// subjects or secrets. Units print them to standard output, which goes to the
// journal and to the console; init prints them to /dev/console.
package milestone

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Prefix starts every mark.
const Prefix = "PFORTE "

// Mark is one parsed line. Fields keeps the values by key.
type Mark struct {
	Name   string
	Fields map[string]string
}

// Print writes one mark to w. kv are pairs of key and value; values are printed
// with %v. An odd last key gets an empty value. Errors of w are ignored: a mark
// must never stop the work it reports.
func Print(w io.Writer, name string, kv ...any) {
	var b strings.Builder
	b.WriteString(Prefix)
	b.WriteString(name)
	for i := 0; i < len(kv); i += 2 {
		v := ""
		if i+1 < len(kv) {
			v = fmt.Sprint(kv[i+1])
		}
		if v == "" || strings.ContainsAny(v, " \"=\t\r\n\\") {
			v = strconv.Quote(v)
		}
		fmt.Fprintf(&b, " %v=%s", kv[i], v)
	}
	b.WriteByte('\n')
	_, _ = io.WriteString(w, b.String())
}

// Parse finds a mark in a line of console output, wherever on the line it
// starts (the kernel or systemd may have printed before it). It reports whether
// one was found.
func Parse(line string) (Mark, bool) {
	i := strings.Index(line, Prefix)
	if i < 0 {
		return Mark{}, false
	}
	rest := strings.TrimRight(line[i+len(Prefix):], "\r\n \t")
	name, rest, _ := strings.Cut(rest, " ")
	if name == "" {
		return Mark{}, false
	}
	m := Mark{Name: name, Fields: map[string]string{}}
	for rest != "" {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		value := after
		if q, err := strconv.QuotedPrefix(after); err == nil {
			value, _ = strconv.Unquote(q)
			rest = strings.TrimPrefix(after[len(q):], " ")
		} else {
			value, rest, _ = strings.Cut(after, " ")
		}
		m.Fields[key] = value
	}
	return m, true
}
