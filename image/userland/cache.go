package userland

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sourceDirs are the folders whose packages may end up in the box's programs.
var sourceDirs = []string{"appliance", "cmd", "hsm", "image", "internal"}

// fingerprint is a hash over everything that shapes the programs: sources and the
// files that they embed, the versions of modules, the toolchain, and this package
// itself. Tests and their data are left out.
func fingerprint(source fs.FS, goVersion string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, goVersion)
	for _, dir := range append([]string{"go.mod", "go.sum"}, sourceDirs...) {
		err := fs.WalkDir(source, dir, func(name string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && d.Name() == "testdata":
				return fs.SkipDir
			case !d.Type().IsRegular() || strings.HasSuffix(name, "_test.go"):
				return nil
			}
			f, err := source.Open(name)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			one := sha256.New()
			if _, err := io.Copy(one, f); err != nil {
				return err
			}
			fmt.Fprintf(h, "%x %s\n", one.Sum(nil), name)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

// Built programs are thrown away when there are more than keepCount and they were
// not used for keepAge.
const (
	keepCount = 4
	keepAge   = 24 * time.Hour
)

// prune removes old results, and what broken-off builds left.
func prune(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	type result struct {
		path string
		used time.Time
	}
	var all []result
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // removed by another build
		}
		all = append(all, result{filepath.Join(dir, e.Name()), info.ModTime()})
	}
	slices.SortFunc(all, func(a, b result) int { return b.used.Compare(a.used) })
	for _, r := range all[min(keepCount, len(all)):] {
		if time.Since(r.used) > keepAge {
			if err := os.RemoveAll(r.path); err != nil {
				return err
			}
		}
	}
	return nil
}
