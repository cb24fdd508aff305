// Package userland builds the box's own programs from this source tree.
//
// Three static programs come out: init, which lives in the initramfs; keyd,
// which holds the keys and therefore stands apart; and one program, named bb, in
// which u-root's gobusybox merges all other commands, to be called through links
// with their names. Merging saves the space of the Go runtime and of shared
// packages once per command.
//
// The same sources and the same Go toolchain give the same bytes in every
// folder: cgo is off, paths are trimmed, build ids are empty, and the settings
// of the caller's environment that change the code (GOFLAGS, GOAMD64,
// GOEXPERIMENT, GOWORK) are overridden.
//
// gobusybox only generates the source; the compilation is done here. Its result
// is a GOPATH tree without go.mod, for which the toolchain would fall back to the
// run-time defaults of Go 1.20 and earlier (old TLS versions, RSA key exchange).
// The generated main therefore states this module's own Go version, and Build
// fails if a program was made with any other default.
package userland

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/u-root/gobusybox/src/pkg/bb"
	"github.com/u-root/gobusybox/src/pkg/bb/findpkg"
	"github.com/u-root/gobusybox/src/pkg/golang"
	"github.com/u-root/uio/ulog"
)

// ModulePath is this source tree's Go module.
const ModulePath = "gitlab.opencode.de/pforte/pforte"

// alone are the commands built into a program of their own, merged those that
// share one.
var (
	alone  = []string{"init", "keyd"}
	merged = []string{"apid", "console", "netd", "relayd", "updated"}
)

// Commands lists every command of the box by its folder below cmd/.
func Commands() []string {
	return append(append([]string{}, alone...), merged...)
}

// Programs are the built files by their path in the box; init's is in the
// initramfs. Links are symbolic links beside them.
type Programs struct {
	Init  string            // host path of /init
	Files map[string]string // path in the root → host path
	Links map[string]string // path in the root → target
}

// Build compiles all commands of the source tree in folder source. The programs
// stay below folder cache, under a name made from all that goes into them, and are
// not built again while nothing of that changes.
func Build(ctx context.Context, source, cache string) (*Programs, error) {
	tc, err := newToolchain(ctx, source)
	if err != nil {
		return nil, err
	}
	key, err := fingerprint(os.DirFS(source), tc.version)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "userland")
	final := filepath.Join(dir, key)
	if _, err := os.Stat(final); err == nil {
		now := time.Now()
		return programs(final), os.Chtimes(final, now, now)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(dir, ".tmp-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := tc.buildAll(ctx, source, tmp); err != nil {
		return nil, err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return nil, err
	}
	// Another build of the same sources may have been faster: its result is as good.
	if err := os.Rename(tmp, final); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return programs(final), prune(dir)
}

// programs describes the files in a folder that buildAll filled.
func programs(dir string) *Programs {
	p := &Programs{
		Init:  filepath.Join(dir, "init"),
		Files: map[string]string{"/usr/bin/keyd": filepath.Join(dir, "keyd"), "/usr/bin/bb": filepath.Join(dir, "bb")},
		Links: map[string]string{},
	}
	for _, name := range merged {
		p.Links["/usr/bin/"+name] = "bb"
	}
	return p
}

func (tc *toolchain) buildAll(ctx context.Context, source, out string) error {
	for _, name := range alone {
		if err := tc.build(ctx, tc.moduleEnv(), source, filepath.Join(out, name), "./cmd/"+name); err != nil {
			return err
		}
	}
	if err := tc.busybox(ctx, source, filepath.Join(out, "src"), filepath.Join(out, "bb")); err != nil {
		return err
	}
	for _, name := range append([]string{"bb"}, alone...) {
		if err := check(filepath.Join(out, name)); err != nil {
			return err
		}
	}
	return nil
}

// toolchain is the Go toolchain that go.mod selects.
type toolchain struct {
	root    string // GOROOT
	version string // "go1.26.0"
	lang    string // "1.26": this module's Go version without the patch level
}

func newToolchain(ctx context.Context, source string) (*toolchain, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOROOT")
	cmd.Dir = source
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w; the image is built from source, so Go must be installed", err)
	}
	tc := &toolchain{root: strings.TrimSpace(string(out))}
	cmd = exec.CommandContext(ctx, tc.gocmd(), "list", "-m", "-json")
	cmd.Dir, cmd.Env = source, tc.moduleEnv()
	var m struct{ Path, GoVersion string }
	if out, err = cmd.Output(); err != nil {
		return nil, fmt.Errorf("go list -m in %s: %w", source, err)
	}
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, err
	}
	if m.Path != ModulePath {
		return nil, fmt.Errorf("%s holds module %s, not %s", source, m.Path, ModulePath)
	}
	f := strings.SplitN(m.GoVersion, ".", 3)
	if len(f) < 2 {
		return nil, fmt.Errorf("go.mod: go version %q has no minor number", m.GoVersion)
	}
	tc.lang = f[0] + "." + f[1]
	version, err := os.ReadFile(filepath.Join(tc.root, "VERSION"))
	if err != nil {
		return nil, err
	}
	tc.version, _, _ = strings.Cut(string(version), "\n")
	return tc, nil
}

func (tc *toolchain) gocmd() string {
	return filepath.Join(tc.root, "bin", "go")
}

// fixedEnv are the settings that shape the code; a later one wins over the host's.
func (tc *toolchain) fixedEnv(more ...string) []string {
	env := append(os.Environ(),
		"GOROOT="+tc.root, "GOTOOLCHAIN=local", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1",
		"GOEXPERIMENT=", "GOFLAGS=", "GOWORK=off", "GODEBUG=")
	return append(env, more...)
}

func (tc *toolchain) moduleEnv() []string {
	return tc.fixedEnv("GO111MODULE=on")
}

func (tc *toolchain) build(ctx context.Context, env []string, dir, out, pkg string) error {
	cmd := exec.CommandContext(ctx, tc.gocmd(), "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, pkg)
	cmd.Dir, cmd.Env = dir, env
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, bytes.TrimSpace(text))
	}
	return nil
}

// busybox merges the commands: gobusybox rewrites them into packages below gen, a
// GOPATH, and the result is compiled to out.
func (tc *toolchain) busybox(ctx context.Context, source, gen, out string) error {
	env := golang.Default(golang.DisableCGO(), golang.WithGOROOT(tc.root), golang.WithGO111MODULE("on"),
		golang.WithGOOS("linux"), golang.WithGOARCH("amd64"), golang.WithWorkingDir(source), golang.WithMod(golang.ModReadonly))
	opts := &bb.Opts{
		Env:          env,
		LookupEnv:    &findpkg.Env{}, // nothing from GBB_PATH or UROOT_SOURCE
		GenSrcDir:    gen,
		GenerateOnly: true,
	}
	for _, name := range merged {
		opts.CommandPaths = append(opts.CommandPaths, ModulePath+"/cmd/"+name)
	}
	if err := bb.BuildBusybox(ulog.Null, opts); err != nil {
		return fmt.Errorf("merge commands: %w", err)
	}
	main := filepath.Join(gen, "src", "bb.u-root.com", "bb")
	version := fmt.Sprintf("//go:debug default=go%s\npackage main\n", tc.lang)
	if err := os.WriteFile(filepath.Join(main, "godebug.go"), []byte(version), 0o644); err != nil {
		return err
	}
	if err := tc.build(ctx, tc.fixedEnv("GO111MODULE=off", "GOPATH="+gen), main, out, "."); err != nil {
		return err
	}
	return os.RemoveAll(gen)
}

// check reads back how a program was built.
func check(program string) error {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return err
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "DefaultGODEBUG":
			return fmt.Errorf("%s: built with run-time defaults of an older Go: %s", filepath.Base(program), s.Value)
		case s.Key == "CGO_ENABLED" && s.Value != "0", s.Key == "-trimpath" && s.Value != "true":
			return fmt.Errorf("%s: built with %s=%s", filepath.Base(program), s.Key, s.Value)
		}
	}
	return nil
}

// Module is a Go module that the programs contain.
type Module struct {
	Path    string
	Version string
	Dir     string // where its source lies on the host
}

// Modules lists the modules of which packages are linked into the box's programs,
// this one left out, and the version of the Go toolchain.
func Modules(ctx context.Context, source string) (mods []Module, goVersion string, err error) {
	tc, err := newToolchain(ctx, source)
	if err != nil {
		return nil, "", err
	}
	args := []string{"list", "-deps", "-json=Module"}
	for _, name := range Commands() {
		args = append(args, "./cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, tc.gocmd(), args...)
	cmd.Dir, cmd.Env = source, tc.moduleEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, "", fmt.Errorf("go list: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	mods, err = decodeModules(bytes.NewReader(out))
	return mods, tc.version, err
}

func decodeModules(r io.Reader) ([]Module, error) {
	var out []Module
	seen := map[string]bool{}
	for dec := json.NewDecoder(r); ; {
		var p struct {
			Module *struct {
				Path, Version, Dir string
				Main               bool
				Replace            *struct{ Path, Version, Dir string }
			}
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		if p.Module == nil || p.Module.Main || seen[p.Module.Path] {
			continue
		}
		seen[p.Module.Path] = true
		m := Module{p.Module.Path, p.Module.Version, p.Module.Dir}
		if r := p.Module.Replace; r != nil {
			m = Module{r.Path, r.Version, r.Dir}
		}
		out = append(out, m)
	}
}
