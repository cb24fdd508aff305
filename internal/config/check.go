package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// checker looks at what decoded values mean. It notes every fault and goes on.
type checker struct {
	doc    *Document
	root   *yaml.Node
	bad    map[string]bool // paths that the decoder already complained about
	faults Faults
	hidden int // faults that are not in faults
}

// fault notes a fault at path, unless the value there, or one that contains it,
// is already known to be bad.
func (c *checker) fault(path, remedy, text string, args ...any) {
	if c.spoilt(path) {
		return
	}
	c.faults = append(c.faults, Fault{Line: lineOf(c.root, path), Path: path, Text: fmt.Sprintf(text, args...), Remedy: remedy})
}

// spoilt reports whether the decoder refused path or a value around it.
func (c *checker) spoilt(path string) bool {
	if len(c.bad) == 0 {
		return false
	}
	for {
		if c.bad[path] {
			return true
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return c.bad[""]
		}
		path = path[:i]
	}
}

// sound reports whether path and everything around and in it was decoded, so
// that a check over all of it makes sense.
func (c *checker) sound(path string) bool {
	if c.spoilt(path) {
		return false
	}
	for bad := range c.bad {
		if strings.HasPrefix(bad, path) && (len(bad) == len(path) || bad[len(path)] == '.' || bad[len(path)] == '[') {
			return false
		}
	}
	return true
}

// missing notes a fault if a text that must be there is not, and reports whether
// it is there.
func (c *checker) missing(path, value, remedy string) bool {
	if value == "" {
		c.fault(path, remedy, "%s is missing", lastKey(path))
	}
	return value == ""
}

func lastKey(path string) string {
	return path[strings.LastIndexByte(path, '.')+1:]
}

// at gives "list[i]".
func at(list string, i int) string { return fmt.Sprintf("%s[%d]", list, i) }

// document runs every check. With more faults than Parse shows anyway it stops
// after the decoder's, which keeps the work bounded.
func (c *checker) document() {
	if len(c.bad) > MaxFaults {
		return
	}
	d := c.doc
	if d.Version != Version {
		c.fault("version", fmt.Sprintf("write \"version: %d\"", Version), "format version %d is not known here", d.Version)
	}
	if d.Serial == 0 {
		c.fault("serial", "start at 1 and count up with every change", "the serial is missing or 0")
	}
	if !c.missing("box", d.Box, "name the box, such as pforte-1") && !isLabel(d.Box) {
		c.fault("box", "use lower-case letters, digits and hyphens, 63 at most", "%s is no DNS label", quote(d.Box))
	}
	c.network()
	c.management()
	c.relay()
	c.provider()
	c.tenants()
}
