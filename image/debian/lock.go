package debian

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Entry fixes one package. Request is the name that was asked for, Name the
// package that answered it (they differ where a metapackage such as
// linux-image-amd64 points to the current one).
type Entry struct {
	Request string
	Name    string
	Version string
	SHA256  string // of the .deb, lower-case hex
	Source  string // source package
}

// Lock is the content of debian.lock.
type Lock struct {
	Entries []Entry
}

const lockHeader = `# The Debian packages that a build takes files from or runs as a tool.
# request package version sha256-of-the-deb source
# Rewritten by: go run ./cmd/mkimage -update
`

// ParseLock reads debian.lock: five words a line, "#" starts a comment line.
func ParseLock(r io.Reader) (*Lock, error) {
	l := &Lock{}
	seen := map[string]bool{}
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 5 || !isSHA256(f[3]) {
			return nil, fmt.Errorf("debian.lock line %d: want request, package, version, sha256, source", n)
		}
		if seen[f[0]] {
			return nil, fmt.Errorf("debian.lock line %d: %s stands there twice", n, f[0])
		}
		seen[f[0]] = true
		l.Entries = append(l.Entries, Entry{f[0], f[1], f[2], f[3], f[4]})
	}
	return l, sc.Err()
}

func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// WriteTo writes the lock sorted by request, so that a change is one line of a diff.
func (l *Lock) WriteTo(w io.Writer) (int64, error) {
	sorted := slices.SortedFunc(slices.Values(l.Entries), func(a, b Entry) int {
		return strings.Compare(a.Request, b.Request)
	})
	var b strings.Builder
	b.WriteString(lockHeader)
	for _, e := range sorted {
		fmt.Fprintln(&b, e.Request, e.Name, e.Version, e.SHA256, e.Source)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// Find returns the entry for a request.
func (l *Lock) Find(request string) (Entry, bool) {
	i := slices.IndexFunc(l.Entries, func(e Entry) bool { return e.Request == request })
	if i < 0 {
		return Entry{}, false
	}
	return l.Entries[i], true
}

// Change is one difference between the lock and what a build takes. Old is nil
// for a package that the lock does not know, New for one no longer asked for.
type Change struct {
	Old, New *Entry
}

// String says the change in one line, for people.
func (c Change) String() string {
	switch {
	case c.Old == nil:
		return fmt.Sprintf("%s %s is not in debian.lock", c.New.Name, c.New.Version)
	case c.New == nil:
		return fmt.Sprintf("%s %s is in debian.lock but no longer used", c.Old.Name, c.Old.Version)
	case c.Old.Name != c.New.Name:
		return fmt.Sprintf("%s %s is now %s %s", c.Old.Name, c.Old.Version, c.New.Name, c.New.Version)
	case c.Old.Version != c.New.Version:
		return fmt.Sprintf("%s %s is now %s", c.Old.Name, c.Old.Version, c.New.Version)
	}
	return fmt.Sprintf("%s %s has another SHA-256 than in debian.lock", c.New.Name, c.New.Version)
}

// Compare lists what differs from the lock when a build takes exactly taken.
func (l *Lock) Compare(taken []Entry) []Change {
	var out []Change
	for _, now := range taken {
		old, ok := l.Find(now.Request)
		switch {
		case !ok:
			out = append(out, Change{New: &now})
		case old.Name != now.Name || old.Version != now.Version || old.SHA256 != now.SHA256:
			out = append(out, Change{Old: &old, New: &now})
		}
	}
	now := Lock{taken}
	for _, old := range l.Entries {
		if _, ok := now.Find(old.Request); !ok {
			out = append(out, Change{Old: &old})
		}
	}
	return out
}
