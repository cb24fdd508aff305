package debian

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	hashA = strings.Repeat("a", 64)
	hashB = strings.Repeat("b", 64)
)

func TestLockRoundTrip(t *testing.T) {
	l := Lock{[]Entry{{"z", "z", "1", hashA, "z"}, {"a-meta", "a-6.12", "2:3~x", hashB, "src"}}}
	var text bytes.Buffer
	if _, err := l.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	got, err := ParseLock(&text)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Entry{l.Entries[1], l.Entries[0]}, got.Entries); d != "" {
		t.Error(d)
	}
}

func TestLockFaults(t *testing.T) {
	for name, text := range map[string]string{
		"short line":      "a a 1 " + hashA + "\n",
		"no hash":         "a a 1 xyz src\n",
		"upper-case hash": "a a 1 " + strings.ToUpper(hashA) + " src\n",
		"twice":           "a a 1 " + hashA + " s\na a 2 " + hashB + " s\n",
	} {
		if _, err := ParseLock(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestCompare(t *testing.T) {
	lock := &Lock{[]Entry{{"same", "same", "1", hashA, "s"}, {"newer", "newer", "1", hashA, "s"}, {"kernel", "k-1", "1", hashA, "s"}, {"rebuilt", "rebuilt", "1", hashA, "s"}, {"gone", "gone", "1", hashA, "s"}}}
	changes := lock.Compare([]Entry{{"same", "same", "1", hashA, "s"}, {"newer", "newer", "2", hashB, "s"}, {"kernel", "k-2", "2", hashB, "s"}, {"rebuilt", "rebuilt", "1", hashB, "s"}, {"added", "added", "1", hashB, "s"}})
	var got []string
	for _, c := range changes {
		got = append(got, c.String())
	}
	want := []string{
		"newer 1 is now 2",
		"k-1 1 is now k-2 2",
		"rebuilt 1 has another SHA-256 than in debian.lock",
		"added 1 is not in debian.lock",
		"gone 1 is in debian.lock but no longer used",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestResolveOne(t *testing.T) {
	locked := Entry{"p", "p", "1", hashA, "p"}
	known := map[string][]record{
		"p":    {{name: "p", version: "2", sha256: hashB, source: "p"}, {name: "p", version: "1", sha256: hashA, source: "p"}},
		"meta": {{name: "meta", version: "9", depends: "real-9 (= 9), other"}},
		// the same version with other content: the mirror is not what the lock meant
		"forged": {{name: "forged", version: "1", sha256: hashB, source: "f"}},
		"real-9": {{name: "real-9", version: "9", sha256: hashB, source: "r"}},
	}
	tests := []struct {
		name   string
		lock   []Entry
		update bool
		req    Request
		want   Entry
	}{
		{"locked version still there", []Entry{locked}, false, Request{Name: "p"}, locked},
		{"update takes the newest", []Entry{locked}, true, Request{Name: "p"}, Entry{"p", "p", "2", hashB, "p"}},
		{"locked version vanished", []Entry{{"p", "p", "0", hashA, "p"}}, false, Request{Name: "p"}, Entry{"p", "p", "2", hashB, "p"}},
		{"same version, other hash", []Entry{{"forged", "forged", "1", hashA, "f"}}, false, Request{Name: "forged"}, Entry{"forged", "forged", "1", hashB, "f"}},
		{"metapackage", nil, false, Request{Name: "meta", Follow: true}, Entry{"meta", "real-9", "9", hashB, "r"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fetcher{Options{Lock: &Lock{tt.lock}, Update: tt.update}, t.TempDir()}
			got, err := f.resolveOne(tt.req, known)
			if err != nil || got != tt.want {
				t.Errorf("got %v (%v), want %v", got, err, tt.want)
			}
		})
	}
	f := fetcher{Options{Lock: &Lock{}}, t.TempDir()}
	if _, err := f.resolveOne(Request{Name: "none"}, known); err == nil {
		t.Error("an unknown package was resolved")
	}
}
