package debian

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// maxFile bounds one file of a package; the largest that we take is the kernel
// with 12 MB.
const maxFile = 1 << 30

// unpack writes a package's files to dir, unless dir exists already, and returns
// dir. The folder appears complete or not at all.
func unpack(ctx context.Context, deb, dir string) (string, error) {
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".tmp-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := extract(ctx, deb, tmp); err != nil {
		return "", err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}

func extract(ctx context.Context, deb, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = untar(root, tar.NewReader(out))
	_, _ = io.Copy(io.Discard, out)
	return errors.Join(err, cmd.Wait())
}

func untar(root *os.Root, tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		name := usrMerged(h.Name)
		if name == "." {
			continue
		}
		if err := untarOne(root, tr, h, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

func untarOne(root *os.Root, tr *tar.Reader, h *tar.Header, name string) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		return root.Link(usrMerged(h.Linkname), name)
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if h.Mode&0o111 != 0 {
			mode = 0o755
		}
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		if h.Size > maxFile {
			err = errors.New("file is too large")
		} else {
			_, err = io.Copy(f, tr)
		}
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("entry of unknown kind %q", h.Typeflag)
}

// usrMerged turns a path of a package into a clean relative one with Debian's
// top-level links (/bin, /sbin, /lib, /lib64 to /usr) followed.
func usrMerged(name string) string {
	name = strings.TrimPrefix(filepath.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	first, _, _ := strings.Cut(name, "/")
	switch first {
	case "bin", "sbin", "lib", "lib64":
		return "usr/" + name
	}
	return name
}
