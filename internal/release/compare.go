package release

import (
	"cmp"
	"strings"

	"golang.org/x/mod/semver"
)

// Compare orders two versions of one epoch: negative if a is older than b. Two
// semantic versions (semver.org, without a leading v) compare as those, so that
// 1.0.0-rc.1 is older than 1.0.0. What they leave open, and versions of other
// forms, compare in runs of digits and of other characters, digits by their value,
// so that r9 is older than r10. A version of another form is older than any
// semantic one. Only equal strings are equal.
func Compare(a, b string) int {
	if c := semver.Compare("v"+a, "v"+b); c != 0 { // what is none is less, and equal among its like
		return c
	}
	for x, y := a, b; x != "" && y != ""; {
		var runA, runB string
		runA, x = run(x)
		runB, y = run(y)
		if c := compareRuns(runA, runB); c != 0 {
			return c
		}
		if x == "" || y == "" {
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
	}
	return strings.Compare(a, b)
}

// run cuts the first run of digits, or of anything else, off s.
func run(s string) (first, rest string) {
	i := 1
	for i < len(s) && isDigit(s[i]) == isDigit(s[0]) {
		i++
	}
	return s[:i], s[i:]
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func compareRuns(a, b string) int {
	if !isDigit(a[0]) || !isDigit(b[0]) {
		return strings.Compare(a, b)
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}
