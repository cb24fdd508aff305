package release

import "testing"

func TestCompare(t *testing.T) {
	ordered := [][]string{
		{"1.0.0-rc.1", "1.0.0-rc.2", "1.0.0", "1.0.1", "1.9.0", "1.10.0", "2.0.0"},
		{"2026.9", "2026.10", "2027"},
		{"r9", "r10", "r10b", "r11"},
		{"1.0.0", "1.0.0+a", "1.0.0+b"},
		{"dev-1", "dev-2", "dev-10", "0.0.1"},
		{"01", "1", "2"},
	}
	for _, list := range ordered {
		for i, a := range list {
			for j, b := range list {
				if got, want := Compare(a, b), sign(i-j); sign(got) != want {
					t.Errorf("Compare(%q, %q) = %d, want %d", a, b, got, want)
				}
			}
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// FuzzCompare: the order is total, or sorting by it would be arbitrary.
func FuzzCompare(f *testing.F) {
	f.Add("1.0", "1.00", "1.0-a")
	f.Add("a1", "1a", "")
	f.Add("1.0.0-rc", "1.0.0", "1.0.0-")
	f.Add("01", "1", "1.")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if sign(Compare(a, b)) != -sign(Compare(b, a)) {
			t.Errorf("%q and %q: not antisymmetric", a, b)
		}
		if (Compare(a, b) == 0) != (a == b) {
			t.Errorf("%q and %q: equal or not", a, b)
		}
		if Compare(a, b) < 0 && Compare(b, c) < 0 && Compare(a, c) >= 0 {
			t.Errorf("%q < %q < %q: not transitive", a, b, c)
		}
	})
}
