package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Release is the Debian release that the box is made of.
const Release = "trixie"

// Keyring holds Debian's archive keys; package debian-archive-keyring brings it
// on every Debian and, where wanted, on Ubuntu.
const Keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// maxListAge is how old the package lists may be before they are fetched again.
const maxListAge = 6 * time.Hour

// apt is a private apt root: own lists, own cache, no packages installed. Of the
// host's configuration only what concerns the transport remains (proxy, time-outs).
type apt struct {
	dir  string
	conf string
}

// openApt writes the configuration of the private root into dir.
func openApt(dir string, m Mirror) (*apt, error) {
	if strings.ContainsAny(dir, "\"\n;") {
		return nil, fmt.Errorf("apt cannot work in folder %q; choose another with -cache", dir)
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(Keyring); err != nil {
		return nil, fmt.Errorf("no Debian archive keys: %w; install the package debian-archive-keyring", err)
	}
	a := &apt{dir: dir, conf: filepath.Join(dir, "etc", "apt.conf")}
	files := map[string]string{
		"etc/apt.conf":       a.config(),
		"etc/debian.sources": sourcesFile(m),
		"state/status":       "",
	}
	for name, text := range files {
		if err := writeIfChanged(filepath.Join(dir, name), text); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *apt) config() string {
	return fmt.Sprintf(`#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/state/status";
Dir::State::extended_states "%[1]s/state/extended_states";
Dir::Cache "%[1]s/cache";
Dir::Etc::sourcelist "%[1]s/etc/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
`, a.dir)
}

func sourcesFile(m Mirror) string {
	return fmt.Sprintf(`Types: deb
URIs: %[1]s
Suites: %[3]s %[3]s-updates
Components: main
Signed-By: %[4]s

Types: deb
URIs: %[2]s
Suites: %[3]s-security
Components: main
Signed-By: %[4]s
`, m.Archive, m.Security, Release, Keyring)
}

// writeIfChanged keeps the file's time when its text is the same.
func writeIfChanged(path, text string) error {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == text {
		return nil
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// update fetches the package lists, unless they are young and of the same mirror.
func (a *apt) update(ctx context.Context, force bool) error {
	stamp := filepath.Join(a.dir, "state", "updated")
	sources := filepath.Join(a.dir, "etc", "debian.sources")
	if s, err := os.Stat(stamp); err == nil && !force {
		if c, err := os.Stat(sources); err == nil && c.ModTime().Before(s.ModTime()) && time.Since(s.ModTime()) < maxListAge {
			return nil
		}
	}
	if _, err := a.run(ctx, a.dir, "apt-get", "update"); err != nil {
		return err
	}
	return os.WriteFile(stamp, nil, 0o644)
}

// run starts one of apt's commands in folder dir and returns what it printed.
func (a *apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, append([]string{"-q", "-c", a.conf}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%s is missing; the image is built from Debian packages, so the host must have apt: %w", name, err)
		}
		return nil, fmt.Errorf("%s %s: %w: %s", name, args[0], err, lastLines(stderr.String(), 8))
	}
	return stdout.Bytes(), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// record is what the package lists say of one version of a package.
type record struct {
	name, version, sha256, source, depends string
}

// show lists the known versions of packages, the newest (apt's candidate) first.
func (a *apt) show(ctx context.Context, names []string) (map[string][]record, error) {
	out, err := a.run(ctx, a.dir, "apt-cache", append([]string{"show"}, names...)...)
	if err != nil {
		return nil, err
	}
	return parseRecords(bytes.NewReader(out))
}

func parseRecords(r io.Reader) (map[string][]record, error) {
	stanzas, err := parseStanzas(r)
	if err != nil {
		return nil, err
	}
	known := map[string][]record{}
	for _, s := range stanzas {
		source, _, _ := strings.Cut(s["source"], " ")
		if source == "" {
			source = s["package"]
		}
		known[s["package"]] = append(known[s["package"]], record{s["package"], s["version"], s["sha256"], source, s["depends"]})
	}
	return known, nil
}

// download fetches exactly these versions into folder dir.
func (a *apt) download(ctx context.Context, dir string, entries []Entry) error {
	args := []string{"download"}
	for _, e := range entries {
		args = append(args, e.Name+"="+e.Version)
	}
	_, err := a.run(ctx, dir, "apt-get", args...)
	return err
}
