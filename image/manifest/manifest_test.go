package manifest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-cmp/cmp"

	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/image/userland"
)

func TestParseGoSum(t *testing.T) {
	got, err := parseGoSum([]byte("a.b/c v1.0.0 h1:AAEC\na.b/c v1.0.0/go.mod h1:zzzz\na.b/d v2.0.0 h1:/w==\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"a.b/c@v1.0.0": "000102", "a.b/d@v2.0.0": "ff"}, got); d != "" {
		t.Error(d)
	}
	if _, err := parseGoSum([]byte("a.b/c v1.0.0 h1:?\n")); err == nil {
		t.Error("a broken hash was accepted")
	}
}

const isc = `Permission to use, copy, modify, and/or distribute this software for any
purpose with or without fee is hereby granted, provided that the above
copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH
REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM
LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR
OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR
PERFORMANCE OF THIS SOFTWARE.
`

func TestModuleLicences(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files fstest.MapFS
		want  []string
	}{
		{"one", fstest.MapFS{"LICENSE": {Data: []byte(isc)}, "main.go": {Data: []byte("package x")}}, []string{"ISC"}},
		{"with suffix", fstest.MapFS{"LICENCE.md": {Data: []byte(isc)}}, []string{"ISC"}},
		{"unknown text", fstest.MapFS{"LICENSE": {Data: []byte("All rights reserved by nobody in particular.")}}, nil},
		{"none", fstest.MapFS{"main.go": {Data: []byte("package x")}}, nil},
	} {
		got, err := moduleLicences(tt.files)
		if (err != nil) != (tt.want == nil) {
			t.Errorf("%s: error %v", tt.name, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
}

func inputs(t *testing.T) Inputs {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(isc), 0o644); err != nil {
		t.Fatal(err)
	}
	return Inputs{
		Version: "1.2.3", Variant: "dev", Epoch: 4, Cmdline: "quiet",
		SHA256: strings.Repeat("1", 64), UnsignedSHA256: strings.Repeat("2", 64),
		PCR11: map[string]string{"": "aa", "enter-initrd": "bb"}, Set: &debian.Set{},
		Modules: []userland.Module{{Path: "a.b/C", Version: "v1.0.0", Dir: dir}}, GoVersion: "go1.26.0",
		GoSum: []byte("a.b/C v1.0.0 h1:AAEC\n"),
	}
}

func TestBuild(t *testing.T) {
	data, err := Build(inputs(t))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build(inputs(t))
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("the same inputs gave another manifest (%v)", err)
	}
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(data), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range *bom.Components {
		names = append(names, c.PackageURL)
		if c.Licenses == nil || len(*c.Licenses) == 0 || c.Version == "" {
			t.Errorf("%s: licence or version is missing", c.Name)
		}
	}
	if d := cmp.Diff([]string{"pkg:golang/a.b/c@v1.0.0", "pkg:golang/stdlib@1.26.0"}, names); d != "" {
		t.Error(d)
	}
	if !bytes.Contains(data, []byte(`"pforte:pcr11:enter-initrd"`)) {
		t.Error("the expected PCR 11 is missing")
	}
	in := inputs(t)
	in.GoSum = nil
	if _, err := Build(in); err == nil {
		t.Error("a module without a hash was accepted")
	}
}
