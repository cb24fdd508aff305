package debian

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Source is one place that apt reads binary packages from.
type Source struct {
	URI        string
	Suites     []string
	Components []string
	SignedBy   string // key file, "" for apt's default, "inline" for a key in the stanza
}

// Mirror names the two archives that make up Debian stable: the main one
// (trixie and trixie-updates) and the one with security updates.
type Mirror struct {
	Archive  string
	Security string
}

// ErrNoMirror is returned when the host's apt configuration names no Debian archive.
var ErrNoMirror = errors.New("no Debian archive in the host's apt configuration; name one with -mirror URI")

// debianSuites are the names under which apt configurations know Debian itself.
// Only the archive's address is taken from them, never the suite.
var debianSuites = []string{
	"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid",
	"buster", "bullseye", "bookworm", "trixie", "forky", "duke",
}

// ParseDeb822 reads the .sources format of sources.list(5). Stanzas that are
// switched off, or that hold no binary packages, are left out.
func ParseDeb822(r io.Reader) ([]Source, error) {
	stanzas, err := parseStanzas(r)
	if err != nil {
		return nil, err
	}
	var out []Source
	for _, s := range stanzas {
		if !slices.Contains(strings.Fields(s["types"]), "deb") || switchedOff(s["enabled"]) {
			continue
		}
		signed := strings.TrimSpace(s["signed-by"])
		if strings.Contains(signed, "\n") {
			signed = "inline"
		}
		for _, uri := range strings.Fields(s["uris"]) {
			out = append(out, Source{
				URI:        uri,
				Suites:     strings.Fields(s["suites"]),
				Components: strings.Fields(s["components"]),
				SignedBy:   signed,
			})
		}
	}
	return out, nil
}

func switchedOff(v string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(strings.TrimSpace(v)))
}

// parseStanzas reads paragraphs of "Field: value" lines (deb822(5)). Field names
// are lower-cased, continuation lines keep their line break, comment lines vanish.
func parseStanzas(r io.Reader) ([]map[string]string, error) {
	var out []map[string]string
	var cur map[string]string
	field := ""
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimRight(sc.Text(), " \t\r")
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			cur, field = nil, ""
		case line[0] == ' ' || line[0] == '\t':
			if field == "" {
				return nil, fmt.Errorf("line %d: continuation without a field", n)
			}
			cur[field] += "\n" + strings.TrimSpace(line)
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("line %d: no field name", n)
			}
			if cur == nil {
				cur = map[string]string{}
				out = append(out, cur)
			}
			field = strings.ToLower(strings.TrimSpace(name))
			cur[field] = strings.TrimSpace(value)
		}
	}
	return out, sc.Err()
}

// maxLine bounds one line of apt's files; the longest in Debian's package lists
// (Depends, Tag) stay below 64 KiB.
const maxLine = 1 << 20

// ParseList reads the one-line format of sources.list(5).
func ParseList(r io.Reader) ([]Source, error) {
	var out []Source
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxLine)
	for n := 1; sc.Scan(); n++ {
		line, _, _ := strings.Cut(sc.Text(), "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		rest = strings.TrimSpace(rest)
		if kind != "deb" || strings.HasPrefix(rest, "cdrom:") {
			continue
		}
		signed := ""
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				return nil, fmt.Errorf("line %d: option list is not closed", n)
			}
			for o := range strings.FieldsSeq(options) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok {
					signed = v
				}
			}
			rest = after
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			return nil, fmt.Errorf("line %d: no suite", n)
		}
		out = append(out, Source{URI: f[0], Suites: f[1:2], Components: f[2:], SignedBy: signed})
	}
	return out, sc.Err()
}

// HostMirror finds Debian's archives in an apt configuration folder (etc is the
// folder /etc/apt). It looks at the addresses only: which release the host runs
// does not matter.
func HostMirror(etc fs.FS) (Mirror, error) {
	var all []Source
	names, err := fs.Glob(etc, "sources.list.d/*")
	if err != nil {
		return Mirror{}, err
	}
	for _, name := range append([]string{"sources.list"}, names...) {
		parse := ParseList
		switch path.Ext(name) {
		case ".sources":
			parse = ParseDeb822
		case ".list":
		default:
			continue
		}
		f, err := etc.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return Mirror{}, err
		}
		sources, err := parse(f)
		_ = f.Close()
		if err != nil {
			return Mirror{}, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, sources...)
	}
	return ChooseMirror(all)
}

// ChooseMirror picks the first source that is Debian's main archive and the first
// that is its security archive. Third parties often use Debian's suite names;
// they are told apart by their own signing key. A wrong pick can do no harm: what
// is fetched must be signed by Debian's archive keys. Without a security source
// the address is derived from the archive's.
func ChooseMirror(sources []Source) (Mirror, error) {
	var m Mirror
	for _, s := range sources {
		if !slices.Contains(s.Components, "main") || !signedByDebian(s.SignedBy) {
			continue
		}
		for _, suite := range s.Suites {
			switch base, security := securitySuite(suite); {
			case !slices.Contains(debianSuites, base):
			case security && m.Security == "":
				m.Security = s.URI
			case !security && m.Archive == "":
				m.Archive = s.URI
			}
		}
	}
	if m.Archive == "" {
		return Mirror{}, ErrNoMirror
	}
	return m.complete()
}

func signedByDebian(key string) bool {
	return key == "" || strings.HasPrefix(path.Base(key), "debian-archive-")
}

// securitySuite cuts a suite into its release and whether it is the security one.
func securitySuite(suite string) (base string, security bool) {
	if b, ok := strings.CutSuffix(suite, "-security"); ok {
		return b, true
	}
	if b, ok := strings.CutSuffix(suite, "/updates"); ok {
		return b, true
	}
	return strings.TrimSuffix(suite, "-updates"), false
}

// ParseMirror reads "ARCHIVE" or "ARCHIVE,SECURITY", two URIs of apt.
func ParseMirror(s string) (Mirror, error) {
	archive, security, _ := strings.Cut(s, ",")
	m := Mirror{Archive: strings.TrimSpace(archive), Security: strings.TrimSpace(security)}
	if !strings.Contains(m.Archive, ":") {
		return Mirror{}, fmt.Errorf("mirror %q is not a URI", s)
	}
	return m.complete()
}

// complete fills in the security archive that stands beside the main one under
// Debian's customary names.
func (m Mirror) complete() (Mirror, error) {
	if m.Security != "" {
		return m, nil
	}
	base, ok := strings.CutSuffix(strings.TrimRight(m.Archive, "/"), "/debian")
	if !ok {
		return Mirror{}, fmt.Errorf("no security archive known beside %s; name both with -mirror ARCHIVE,SECURITY", m.Archive)
	}
	m.Security = base + "/debian-security"
	return m, nil
}
