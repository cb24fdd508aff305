package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// checkReadmes wants a README.md in each top-level folder that names every
// package and command right below it, so that a reader finds what is there. A
// tree without a README.md at its top is a fragment and is let off.
func checkReadmes(tree fs.FS, pkgs map[string]*pkg) ([]Violation, error) {
	if _, err := fs.Stat(tree, "README.md"); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []Violation
	for _, folder := range topLevel() {
		if info, err := fs.Stat(tree, folder); err != nil || !info.IsDir() {
			continue
		}
		name := path.Join(folder, "README.md")
		text, err := fs.ReadFile(tree, name)
		if errors.Is(err, fs.ErrNotExist) {
			out = append(out, Violation{name, "is missing: it says what is in the folder, what it promises, where to start reading"})
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("rules: %w", err)
		}
		for _, child := range children(pkgs, folder) {
			if !strings.Contains(string(text), "`"+child+"`") {
				out = append(out, Violation{name, "does not name `" + child + "`: add a line, or no reader knows that it exists"})
			}
		}
	}
	return out, nil
}

// children are the folders right below one that hold code, themselves or deeper.
func children(pkgs map[string]*pkg, folder string) []string {
	var out []string
	for dir := range pkgs {
		rest, ok := strings.CutPrefix(dir, folder+"/")
		child, _, _ := strings.Cut(rest, "/")
		if ok && !slices.Contains(out, child) {
			out = append(out, child)
		}
	}
	slices.Sort(out)
	return out
}
