package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong with a configuration, for people.
type Fault struct {
	Line   int    `json:"line"`   // in the YAML document, from 1; 0 if no line fits
	Path   string `json:"path"`   // "tenants[0].domains[1].name"; empty: the document
	Text   string `json:"text"`   // what is wrong
	Remedy string `json:"remedy"` // what to do about it
}

// String gives "line 3: path: text; remedy".
func (f Fault) String() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", f.Line)
	}
	if f.Path != "" {
		fmt.Fprintf(&b, "%s: ", f.Path)
	}
	b.WriteString(f.Text)
	if f.Remedy != "" {
		b.WriteString("; " + f.Remedy)
	}
	return b.String()
}

// Faults is every fault of one configuration, sorted by line. It is the error
// that Parse, Open and Store.Put return for a document that is wrong in itself;
// callers find it with errors.As.
type Faults []Fault

// Error gives one line per fault.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].String()
	}
	return strings.Join(lines, "\n")
}

// sorted orders by line, then as found, and cuts at MaxFaults. hidden is how many
// more there are.
func (f Faults) sorted(hidden int) Faults {
	slices.SortStableFunc(f, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	shown := min(len(f), MaxFaults)
	if hidden += len(f) - shown; hidden > 0 {
		f = append(f[:shown:shown], Fault{
			Text:   fmt.Sprintf("%d more faults are not shown", hidden),
			Remedy: "correct these first and check again",
		})
	}
	return f
}
