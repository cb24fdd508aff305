package rules

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// checkImports applies every ban to every package.
func checkImports(pkgs map[string]*pkg) []Violation {
	var out []Violation
	for _, name := range sorted(pkgs) {
		p := pkgs[name]
		for _, b := range bans() {
			if !binds(b, p.path) {
				continue
			}
			if route := b.broken(pkgs, p); route != nil {
				place := p.imports[route[1].importPath]
				out = append(out, Violation{place, fmt.Sprintf("%s imports %s, because it must not: %s", p.path, describe(route), b.because)})
			}
		}
	}
	return out
}

func binds(b ban, p string) bool {
	in := func(folders []string) bool {
		return slices.ContainsFunc(folders, func(f string) bool { return f == "." || under(p, f) })
	}
	return in(b.who) && !in(b.except)
}

// step is one package on the way to a forbidden one.
type step struct{ importPath string }

// broken returns the shortest route from p to a forbidden package, nil if none.
func (b ban) broken(pkgs map[string]*pkg, p *pkg) []step {
	type node struct {
		p     *pkg
		route []step
	}
	seen := map[string]bool{p.path: true}
	todo := []node{{p, []step{{p.path}}}}
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		for _, target := range sorted(n.p.imports) {
			route := append(slices.Clone(n.route), step{target})
			if b.forbids(target, p.path) {
				return route
			}
			own, ok := strings.CutPrefix(target, Module+"/")
			if next := pkgs[own]; ok && next != nil && !seen[own] && !b.direct {
				seen[own] = true
				todo = append(todo, node{next, route})
			}
		}
	}
	return nil
}

// forbids reports whether the ban names target; a folder may import its own parts.
func (b ban) forbids(target, from string) bool {
	own, ours := strings.CutPrefix(target, Module+"/")
	for _, never := range b.never {
		switch {
		case ours && under(own, never) && !under(from, never):
			return true
		case !ours && (never == "os" || never == "net"): // of the standard library, exactly
			if target == never {
				return true
			}
		case !ours && under(target, never):
			return true
		}
	}
	return false
}

func describe(route []step) string {
	var names []string
	for _, s := range route[1:] {
		names = append(names, strings.TrimPrefix(s.importPath, Module+"/"))
	}
	return strings.Join(names, " → ")
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
