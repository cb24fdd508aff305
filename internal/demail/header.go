package demail

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"iter"
	"slices"
)

// Header is the header block of a message: its fields in order, each with its
// original bytes. It is not safe for concurrent changes.
type Header struct {
	fields []Field
	noEnd  bool // the message ended without the empty line behind the header
}

// Field is one header field as it stands in the message.
type Field struct {
	raw   []byte // whole field, with the final CRLF
	name  int    // length of the name
	value int    // index behind the colon
}

// Name is the field's name as written.
func (f Field) Name() string { return string(f.raw[:f.name]) }

// Is reports whether the field has this name; letter case does not count
// (TR-01201-3.4 §3.1).
func (f Field) Is(name string) bool {
	return len(name) == f.name && sameName(f.raw[:f.name], name)
}

// HasPrefix reports whether its name begins with prefix, as Is compares.
func (f Field) HasPrefix(prefix string) bool {
	return len(prefix) <= f.name && sameName(f.raw[:len(prefix)], prefix)
}

// sameName compares two names of one length; they are ASCII.
func sameName(a []byte, b string) bool {
	for i, c := range a {
		if lower(c) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// Value is the unfolded value without white space around it.
func (f Field) Value() string {
	v := bytes.TrimSuffix(f.raw[f.value:], crlf)
	if bytes.Contains(v, crlf) {
		v = bytes.ReplaceAll(v, crlf, nil)
	}
	return string(bytes.Trim(v, " \t"))
}

// Text is the value as written, folds included, without white space around it.
func (f Field) Text() string { return string(bytes.Trim(f.raw[f.value:], fws)) }

// ASCII reports whether the whole field is.
func (f Field) ASCII() bool {
	for _, b := range f.raw {
		if b >= 0x80 {
			return false
		}
	}
	return true
}

// Raw is a copy of the field's bytes, with every CRLF in it.
func (f Field) Raw() []byte { return bytes.Clone(f.raw) }

// NewHeader is an empty header, for messages that are made and not read.
func NewHeader() *Header { return &Header{} }

// Clone is an independent copy.
func (h *Header) Clone() *Header {
	return &Header{fields: slices.Clone(h.fields), noEnd: h.noEnd}
}

// Fields lists the fields from the top. Changing the slice does not change h.
func (h *Header) Fields() []Field { return slices.Clone(h.fields) }

// All goes through the fields from the top, with their index. Within the loop
// fields may be replaced by Set, and not more.
func (h *Header) All() iter.Seq2[int, Field] { return slices.All(h.fields) }

// Has reports whether there is a field of that name.
func (h *Header) Has(name string) bool { return h.first(name) >= 0 }

// Get is the unfolded value of the first field of that name from the top, the
// one that counts (TR-01201-3.4 §3.1.1), or "".
func (h *Header) Get(name string) string {
	if i := h.first(name); i >= 0 {
		return h.fields[i].Value()
	}
	return ""
}

// Values are the unfolded values of all fields of that name, from the top.
func (h *Header) Values(name string) []string {
	var out []string
	for _, f := range h.fields {
		if f.Is(name) {
			out = append(out, f.Value())
		}
	}
	return out
}

// Remove takes out every field with one of these names and reports how many went.
func (h *Header) Remove(names ...string) int {
	return h.RemoveFunc(func(f Field) bool { return slices.ContainsFunc(names, f.Is) })
}

// RemoveFunc takes out every field for which gone is true and reports how many
// went.
func (h *Header) RemoveFunc(gone func(Field) bool) int {
	before := len(h.fields)
	h.fields = slices.DeleteFunc(h.fields, gone)
	return before - len(h.fields)
}

// Prepend puts a field on top. The value is folded at white space where it is
// longer than a line; a value that already holds folds (CRLF and white space)
// stays as it is. Bare line ends and other control characters are an error
// (ErrFieldValue), and so is a line over 998 octets that offers no place to fold.
func (h *Header) Prepend(name, value string) error {
	f, err := newField(name, value)
	if err == nil {
		h.fields = slices.Insert(h.fields, 0, f)
	}
	return err
}

// Append puts a field at the bottom; for the value see Prepend.
func (h *Header) Append(name, value string) error {
	f, err := newField(name, value)
	if err == nil {
		h.fields = append(h.fields, f)
	}
	return err
}

// Replace puts a new field in the place of the first one of that name and takes
// the others out; if there is none, it appends. For the value see Prepend. On an
// error nothing changes.
func (h *Header) Replace(name, value string) error {
	f, err := newField(name, value)
	if err != nil {
		return err
	}
	i := h.first(name)
	if i < 0 {
		h.fields = append(h.fields, f)
		return nil
	}
	h.fields[i] = f
	rest := slices.DeleteFunc(h.fields[i+1:], func(g Field) bool { return g.Is(name) })
	h.fields = h.fields[:i+1+len(rest)]
	return nil
}

// Set replaces the Text of the i-th field from the top. All else of it stays to the
// byte: its name, white space and folds; nothing is folded anew. Errors are those of
// Prepend; on an error nothing changes.
func (h *Header) Set(i int, text string) error {
	old := h.fields[i]
	rest := old.raw[old.value:]
	lead := len(rest) - len(bytes.TrimLeft(rest, fws))
	tail := len(bytes.TrimRight(rest[lead:], fws)) + lead
	raw := slices.Concat(old.raw[:old.name], []byte(":"), rest[:lead], []byte(text), rest[tail:])
	if err := checkRaw(text, raw); err != nil {
		return fmt.Errorf("%w %s: %w", ErrFieldValue, old.Name(), err)
	}
	h.fields[i] = Field{raw: raw, name: old.name, value: old.name + 1}
	return nil
}

// checkRaw judges a field's text and the length of its lines.
func checkRaw(text string, raw []byte) error {
	if err := checkValue(text); err != nil {
		return err
	}
	for l := range bytes.SplitSeq(raw, crlf) {
		if len(l) > maxLine {
			return fmt.Errorf("line over %d characters", maxLine)
		}
	}
	return nil
}

// Size is how many bytes WriteTo writes.
func (h *Header) Size() int {
	n := 0
	for _, f := range h.fields {
		n += len(f.raw)
	}
	if !h.noEnd {
		n += len(crlf)
	}
	return n
}

// writeBuffer is all that WriteTo holds; a header may be large.
const writeBuffer = 4 << 10

// WriteTo writes the fields and the empty line behind them; fields that nobody
// touched are byte-identical. A message that was read without that empty line is
// written without it.
func (h *Header) WriteTo(w io.Writer) (int64, error) {
	b := bufio.NewWriterSize(w, min(writeBuffer, h.Size()+1))
	n := 0
	for _, f := range h.fields {
		k, _ := b.Write(f.raw) // errors are sticky: Flush tells
		n += k
	}
	if !h.noEnd {
		k, _ := b.Write(crlf)
		n += k
	}
	if err := b.Flush(); err != nil {
		return int64(max(0, n-b.Buffered())), fmt.Errorf("write header: %w", err)
	}
	return int64(n), nil
}

// first is the index of the first field of that name, or -1.
func (h *Header) first(name string) int {
	return slices.IndexFunc(h.fields, func(f Field) bool { return f.Is(name) })
}
