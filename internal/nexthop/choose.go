package nexthop

import (
	"cmp"
	"slices"
	"time"
)

// downFor is how long a server that could not be reached is tried last only.
const downFor = 30 * time.Second

// arrange puts servers into the order in which they are tried: those that are up
// before those that are down, among these the fallbacks last, then by Order, and
// within one Order by RFC 2782: at random, as their weights say. Those without a
// weight come last among their equals, as they stand. roll gives a number from 0
// up to but not including n.
func arrange(servers []Server, down func(Server) bool, roll func(n int) int) []Server {
	rank := func(s Server) int {
		r := 0
		if down(s) {
			r = 2
		}
		if s.Fallback {
			r++
		}
		return r
	}
	all := slices.Clone(servers)
	slices.SortStableFunc(all, func(a, b Server) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Order, b.Order))
	})
	for from := 0; from < len(all); {
		to := from + 1
		for to < len(all) && rank(all[to]) == rank(all[from]) && all[to].Order == all[from].Order {
			to++
		}
		draw(all[from:to], roll)
		from = to
	}
	return all
}

// draw orders equals by lot (RFC 2782, "Weight").
func draw(equal []Server, roll func(n int) int) {
	for len(equal) > 1 {
		sum := 0
		for _, s := range equal {
			sum += max(0, s.Weight)
		}
		if sum == 0 {
			return
		}
		lot, i := roll(sum), 0
		for lot >= max(0, equal[i].Weight) {
			lot -= max(0, equal[i].Weight)
			i++
		}
		won := equal[i]
		copy(equal[1:i+1], equal[:i])
		equal[0] = won
		equal = equal[1:]
	}
}
