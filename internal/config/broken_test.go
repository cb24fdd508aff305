package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// TestBroken goes through testdata/broken: each archive is the example with one
// thing changed (replace/with pairs; complete: in complete.yaml), or a document of
// its own (config), and
// the faults that must be reported, all of them and no other.
//
// UPDATE=1 writes the faults that are reported now; read the difference.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no broken configurations: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := Parse(broken(t, a))
			var faults Faults
			if !errors.As(err, &faults) || len(faults) == 0 || doc != nil {
				t.Fatalf("Parse = %v, %v; want no document, and faults", doc, err)
			}
			got := faults.Error() + "\n"
			last := &a.Files[len(a.Files)-1]
			if last.Name != "faults" {
				t.Fatalf("the archive ends with %q, want faults", last.Name)
			}
			if string(last.Data) == got {
				return
			}
			if os.Getenv("UPDATE") != "1" {
				t.Fatalf("faults:\n%s\nwant:\n%s", got, last.Data)
			}
			last.Data = []byte(got)
			if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// broken builds the document that an archive describes.
func broken(t *testing.T, a *txtar.Archive) []byte {
	t.Helper()
	data := example(t)
	for i, f := range a.Files {
		switch f.Name {
		case "complete":
			data = testdata(t, "complete.yaml")
		case "config":
			data = f.Data
		case "replace":
			with := a.Files[i+1]
			if n := bytes.Count(data, f.Data); n != 1 || with.Name != "with" {
				t.Fatalf("what is to be replaced stands %d times in the example:\n%s", n, f.Data)
			}
			data = bytes.Replace(data, f.Data, with.Data, 1)
		}
	}
	return data
}
