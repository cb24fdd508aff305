package mapping

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// This file reads and writes a table as a spreadsheet does:
//
//	mail;deMail;direction
//	poststelle@gemeinde.example;poststelle@gemeinde.de-mail.example;both
//
// The first line names the columns, in any order; direction may be missing or
// empty, which means both. What is read: semicolons or commas (as in the first line),
// UTF-8 with or without byte order mark, CRLF or LF, fields in quotes, spaces
// around fields, empty lines, German names (e-mail, de-mail, richtung; beide,
// senden, empfangen, keine). Other columns are refused, because a misspelt
// "direction" would turn every entry into both.
//
// A spreadsheet runs a field that begins with = + - or @ as a formula, and an
// address may begin with the first three. An apostrophe before such a field makes it
// text; it is written before those fields, and before fields that begin with an
// apostrophe, and taken off when read.

const (
	header    = "mail;deMail;direction"
	remedyCSV = "make the first line: " + header
	formulas  = "=+-@'"
	maxRow    = 4096 // bytes of a line
)

// columns is where the fields stand in a line; -1 if nowhere.
type columns struct {
	separator               byte
	count                   int
	mail, deMail, direction int
}

// CSV takes every row of a table as text. line is the line on which it begins in the file that faults
// speak of, 1 if it is a file of its own.
func (b *Builder) CSV(text string, line int) {
	if !b.readable(text, line) {
		return
	}
	text = strings.TrimPrefix(text, "\ufeff")
	b.text.Grow(len(text))
	rows := strings.Count(text, "\n") + 1
	b.records, b.lines = slices.Grow(b.records, rows), slices.Grow(b.lines, rows)
	var c columns
	var fields []string
	for ; text != ""; line++ {
		var row string
		row, text, _ = strings.Cut(text, "\n")
		row = strings.TrimSpace(row)
		switch {
		case row == "":
		case len(row) > maxRow:
			b.faults.fault(line, "check that each entry stands on its own line", "the line has %d bytes, more than %d", len(row), maxRow)
			if c.count == 0 {
				return
			}
		case c.count == 0:
			if c = b.header(row, line); c.count == 0 {
				return
			}
		default:
			fields = b.row(c, row, line, fields[:0])
		}
	}
	if c.count == 0 {
		b.faults.fault(line, remedyCSV, "the table is empty")
	}
}

// readable refuses what is no UTF-8, once for the whole table.
func (b *Builder) readable(text string, line int) bool {
	const remedy = `save it again as "CSV UTF-8"`
	switch {
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "\xfe\xff"):
		b.faults.fault(line, remedy, "the table is written in UTF-16")
		return false
	case utf8.ValidString(text):
		return true
	}
	bad := 0
	for row := range strings.Lines(text) {
		if !utf8.ValidString(row) {
			bad++
		} else if bad == 0 {
			line++
		}
	}
	b.faults.fault(line, remedy, "the table is not UTF-8 but probably Windows-1252 or ISO 8859-1 (%d lines have letters beyond ASCII, this is the first)", bad)
	return false
}

// header reads the first line; with a fault it gives no columns.
func (b *Builder) header(row string, line int) columns {
	c := columns{separator: ',', mail: -1, deMail: -1, direction: -1}
	if strings.Contains(row, ";") {
		c.separator = ';'
	}
	fields, ok := cut(row, c.separator, nil)
	if !ok {
		b.faults.fault(line, remedyCSV, "the first line has a quotation mark that does not end")
		return columns{}
	}
	for i, name := range fields {
		place := c.place(name)
		switch {
		case name == "": // an empty column
		case place == nil:
			b.faults.fault(line, remedyCSV, "there is no column %s", quote(name))
			ok = false
		case *place >= 0:
			b.faults.fault(line, remedyCSV, "column %s stands there twice", quote(name))
			ok = false
		default:
			*place = i
		}
	}
	if ok && (c.mail < 0 || c.deMail < 0) {
		b.faults.fault(line, remedyCSV, "the first line does not name the columns mail and deMail")
		ok = false
	}
	if !ok {
		return columns{}
	}
	c.count = len(fields)
	return c
}

// place finds a column by its name.
func (c *columns) place(name string) *int {
	switch strings.ToLower(name) {
	case "mail", "e-mail", "email":
		return &c.mail
	case "demail", "de-mail":
		return &c.deMail
	case "direction", "richtung":
		return &c.direction
	}
	return nil
}

// row takes one line; it gives fields back to be used again.
func (b *Builder) row(c columns, row string, line int, fields []string) []string {
	fields, ok := cut(row, c.separator, fields)
	if !ok {
		b.faults.fault(line, "double a quotation mark inside of quotes, and end each field on its line", "a quotation mark does not end, or stands in the middle of a field")
		return fields
	}
	get := func(column int) string {
		if column < 0 || column >= len(fields) {
			return ""
		}
		return fields[column]
	}
	for i, f := range fields {
		if i != c.mail && i != c.deMail && i != c.direction && f != "" {
			b.faults.fault(line, "leave out what belongs to no column", "%s stands in a column without a name", quote(f))
			return fields
		}
	}
	e := Entry{Mail: plain(get(c.mail)), DeMail: plain(get(c.deMail))}
	if e.Direction, ok = parseDirection(get(c.direction)); !ok {
		b.faults.fault(line, "write both, send, receive or none", "there is no direction %s", quote(get(c.direction)))
		return fields
	}
	if e != (Entry{}) { // spreadsheets write empty rows, too
		b.Add(e, line)
	}
	return fields
}

// plain takes off the apostrophe that makes a field text.
func plain(field string) string {
	if len(field) > 1 && field[0] == '\'' && strings.IndexByte(formulas, field[1]) >= 0 {
		return field[1:]
	}
	return field
}

func parseDirection(word string) (Direction, bool) {
	switch strings.ToLower(word) {
	case "", "both", "beide":
		return Both, true
	case "send", "senden":
		return Send, true
	case "receive", "empfangen":
		return Receive, true
	case "none", "keine":
		return None, true
	}
	return 0, false
}

// cut splits a line into fields without quotes and spaces around them.
func cut(row string, separator byte, fields []string) ([]string, bool) {
	for {
		row = strings.TrimLeft(row, " \t")
		if strings.HasPrefix(row, `"`) {
			field, rest, ok := quoted(row[1:])
			if !ok {
				return fields, false
			}
			fields = append(fields, strings.TrimSpace(field))
			if rest = strings.TrimLeft(rest, " \t"); rest == "" {
				return fields, true
			}
			if rest[0] != separator {
				return fields, false
			}
			row = rest[1:]
			continue
		}
		i := strings.IndexByte(row, separator)
		if i < 0 {
			return append(fields, strings.TrimSpace(row)), true
		}
		fields = append(fields, strings.TrimSpace(row[:i]))
		row = row[i+1:]
	}
}

// quoted reads up to the closing quotation mark; a doubled one stands for itself.
func quoted(s string) (field, rest string, ok bool) {
	for {
		i := strings.IndexByte(s, '"')
		if i < 0 {
			return "", "", false
		}
		field += s[:i]
		if !strings.HasPrefix(s[i+1:], `"`) {
			return field, s[i+1:], true
		}
		field, s = field+`"`, s[i+2:]
	}
}

// WriteCSV writes the table so that CSV reads it back to the same one.
func (t *Table) WriteCSV(w io.Writer) error {
	const chunk = 64 << 10
	var b bytes.Buffer
	b.WriteString(header + "\n")
	for e := range t.All() {
		fmt.Fprintf(&b, "%s;%s;%s\n", harmless(e.Mail), harmless(e.DeMail), e.Direction)
		if b.Len() > chunk {
			if _, err := b.WriteTo(w); err != nil {
				return err
			}
		}
	}
	_, err := b.WriteTo(w)
	return err
}

// harmless puts an apostrophe before what a spreadsheet would run.
func harmless(field string) string {
	if field != "" && strings.IndexByte(formulas, field[0]) >= 0 {
		return "'" + field
	}
	return field
}
