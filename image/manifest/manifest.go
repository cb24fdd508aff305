// Package manifest writes down what an image is made of: a CycloneDX 1.6 bill of
// materials in JSON.
//
// It lists every Debian package of which the image has files (scope required),
// every one that only served as a tool (scope excluded), every Go module linked
// into the box's programs, and the Go toolchain, each with version, licence and SHA-256. A Debian
// package's hash is that of its .deb. A Go module's is the "h1" hash of go.sum in
// hex: the SHA-256 of its list of files and their hashes, since no single file is
// the module. Licences are what Debian's copyright files name, and what
// licensecheck recognises in a module's licence file; they inform and bind nobody.
//
// The component described is the firmware itself: its properties have the rollback
// epoch, the command line and the values of PCR 11 to expect.
//
// There is no time and no random number in it: the same image gives the same bytes.
package manifest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/licensecheck"
	"github.com/google/uuid"

	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/image/userland"
)

// Inputs is what the manifest tells.
type Inputs struct {
	Version        string
	Variant        string
	Epoch          uint32
	Cmdline        string
	SHA256         string            // of the signed image
	UnsignedSHA256 string            // of the image before signing
	PCR11          map[string]string // hex, by boot phases joined with colons
	Set            *debian.Set
	Shipped        []string // names of Debian packages that the image has files of
	Modules        []userland.Module
	GoVersion      string // "go1.26.0"
	GoSum          []byte // content of go.sum
}

// Build returns the manifest.
func Build(in Inputs) ([]byte, error) {
	bom := cdx.NewBOM()
	id := uuid.NewSHA1(uuid.NameSpaceURL, []byte("pforte:"+in.UnsignedSHA256))
	bom.SerialNumber = id.URN()
	bom.Metadata = &cdx.Metadata{Component: in.firmware()}
	var components []cdx.Component
	for i := range in.Set.Packages {
		c, err := in.debianPackage(&in.Set.Packages[i])
		if err != nil {
			return nil, err
		}
		components = append(components, c)
	}
	sums, err := parseGoSum(in.GoSum)
	if err != nil {
		return nil, err
	}
	for _, m := range in.Modules {
		c, err := goModule(m, sums)
		if err != nil {
			return nil, err
		}
		components = append(components, c)
	}
	components = append(components, cdx.Component{
		BOMRef: "pkg:golang/stdlib@" + strings.TrimPrefix(in.GoVersion, "go"), Type: cdx.ComponentTypeLibrary, Name: "stdlib",
		Version: in.GoVersion, PackageURL: "pkg:golang/stdlib@" + strings.TrimPrefix(in.GoVersion, "go"),
		Licenses: licences([]string{"BSD-3-Clause"}), Scope: cdx.ScopeRequired,
	})
	slices.SortFunc(components, func(a, b cdx.Component) int { return strings.Compare(a.BOMRef, b.BOMRef) })
	bom.Components = &components
	var out bytes.Buffer
	enc := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true)
	err = enc.EncodeVersion(bom, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

func (in Inputs) firmware() *cdx.Component {
	properties := []cdx.Property{
		{Name: "pforte:variant", Value: in.Variant},
		{Name: "pforte:epoch", Value: fmt.Sprint(in.Epoch)},
		{Name: "pforte:cmdline", Value: in.Cmdline},
		{Name: "pforte:unsigned-sha256", Value: in.UnsignedSHA256},
	}
	for _, phases := range slices.Sorted(maps.Keys(in.PCR11)) {
		properties = append(properties, cdx.Property{Name: strings.TrimSuffix("pforte:pcr11:"+phases, ":"), Value: in.PCR11[phases]})
	}
	return &cdx.Component{
		BOMRef: "pforte", Type: cdx.ComponentTypeFirmware, Name: "pforte", Version: in.Version,
		Hashes: hashes(in.SHA256), Properties: &properties,
	}
}

func hashes(sha256 string) *[]cdx.Hash {
	return &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sha256}}
}

func licences(names []string) *cdx.Licenses {
	var out cdx.Licenses
	for _, n := range names {
		out = append(out, cdx.LicenseChoice{License: &cdx.License{Name: n}})
	}
	return &out
}

func (in Inputs) debianPackage(p *debian.Package) (cdx.Component, error) {
	names, err := in.Set.Licences(p)
	if err != nil {
		return cdx.Component{}, fmt.Errorf("licences of %s: %w", p.Name, err)
	}
	if len(names) == 0 {
		return cdx.Component{}, fmt.Errorf("package %s names no licence", p.Name)
	}
	scope := cdx.ScopeExcluded
	if slices.Contains(in.Shipped, p.Name) {
		scope = cdx.ScopeRequired
	}
	purl := fmt.Sprintf("pkg:deb/debian/%s@%s?arch=amd64&distro=%s", p.Name, strings.NewReplacer("%", "%25", "+", "%2B", "~", "%7E", ":", "%3A").Replace(p.Version), debian.Release)
	return cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: p.Name, Version: p.Version, PackageURL: purl, Scope: scope,
		Hashes: hashes(p.SHA256), Licenses: licences(names),
		Properties: &[]cdx.Property{{Name: "debian:source", Value: p.Source}},
	}, nil
}

func goModule(m userland.Module, sums map[string]string) (cdx.Component, error) {
	sum, ok := sums[m.Path+"@"+m.Version]
	if !ok {
		return cdx.Component{}, fmt.Errorf("module %s %s is not in go.sum", m.Path, m.Version)
	}
	names, err := moduleLicences(os.DirFS(m.Dir))
	if err != nil {
		return cdx.Component{}, fmt.Errorf("module %s: %w", m.Path, err)
	}
	purl := fmt.Sprintf("pkg:golang/%s@%s", strings.ToLower(m.Path), m.Version)
	return cdx.Component{
		BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: purl, Scope: cdx.ScopeRequired,
		Hashes: hashes(sum), Licenses: licences(names),
	}, nil
}

// parseGoSum returns the h1 hashes of modules (not of their go.mod files) in hex by "path@version".
func parseGoSum(data []byte) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 3 || strings.HasSuffix(f[1], "/go.mod") {
			continue
		}
		h1, ok := strings.CutPrefix(f[2], "h1:")
		if !ok {
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(h1)
		if err != nil {
			return nil, fmt.Errorf("go.sum: %s: %w", f[0], err)
		}
		out[f[0]+"@"+f[1]] = hex.EncodeToString(raw)
	}
	return out, nil
}

// minCoverage is how much of a licence file, in percent, must be a known text.
const minCoverage = 60

// moduleLicences recognises the licence files at the top of a module.
func moduleLicences(dir fs.FS) ([]string, error) {
	entries, err := fs.ReadDir(dir, ".")
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		base := strings.ToUpper(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())))
		if e.IsDir() || !strings.HasPrefix(base, "LICEN") && !strings.HasPrefix(base, "COPYING") && base != "UNLICENSE" {
			continue
		}
		text, err := fs.ReadFile(dir, e.Name())
		if err != nil {
			return nil, err
		}
		cov := licensecheck.Scan(text)
		if cov.Percent < minCoverage {
			continue
		}
		for _, m := range cov.Match {
			if !slices.Contains(out, m.ID) {
				out = append(out, m.ID)
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no licence file that is known")
	}
	slices.Sort(out)
	return out, nil
}
