// Command trace prints which code and which tests carry each clause of De-Mail's
// rules: `make trace`. The table is package clauses.
package main

import (
	"fmt"
	"os"

	"gitlab.opencode.de/pforte/pforte/internal/demail/clauses"
)

func main() {
	if err := clauses.Print(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "trace:", err)
		os.Exit(1)
	}
}
