package vm

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// copyMissing copies src to dst unless dst exists.
func copyMissing(dst, src string) error {
	if _, err := os.Stat(dst); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return copyFile(dst, src)
}

// copyFile copies src to dst, making its folder.
func copyFile(dst, src string) (err error) {
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
