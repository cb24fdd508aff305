package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrMissing: a package cannot be had on this host.
var ErrMissing = errors.New("a Debian package is missing")

// stamp is the file that says that a layer is whole, and of what it is made.
const stamp = ".packages"

// Layer is a Debian package unpacked with what it needs beyond the host.
type Layer struct {
	Package string
	Root    string   // folder with usr, etc and var
	Content []string // "name version", the package itself first
}

// Version is the version of the package itself.
func (l *Layer) Version() string {
	_, v, _ := strings.Cut(l.Content[0], " ")
	return v
}

// Fetch brings a package into the cache folder. The second call of its life
// costs nothing; delete the folder to get newer versions.
func Fetch(ctx context.Context, name string) (*Layer, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	cache := filepath.Join(base, "pforte", "peers")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return nil, fmt.Errorf("peers: %w", err)
	}
	defer unlock()
	l := &Layer{Package: name, Root: filepath.Join(cache, name)}
	if text, err := os.ReadFile(filepath.Join(l.Root, stamp)); err == nil {
		l.Content = strings.Split(strings.TrimSpace(string(text)), "\n")
		return l, nil
	}
	if err := l.make(ctx); err != nil {
		return nil, fmt.Errorf("%w: %s: %w; apt-get must be able to download it (apt-get update; a Debian mirror)", ErrMissing, name, err)
	}
	return l, nil
}

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// make downloads and unpacks.
func (l *Layer) make(ctx context.Context) error {
	work, err := os.MkdirTemp(filepath.Dir(l.Root), ".tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	debs, root := filepath.Join(work, "debs"), filepath.Join(work, "root")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	if err := merged(root); err != nil {
		return err
	}
	if l.Content, err = needed(ctx, l.Package); err != nil {
		return err
	}
	args := []string{"-q", "download"}
	for _, c := range l.Content {
		args = append(args, strings.ReplaceAll(c, " ", "="))
	}
	if _, err := output(ctx, debs, "apt-get", args...); err != nil {
		return err
	}
	all, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(all) != len(l.Content) {
		return fmt.Errorf("apt-get brought %d packages, want %d (%w)", len(all), len(l.Content), err)
	}
	for _, deb := range all {
		// tar follows the links of a merged /usr; dpkg-deb --extract would replace them.
		if _, err := output(ctx, root, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -f -`, "sh", deb); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(root, stamp), []byte(strings.Join(l.Content, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if err := os.RemoveAll(l.Root); err != nil {
		return err
	}
	return os.Rename(root, l.Root)
}

// merged makes the frame of a file system with merged /usr.
func merged(root string) error {
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "var"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+d, filepath.Join(root, d)); err != nil {
			return err
		}
	}
	return nil
}

// needed asks apt what an installation would bring: the package, and what it
// needs and the host has not.
func needed(ctx context.Context, name string) ([]string, error) {
	out, err := output(ctx, "/", "apt-cache", "--no-all-versions", "show", name)
	if err != nil {
		return nil, err
	}
	version := ""
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "Version: "); ok && version == "" {
			version = strings.TrimSpace(v)
		}
	}
	if version == "" {
		return nil, fmt.Errorf("apt knows no package %s", name)
	}
	content := []string{name + " " + version}
	if out, err = output(ctx, "/", "apt-get", "-s", "--no-install-recommends", "install", name); err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) { // Inst name [installed] (version origin [arch])
		rest, ok := strings.CutPrefix(line, "Inst ")
		if !ok {
			continue
		}
		n, rest, _ := strings.Cut(rest, " ")
		_, rest, _ = strings.Cut(rest, "(")
		v, _, _ := strings.Cut(rest, " ")
		if n != name && v != "" {
			content = append(content, n+" "+v)
		}
	}
	return content, nil
}

// output runs a program and returns what it printed.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, lastLines(stderr.String(), 4))
	}
	return stdout.String(), nil
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
