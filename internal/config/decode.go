package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parseTree turns the bytes into the single root node of a single document.
func parseTree(data []byte) (*yaml.Node, Faults) {
	if len(data) > MaxSize {
		return nil, Faults{{Text: fmt.Sprintf("the document has %d bytes, more than %d", len(data), MaxSize),
			Remedy: "make it smaller"}}
	}
	if n := len(data); n > MaxText {
		if n -= tableBytes(data); n > MaxText {
			return nil, Faults{{Text: fmt.Sprintf("beside mapping tables the document has %d bytes, more than %d", n, MaxText),
				Remedy: "put mappings into mappingTable, written as \"mappingTable: |\", or make the document smaller"}}
		}
	}
	if line := badUTF8(data); line > 0 {
		return nil, Faults{{Line: line, Text: "the line is not valid UTF-8", Remedy: "save the file as UTF-8 without byte order mark"}}
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) || (err == nil && isNull(&doc)) {
		return nil, Faults{{Line: 1, Text: "the document is empty", Remedy: "start from the example configuration"}}
	}
	if err != nil {
		return nil, Faults{syntaxFault(err)}
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, Faults{{Line: root.Line, Text: "the document is no mapping of keys to values", Remedy: "start from the example configuration"}}
	}
	var second yaml.Node
	if err := dec.Decode(&second); err == nil {
		return nil, Faults{{Line: second.Line, Text: "a second YAML document begins", Remedy: "put everything into one document, without \"---\" inside"}}
	} else if !errors.Is(err, io.EOF) {
		return nil, Faults{syntaxFault(err)}
	}
	return root, nil
}

// tableBytes counts what stands in literal blocks after "mappingTable: |", which the
// YAML reader takes as one value each.
func tableBytes(data []byte) int {
	sum, indent := 0, -1
	for line := range bytes.Lines(data) {
		text := bytes.TrimLeft(line, " ")
		depth := len(line) - len(text)
		switch {
		case indent >= 0 && (depth > indent || len(bytes.TrimSpace(text)) == 0):
			sum += len(line)
		case bytes.HasPrefix(text, []byte("mappingTable: |")):
			indent = depth
		default:
			indent = -1
		}
	}
	return sum
}

func isNull(doc *yaml.Node) bool {
	return len(doc.Content) == 0 || doc.Content[0].Tag == "!!null"
}

// badUTF8 gives the first line, from 1, that is not UTF-8 or starts with a byte
// order mark; 0 if there is none. YAML itself would also take UTF-16.
func badUTF8(data []byte) int {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return 1
	}
	line := 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if r == utf8.RuneError && size == 1 || r == 0 {
			return line
		}
		if r == '\n' {
			line++
		}
		data = data[size:]
	}
	return 0
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// syntaxFault turns the YAML reader's error, which stops at the first, into a fault.
func syntaxFault(err error) Fault {
	f := Fault{Line: 1, Text: "not readable as YAML", Remedy: "check indentation, quotes and brackets on this line and the one before"}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			f.Line = n
		}
		if parserComplaint(m[2]) { // which counts lines from 0, where the scanner counts from 1
			f.Line++
		}
		f.Text += ": " + m[2]
	}
	return f
}

// parserComplaint tells the two halves of the YAML reader apart by their words.
func parserComplaint(text string) bool {
	for _, expected := range []string{"<stream-start>", "<document start>", "node content", "'-' indicator", "key", "',' or ']'", "',' or '}'"} {
		if text == "did not find expected "+expected {
			return true
		}
	}
	return false
}

// decoder fills Go values from nodes and notes what does not fit. bad holds the
// paths whose values are unusable, so that no later check complains about them
// a second time.
type decoder struct {
	faults Faults
	bad    map[string]bool
}

func (d *decoder) decode(root *yaml.Node, into any) {
	d.value("", root, reflect.ValueOf(into).Elem())
}

func (d *decoder) fault(line int, path, remedy, text string, args ...any) {
	d.bad[path] = true
	d.faults = append(d.faults, Fault{Line: line, Path: path, Text: fmt.Sprintf(text, args...), Remedy: remedy})
}

// value decodes n into v. Every YAML feature that could make the eye and the
// parser disagree is refused first.
func (d *decoder) value(path string, n *yaml.Node, v reflect.Value) {
	switch {
	case n.Kind == yaml.AliasNode:
		d.fault(n.Line, path, "write the value out", "aliases (*name) are not allowed")
		return
	case n.Anchor != "":
		d.fault(n.Line, path, "remove the anchor", "anchors (&name) are not allowed")
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n.Line, path, "remove the tag", "tags (%s) are not allowed", n.Tag)
		return
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		d.fault(n.Line, path, "give a value or leave the key out", "there is no value")
		return
	}
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.text(path, n, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.sequence(path, n, v)
	case reflect.String:
		d.str(path, n, v)
	case reflect.Bool:
		d.truth(path, n, v)
	default:
		d.number(path, n, v)
	}
}

// kindName is the everyday word for what n is.
func kindName(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!str":
		return "a text"
	case n.Tag == "!!bool":
		return "a truth value"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	}
	return "a value of type " + strings.TrimPrefix(n.Tag, "!!")
}

func (d *decoder) mapping(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.fault(n.Line, path, "write keys and values below it", "%s stands where a mapping belongs", kindName(n))
		return
	}
	fields := fieldsOf(v.Type())
	seen := map[string]int{}
	type typo struct{ path, key string }
	var typos []typo
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		name := key.Value
		at := join(path, name)
		if first, ok := seen[name]; ok {
			d.fault(key.Line, at, "keep one of the two", "key %q stands here again, first on line %d", name, first)
			continue
		}
		seen[name] = key.Line
		index, ok := fields[name]
		if !ok || key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0 || key.Anchor != "" {
			near := nearest(name, fields)
			d.unknown(key, path, near, fields)
			if near != "" {
				typos = append(typos, typo{join(path, near), near})
			}
			continue
		}
		d.value(at, val, v.Field(index))
	}
	for _, t := range typos { // a misspelt key is not missing, too
		if _, ok := seen[t.key]; !ok {
			d.bad[t.path] = true
		}
	}
}

func (d *decoder) unknown(key *yaml.Node, path, near string, fields map[string]int) {
	remedy := "known keys here: " + strings.Join(sortedKeys(fields), ", ")
	if near != "" {
		remedy = fmt.Sprintf("did you mean %q?", near)
	}
	name := key.Value
	if key.Kind != yaml.ScalarNode {
		name = kindName(key)
	}
	if len(name) > maxQuoted {
		name = name[:maxQuoted] + "…"
	}
	d.faults = append(d.faults, Fault{Line: key.Line, Path: path, Text: fmt.Sprintf("unknown key %q", name), Remedy: remedy})
}

func (d *decoder) sequence(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.fault(n.Line, path, "write a list: one item per line, each after \"- \"", "%s stands where a list belongs", kindName(n))
		return
	}
	if len(n.Content) == 0 {
		return // nil, so that written and read documents are equal
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		d.value(fmt.Sprintf("%s[%d]", path, i), item, v.Index(i))
	}
}

// scalar checks that n is a text; YAML takes 0123, yes and 2020-01-01 for other things.
func (d *decoder) scalar(path string, n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode {
		d.fault(n.Line, path, "write a single value", "%s stands where a text belongs", kindName(n))
		return false
	}
	if n.Tag != "!!str" {
		d.fault(n.Line, path, "put it in quotes", "%s is %s to YAML, and a text belongs here", quote(n.Value), kindName(n))
		return false
	}
	return true
}

func (d *decoder) str(path string, n *yaml.Node, v reflect.Value) {
	if !d.scalar(path, n) {
		return
	}
	if n.Value == "" {
		d.fault(n.Line, path, "give a value or leave the key out", "the text is empty")
		return
	}
	v.SetString(n.Value)
}

// truth takes true and false, spelt so: YAML 1.1 knows twenty other spellings.
func (d *decoder) truth(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" || (n.Value != "true" && n.Value != "false") {
		d.fault(n.Line, path, "write true or false", "%s stands where true or false belongs", kindName(n))
		return
	}
	v.SetBool(n.Value == "true")
}

// text decodes the types that parse themselves: addresses, prefixes, durations.
func (d *decoder) text(path string, n *yaml.Node, v reflect.Value) {
	if v.Type() == durationType && n.Kind == yaml.ScalarNode && n.Tag == "!!int" {
		d.fault(n.Line, path, "write its unit, too, such as 90m or 48h", "%s is no duration", quote(n.Value))
		return
	}
	if !d.scalar(path, n) {
		return
	}
	u := v.Addr().Interface().(encoding.TextUnmarshaler)
	if err := u.UnmarshalText([]byte(n.Value)); err == nil && n.Value != "" {
		return
	}
	v.SetZero()
	switch v.Type() {
	case prefixType:
		d.fault(n.Line, path, "write an address and a prefix length, such as 10.10.0.2/24 or fd10:10::2/64", "%s is no network prefix", quote(n.Value))
	case durationType:
		d.fault(n.Line, path, "write a number and its unit, such as 90m or 48h", "%s is no duration", quote(n.Value))
	default:
		d.fault(n.Line, path, "write an address such as 10.10.0.2 or fd10:10::2", "%s is no IP address", quote(n.Value))
	}
}

// number takes plain decimal digits only: no signs, hex, octal or underscores.
func (d *decoder) number(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" {
		d.fault(n.Line, path, "write a plain number", "%s stands where a number belongs", kindName(n))
		return
	}
	s := n.Value
	max := uint64(1)<<(v.Type().Bits()-1) - 1
	if v.CanUint() {
		max = max<<1 | 1
	}
	u, err := strconv.ParseUint(s, 10, 64)
	if err != nil || u > max || (len(s) > 1 && s[0] == '0') || s[0] == '+' {
		d.fault(n.Line, path, "write a plain decimal number", "%s is no whole number from 0 to %d", quote(s), max)
		return
	}
	if v.CanUint() {
		v.SetUint(u)
		return
	}
	v.SetInt(int64(u))
}
