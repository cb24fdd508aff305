package config

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var (
	prefixType   = reflect.TypeFor[netip.Prefix]()
	durationType = reflect.TypeFor[Duration]()
)

// maxQuoted bounds how much of a wrong value a fault repeats, in bytes.
const maxQuoted = 80

// quote gives s in quotes, cut so that a fault stays one line.
func quote(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "…"
	}
	return strconv.Quote(s)
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldsOf maps the YAML keys of a struct type to field indexes.
func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		fields[key] = i
	}
	return fields
}

func sortedKeys(fields map[string]int) []string {
	return slices.Sorted(maps.Keys(fields))
}

// maxTypo is how many letters a key may be off to be taken for another.
const maxTypo = 2

// nearest gives the known key that name was probably meant to be, or "".
func nearest(name string, fields map[string]int) string {
	if len(name) > maxQuoted {
		return ""
	}
	best, found := maxTypo+1, ""
	for _, key := range sortedKeys(fields) {
		n := distance(strings.ToLower(name), strings.ToLower(key))
		if n < best && n < len(key) {
			best, found = n, key
		}
	}
	return found
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j+1]+1, row[j]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// lineOf finds the line of a path ("tenants[0].name") in the tree; where the
// path ends early, the line of what contains it.
func lineOf(root *yaml.Node, path string) int {
	n, line := root, root.Line
	for path != "" {
		var step string
		if path[0] == '[' {
			step, path, _ = strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(step)
			if err != nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
				return line
			}
			n = n.Content[i]
			line = n.Line
			continue
		}
		path = strings.TrimPrefix(path, ".")
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		step, path = path[:end], path[end:]
		key, value := child(n, step)
		if value == nil {
			return line
		}
		n, line = value, key.Line
	}
	return line
}

// nodeAt finds the value at a path, nil if there is none.
func nodeAt(root *yaml.Node, path string) *yaml.Node {
	n := root
	for path != "" && n != nil {
		var step string
		if path[0] == '[' {
			step, path, _ = strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(step)
			if err != nil || n.Kind != yaml.SequenceNode || i >= len(n.Content) {
				return nil
			}
			n = n.Content[i]
			continue
		}
		path = strings.TrimPrefix(path, ".")
		end := strings.IndexAny(path+".", ".[")
		_, n = child(n, path[:end])
		path = path[end:]
	}
	return n
}

func child(n *yaml.Node, key string) (*yaml.Node, *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}
