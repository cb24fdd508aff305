package clauses

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"strings"
)

// Problem is a clause that is not carried, or a name that is not there.
type Problem struct{ Clause, Fault string }

func (p Problem) String() string { return p.Clause + ": " + p.Fault }

// Check compares the clauses with the source tree. The error is about reading
// the tree, never about a clause.
func Check(tree fs.FS, list []Clause) ([]Problem, error) {
	c := checker{tree: tree, folders: map[string]*folder{}}
	seen := map[string]bool{}
	var out []Problem
	for _, clause := range list {
		add := func(format string, args ...any) {
			out = append(out, Problem{clause.ID, fmt.Sprintf(format, args...)})
		}
		if seen[clause.ID] {
			add("stands there twice")
		}
		seen[clause.ID] = true
		if clause.Asks == "" || len(clause.Code) == 0 {
			add("no code carries it")
		}
		if len(clause.Tests) == 0 {
			add("no test proves it")
		}
		for _, name := range clause.Code {
			if ok, err := c.declares(name); err != nil {
				return nil, err
			} else if !ok {
				add("no declaration %s", name)
			}
		}
		for _, name := range clause.Tests {
			if ok, err := c.tests(name); err != nil {
				return nil, err
			} else if !ok {
				add("no test %s", name)
			}
		}
	}
	return out, nil
}

// folder is what one folder declares.
type folder struct {
	code  map[string]bool   // Name, Type.Method
	tests map[string]string // test → text of its file
}

type checker struct {
	tree    fs.FS
	folders map[string]*folder
}

// declares looks for "folder.Name" or "folder.Type.Method".
func (c *checker) declares(name string) (bool, error) {
	dir, symbol := split(name)
	f, err := c.folder(dir)
	return err == nil && f.code[symbol], err
}

// tests looks for "folder.TestName" or "folder.TestName/text".
func (c *checker) tests(name string) (bool, error) {
	name, row, _ := strings.Cut(name, "/ ")
	dir, symbol := split(name)
	f, err := c.folder(dir)
	if err != nil {
		return false, err
	}
	text, ok := f.tests[symbol]
	return ok && (strings.HasPrefix(symbol, "Test") || strings.HasPrefix(symbol, "Fuzz")) && strings.Contains(text, row), nil
}

// split parts the folder from the symbol: the first dot behind the last slash.
func split(name string) (dir, symbol string) {
	slash := strings.LastIndexByte(name, '/') + 1
	last, symbol, _ := strings.Cut(name[slash:], ".")
	return name[:slash] + last, symbol
}

func (c *checker) folder(dir string) (*folder, error) {
	if f := c.folders[dir]; f != nil {
		return f, nil
	}
	f := &folder{code: map[string]bool{}, tests: map[string]string{}}
	c.folders[dir] = f
	files, err := fs.Glob(c.tree, path.Join(dir, "*.go"))
	if err != nil {
		return nil, fmt.Errorf("clauses: %w", err)
	}
	for _, name := range files {
		text, err := fs.ReadFile(c.tree, name)
		if err != nil {
			return nil, fmt.Errorf("clauses: %w", err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("clauses: %w", err)
		}
		f.add(parsed, string(text), strings.HasSuffix(name, "_test.go"))
	}
	return f, nil
}

func (f *folder) add(file *ast.File, text string, test bool) {
	for _, d := range file.Decls {
		for _, name := range declared(d) {
			if test {
				f.tests[name] = text
			} else {
				f.code[name] = true
			}
		}
	}
}

// declared are the names that one declaration gives.
func declared(d ast.Decl) []string {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			return []string{d.Name.Name}
		}
		t := d.Recv.List[0].Type
		if star, ok := t.(*ast.StarExpr); ok {
			t = star.X
		}
		if id, ok := t.(*ast.Ident); ok {
			return []string{id.Name + "." + d.Name.Name}
		}
	case *ast.GenDecl:
		var all []string
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				all = append(all, s.Name.Name)
			case *ast.ValueSpec:
				for _, id := range s.Names {
					all = append(all, id.Name)
				}
			}
		}
		return all
	}
	return nil
}
