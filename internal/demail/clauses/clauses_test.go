package clauses

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// root is the module, seen from here.
const root = "../../.."

func TestEveryClauseIsCarried(t *testing.T) {
	problems, err := Check(os.DirFS(root), All())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
	for _, g := range Open() {
		if g.ID == "" || g.Asks == "" || g.Why == "" {
			t.Errorf("gap %+v does not say what it is and why", g)
		}
	}
}

func TestCheckFindsFaults(t *testing.T) {
	tree := fstest.MapFS{
		"a/a.go":      {Data: []byte("package a\n\ntype T struct{}\n\nfunc (t *T) Do() {}\n\nconst Limit = 1\n")},
		"a/a_test.go": {Data: []byte("package a\n\nfunc TestDo() { _ = \"a row\" }\n\nfunc helper() {}\n")},
	}
	good := Clause{ID: "1", Asks: "x", Code: []string{"a.T.Do", "a.Limit", "a.T"}, Tests: []string{"a.TestDo", "a.TestDo/ a row"}}
	if problems, err := Check(tree, []Clause{good}); err != nil || len(problems) > 0 {
		t.Fatalf("a good clause: %v %v", problems, err)
	}
	for want, c := range map[string]Clause{
		"no code carries it":       {Asks: "x", Tests: good.Tests},
		"no test proves it":        {Asks: "x", Code: good.Code},
		"no declaration a.T.Gone":  {Asks: "x", Code: []string{"a.T.Gone"}, Tests: good.Tests},
		"no declaration b.T":       {Asks: "x", Code: []string{"b.T"}, Tests: good.Tests},
		"no declaration a.TestDo":  {Asks: "x", Code: []string{"a.TestDo"}, Tests: good.Tests},
		"no test a.TestGone":       {Asks: "x", Code: good.Code, Tests: []string{"a.TestGone"}},
		"no test a.helper":         {Asks: "x", Code: good.Code, Tests: []string{"a.helper"}},
		"no test a.TestDo/ no row": {Asks: "x", Code: good.Code, Tests: []string{"a.TestDo/ no row"}},
		"stands there twice":       good,
	} {
		c.ID = "1"
		list := []Clause{c}
		if want == "stands there twice" {
			list = append(list, good)
		}
		problems, err := Check(tree, list)
		if err != nil {
			t.Fatal(err)
		}
		if len(problems) != 1 || problems[0].Fault != want {
			t.Errorf("%s: got %v", want, problems)
		}
	}
}

func TestPrint(t *testing.T) {
	var b strings.Builder
	if err := Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, c := range All() {
		if !strings.Contains(b.String(), c.ID) || !strings.Contains(b.String(), c.Tests[0]) {
			t.Errorf("%s is not printed whole", c.ID)
		}
	}
}
