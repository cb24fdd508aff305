package debian

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// copyrightFile finds a package's copyright file. Binary packages of one source
// often share one doc folder through a link.
func (s *Set) copyrightFile(p *Package) (string, error) {
	doc := path.Join("/usr/share/doc", p.Name)
	if f, ok := s.files[doc]; ok && f.link != "" {
		doc = path.Join(path.Dir(doc), f.link)
		if _, ok := s.files[path.Join(doc, "copyright")]; !ok {
			return "", fs.ErrNotExist
		}
	}
	f, err := s.Lookup(path.Join(doc, "copyright"))
	return f.Host, err
}

var (
	licenceField  = regexp.MustCompile(`(?m)^License:[ \t]*(\S.*)$`)
	commonLicence = regexp.MustCompile(`/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9+])`)
)

// Licences names the licences in a package's copyright file, sorted: the License
// fields where the file is machine-readable, else the common licences that it
// refers to, else the families that its prose names. It is empty if the package has no copyright file of its own and no
// sibling in the set that has one.
func (s *Set) Licences(p *Package) ([]string, error) {
	host, err := s.copyrightFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return s.siblingLicences(p)
	} else if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Clean(host))
	if err != nil {
		return nil, err
	}
	return parseLicences(string(text)), nil
}

// siblingLicences reads the copyright file of another package of the same source.
func (s *Set) siblingLicences(p *Package) ([]string, error) {
	for i := range s.Packages {
		q := &s.Packages[i]
		if q.Source != p.Source || q.Name == p.Name {
			continue
		}
		host, err := s.copyrightFile(q)
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Clean(host))
		if err != nil {
			return nil, err
		}
		return parseLicences(string(text)), nil
	}
	return nil, nil
}

// families are the names by which free-form copyright files call a licence.
var families = []struct{ phrase, name string }{
	{"GNU Lesser General Public License", "LGPL"},
	{"GNU General Public License", "GPL"},
	{"3-clause BSD", "BSD-3-Clause"},
	{"BSD license", "BSD"},
	{"Public domain", "public-domain"},
}

func parseLicences(text string) []string {
	found := licenceField.FindAllStringSubmatch(text, -1)
	if len(found) == 0 {
		found = commonLicence.FindAllStringSubmatch(text, -1)
	}
	var out []string
	for _, m := range found {
		out = append(out, strings.TrimSpace(m[1]))
	}
	if len(out) == 0 {
		prose := strings.Join(strings.Fields(text), " ")
		for _, f := range families {
			if strings.Contains(prose, f.phrase) {
				out = append(out, f.name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
