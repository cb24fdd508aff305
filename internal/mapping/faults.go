package mapping

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxFaults is how many faults are kept to be shown; the others are counted.
const MaxFaults = 200

// maxQuoted bounds how much of a wrong value a fault repeats, in bytes.
const maxQuoted = 80

// Fault is one thing that is wrong with a table, for people.
type Fault struct {
	Line   int    `json:"line"`
	Text   string `json:"text"`
	Remedy string `json:"remedy"`
}

// String gives "line 3: text; remedy".
func (f Fault) String() string { return fmt.Sprintf("line %d: %s; %s", f.Line, f.Text, f.Remedy) }

// Faults are all faults of a table, by line. Shown holds MaxFaults at most.
type Faults struct {
	Shown []Fault `json:"shown"`
	Total int     `json:"total"`
}

// Error gives one line for each fault shown, and how many there are in all.
func (f *Faults) Error() string {
	var b strings.Builder
	for _, one := range f.Shown {
		b.WriteString(one.String() + "\n")
	}
	if f.Total == 1 {
		b.WriteString("one fault")
	} else {
		fmt.Fprintf(&b, "%d faults, %d shown", f.Total, len(f.Shown))
	}
	return b.String()
}

// fault notes a fault. Of each kind of check the first MaxFaults are kept.
func (f *Faults) fault(line int, remedy, text string, args ...any) {
	if f.Total++; len(f.Shown) < MaxFaults {
		f.Shown = append(f.Shown, Fault{line, fmt.Sprintf(text, args...), remedy})
	}
}

// join puts two lists together in the order of lines.
func join(a, b Faults) error {
	if a.Total+b.Total == 0 {
		return nil
	}
	all := slices.Concat(a.Shown, b.Shown)
	slices.SortStableFunc(all, func(x, y Fault) int { return cmp.Compare(x.Line, y.Line) })
	return &Faults{all[:min(len(all), MaxFaults)], a.Total + b.Total}
}

// quote gives s in quotes, cut so that a fault stays one line.
func quote(s string) string {
	if len(s) > maxQuoted {
		s = strings.ToValidUTF8(s[:maxQuoted], "") + "…"
	}
	return strconv.Quote(s)
}
