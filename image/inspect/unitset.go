package inspect

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
)

// unitDirs are where systemd looks for units, the winner first. Those in /run
// are made at boot.
func unitDirs() []string {
	return []string{"/etc/systemd/system", "/usr/lib/systemd/system"}
}

// unitFile is one unit with its drop-ins (systemd.unit(5)).
type unitFile struct {
	path    string
	masked  bool
	options []*unit.UnitOption
	wants   []string // by links in NAME.wants and NAME.requires
}

// unitSet holds units by name. A unit with an alias is there under both names,
// and gets the drop-ins of both.
type unitSet map[string]*unitFile

func loadUnits(t *tree) (*unitSet, error) {
	set, byPath := unitSet{}, map[string]*unitFile{}
	for _, dir := range unitDirs() {
		for _, at := range t.paths {
			name := path.Base(at)
			if path.Dir(at) != dir || !isUnit(name) || set[name] != nil || t.entries[at].mode.IsDir() {
				continue
			}
			end, _ := t.resolve(at)
			if byPath[end] == nil || end == "/dev/null" {
				u, err := t.loadUnit(at, end)
				if err != nil {
					return nil, err
				}
				byPath[end] = u
			}
			set[name] = byPath[end]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if err := t.addDropIns(set[name], name); err != nil {
			return nil, err
		}
	}
	return &set, nil
}

func isUnit(name string) bool {
	switch path.Ext(name) {
	case ".service", ".socket", ".target", ".mount", ".automount", ".swap", ".timer", ".path", ".slice", ".device":
		return true
	}
	return false
}

// loadUnit reads the unit at a path, whose links lead to end.
func (t *tree) loadUnit(at, end string) (*unitFile, error) {
	if end == "/dev/null" {
		return &unitFile{path: at, masked: true}, nil
	}
	if !t.entries[end].mode.IsRegular() {
		return &unitFile{path: at}, nil // the rule on links says it
	}
	options, err := t.parseUnit(end)
	return &unitFile{path: end, options: options}, err
}

func (t *tree) parseUnit(at string) ([]*unit.UnitOption, error) {
	data, err := readFile(t.host(at))
	if err != nil {
		return nil, err
	}
	options, err := unit.DeserializeOptions(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return options, nil
}

// addDropIns adds what NAME.d, NAME.wants and NAME.requires hold, of the name
// itself and of its type ("service.d").
func (t *tree) addDropIns(u *unitFile, name string) error {
	var confs []string
	for _, at := range t.paths {
		dir := path.Dir(at)
		if !slices.Contains(unitDirs(), path.Dir(dir)) {
			continue
		}
		switch path.Base(dir) {
		case name + ".d", strings.TrimPrefix(path.Ext(name), ".") + ".d":
			if path.Ext(at) == ".conf" {
				confs = append(confs, at)
			}
		case name + ".wants", name + ".requires":
			u.wants = append(u.wants, path.Base(at))
		}
	}
	slices.SortFunc(confs, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	for _, at := range confs {
		options, err := t.parseUnit(at)
		if err != nil {
			return err
		}
		u.options = append(u.options, options...)
	}
	return nil
}

// values are the words of all settings of one key; an empty setting forgets
// what stood before.
func (u *unitFile) values(keys ...string) []string {
	var out []string
	for _, o := range u.options {
		if !slices.Contains(keys, o.Name) {
			continue
		}
		if strings.TrimSpace(o.Value) == "" {
			out = nil
		}
		out = append(out, strings.Fields(o.Value)...)
	}
	return out
}

// lines are all settings of the keys, unsplit.
func (u *unitFile) lines(keys ...string) []string {
	var out []string
	for _, o := range u.options {
		if slices.Contains(keys, o.Name) && strings.TrimSpace(o.Value) != "" {
			out = append(out, o.Value)
		}
	}
	return out
}

// sorted are the units in the order of their names, each once, masked ones left out.
func (s unitSet) sorted() []*unitFile {
	var out []*unitFile
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if !s[name].masked && !slices.Contains(out, s[name]) {
			out = append(out, s[name])
		}
	}
	return out
}

// readText reads a small text file of the tree, following links.
func (t *tree) readText(name string) (string, error) {
	end, ok := t.resolve(name)
	if !ok {
		return "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	data, err := readFile(t.host(end))
	return string(data), err
}
