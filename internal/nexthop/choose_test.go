package nexthop

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func order(list []Server) string {
	var names []string
	for _, s := range list {
		names = append(names, s.Address)
	}
	return strings.Join(names, " ")
}

func TestArrange(t *testing.T) {
	servers := []Server{
		{Address: "late", Order: 20}, {Address: "fallback", Order: 1, Fallback: true}, {Address: "first", Order: 10}, {Address: "second", Order: 10},
	}
	for _, test := range []struct{ down, want string }{
		{"", "first second late fallback"},
		{"first", "second late fallback first"},
		{"first second late", "fallback first second late"},
		{"first second late fallback", "first second late fallback"},
		{"fallback", "first second late fallback"},
	} {
		down := func(s Server) bool { return strings.Contains(" "+test.down+" ", " "+s.Address+" ") }
		if got := order(arrange(servers, down, rand.IntN)); got != test.want {
			t.Errorf("with %q down: %s, want %s", test.down, got, test.want)
		}
	}
	if order(servers) != "late fallback first second" {
		t.Error("the caller's list was changed")
	}
}

func TestArrangeByWeight(t *testing.T) {
	servers := []Server{{Address: "none"}, {Address: "one", Weight: 1}, {Address: "three", Weight: 3}}
	up := func(Server) bool { return false }
	for _, test := range []struct {
		rolls []int
		want  string
	}{
		{[]int{0, 0}, "one three none"}, {[]int{1, 0}, "three one none"}, {[]int{3, 0}, "three one none"},
	} {
		rolls := test.rolls
		got := order(arrange(servers, up, func(int) int { n := rolls[0]; rolls = rolls[1:]; return n }))
		if got != test.want {
			t.Errorf("rolls %v: %s, want %s", test.rolls, got, test.want)
		}
	}
	first, dice := map[string]int{}, rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		first[arrange(servers, up, dice.IntN)[0].Address]++
	}
	if first["one"] < 2300 || first["one"] > 2700 || first["none"] != 0 {
		t.Errorf("first of 10000: %v, want about a quarter for one", first)
	}
}
