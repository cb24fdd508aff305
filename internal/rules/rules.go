// Package rules is the house's law as a test: which package may import which,
// and what no source file may contain. `go test ./internal/rules` reads the
// whole tree and fails with the place, the rule and its reason.
//
// It reads source text only (go/parser), runs nothing and needs no build. Test
// files are held to fewer rules: they may use simulators, software keys and
// other programs. Imports are followed through this module's own packages, so
// that a forbidden package cannot arrive by a detour; what a foreign module
// imports is its own affair.
//
// The rules are design.md §5 of the project; the tables in law.go are the only
// place where they stand.
package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
)

// Module is this module's path.
const Module = "gitlab.opencode.de/pforte/pforte"

// maxFunctionLines is the length from which a function owes a reason: a line of
// its comment that starts with "Long:".
const maxFunctionLines = 80

// Violation is one broken rule.
type Violation struct {
	Place string // file:line, or a package or file
	Rule  string // what is broken, and why it is a rule
}

func (v Violation) String() string { return v.Place + ": " + v.Rule }

// pkg is one folder with Go files; only what the rules ask about.
type pkg struct {
	path     string            // relative to the module, "cmd/relayd"
	imports  map[string]string // import path -> place, of files that ship
	docs     []string          // places of package comments
	files    []string          // files that ship
	problems []Violation
}

// Check reads the tree and returns every broken rule, sorted by place. The
// error is about reading or parsing, never about a rule.
func Check(tree fs.FS) ([]Violation, error) {
	pkgs, err := load(tree)
	if err != nil {
		return nil, err
	}
	var out []Violation
	for _, p := range pkgs {
		out = append(out, p.problems...)
		out = append(out, p.checkDoc()...)
	}
	out = append(out, checkImports(pkgs)...)
	top, err := checkTop(tree)
	if err != nil {
		return nil, err
	}
	mod, err := checkModule(tree)
	if err != nil {
		return nil, err
	}
	readmes, err := checkReadmes(tree, pkgs)
	if err != nil {
		return nil, err
	}
	out = slices.Concat(out, top, mod, readmes)
	sort.Slice(out, func(i, j int) bool { return out[i].String() < out[j].String() })
	return out, nil
}

// load parses every Go file outside hidden, testdata and build folders.
func load(tree fs.FS) (map[string]*pkg, error) {
	pkgs := map[string]*pkg{}
	fset := token.NewFileSet()
	err := fs.WalkDir(tree, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if base := e.Name(); name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || name == "build") {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(name) != ".go" {
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		if err != nil {
			return fmt.Errorf("rules: %w", err)
		}
		dir := path.Dir(name)
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{path: dir, imports: map[string]string{}}
		}
		pkgs[dir].add(fset, name, file)
		return nil
	})
	return pkgs, err
}

// add takes one parsed file into its package.
func (p *pkg) add(fset *token.FileSet, name string, file *ast.File) {
	test := strings.HasSuffix(name, "_test.go")
	if !test {
		p.files = append(p.files, name)
		if file.Doc != nil {
			p.docs = append(p.docs, name)
		}
	}
	for _, spec := range file.Imports {
		target := strings.Trim(spec.Path.Value, `"`)
		place := fset.Position(spec.Pos()).String()
		if target == "C" && p.path != cgoHome {
			p.report(place, "import \"C\": cgo lives in "+cgoHome+" only, because everything else must build static and reproducible")
		}
		if !test {
			p.imports[target] = place
		}
	}
	if test {
		return
	}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		place := fset.Position(fn.Pos()).String()
		if fn.Name.Name == "init" && fn.Recv == nil {
			p.report(place, "func init: commands are merged into one binary, and an init of one would run in all")
		}
		lines := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
		if lines > maxFunctionLines && !saysWhyLong(fn.Doc) {
			p.report(place, fmt.Sprintf("function %s has %d lines: split it, or give the reason in its comment on a line that starts with \"Long:\"", fn.Name.Name, lines))
		}
	}
	ast.Inspect(file, func(n ast.Node) bool { p.checkTCP(fset, n); return true })
}

func (p *pkg) report(place, rule string) {
	p.problems = append(p.problems, Violation{place, rule})
}

func saysWhyLong(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	for line := range strings.Lines(doc.Text()) {
		if strings.HasPrefix(line, "Long:") && len(strings.TrimSpace(line)) > len("Long:") {
			return true
		}
	}
	return false
}

// checkTCP keeps the key holder off the network: no listener of its own and no
// dialling but to Unix sockets.
func (p *pkg) checkTCP(fset *token.FileSet, n ast.Node) {
	call, ok := n.(*ast.CallExpr)
	if !ok || !(p.path == "cmd/keyd" || under(p.path, "hsm")) {
		return
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return
	}
	x, _ := sel.X.(*ast.Ident)
	if x == nil {
		return
	}
	bad := x.Name == "http" && strings.HasPrefix(sel.Sel.Name, "ListenAndServe")
	if x.Name == "net" && (sel.Sel.Name == "Listen" || sel.Sel.Name == "Dial" || sel.Sel.Name == "DialTimeout") && len(call.Args) > 0 {
		lit, ok := call.Args[0].(*ast.BasicLit)
		bad = bad || !ok || lit.Value != `"unix"`
	}
	if bad {
		p.report(fset.Position(call.Pos()).String(), x.Name+"."+sel.Sel.Name+": the key holder stays off the network")
	}
}

// checkDoc wants exactly one package comment.
func (p *pkg) checkDoc() []Violation {
	switch {
	case len(p.files) == 0: // tests only
		return nil
	case len(p.docs) == 0:
		return []Violation{{p.path, "no package comment: it is the specification of the package"}}
	case len(p.docs) > 1:
		return []Violation{{p.path, "package comments in " + strings.Join(p.docs, " and ") + ": exactly one, so that nobody reads half of it"}}
	}
	return nil
}

// under reports whether p is folder or lies below it.
func under(p, folder string) bool {
	return p == folder || strings.HasPrefix(p, folder+"/")
}
