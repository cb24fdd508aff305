package clauses

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Print writes the table: per clause what it asks, the code and the tests; then
// the gaps; then the sums.
func Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	code, tests := map[string]bool{}, map[string]bool{}
	for _, c := range All() {
		fmt.Fprintf(t, "%s\t%s\n", c.ID, c.Asks)
		fmt.Fprintf(t, "\t  code: %s\n", strings.Join(c.Code, ", "))
		fmt.Fprintf(t, "\t  test: %s\n", strings.Join(c.Tests, ", "))
		note(code, c.Code)
		note(tests, c.Tests)
	}
	for _, g := range Open() {
		fmt.Fprintf(t, "%s\t%s\n\t  OPEN: %s\n", g.ID, g.Asks, g.Why)
	}
	fmt.Fprintf(t, "\n%d clauses carried by %d declarations and %d tests; %d open\n", len(All()), len(code), len(tests), len(Open()))
	return t.Flush()
}

func note(set map[string]bool, names []string) {
	for _, n := range names {
		set[n] = true
	}
}
