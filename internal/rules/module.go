package rules

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
)

// checkTop wants nothing at the top level but what design.md §5 lists.
func checkTop(tree fs.FS) ([]Violation, error) {
	entries, err := fs.ReadDir(tree, ".")
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	var out []Violation
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || name == "build" || slices.Contains(topLevel(), name) {
			continue
		}
		out = append(out, Violation{name, "does not belong to the top level: it holds " + strings.Join(topLevel(), " ") + " and nothing else"})
	}
	return out, nil
}

// checkModule wants a reason beside each direct dependency, no copies of
// foreign code, and no replaced module.
func checkModule(tree fs.FS) ([]Violation, error) {
	data, err := fs.ReadFile(tree, "go.mod")
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	mod, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	var out []Violation
	for _, r := range mod.Require {
		if !r.Indirect && !hasReason(r.Syntax) {
			out = append(out, Violation{fmt.Sprintf("go.mod:%d", r.Syntax.Start.Line), r.Mod.Path + " has no comment that says what it is for"})
		}
	}
	for _, r := range mod.Replace {
		out = append(out, Violation{fmt.Sprintf("go.mod:%d", r.Syntax.Start.Line), "replace of " + r.Old.Path + ": dependencies are pinned, not patched"})
	}
	return out, nil
}

func hasReason(line *modfile.Line) bool {
	for _, c := range slices.Concat(line.Before, line.Suffix) {
		if len(strings.TrimSpace(strings.TrimPrefix(c.Token, "//"))) > 8 {
			return true
		}
	}
	return false
}
