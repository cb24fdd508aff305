package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gitlab.opencode.de/pforte/pforte/internal/config"
)

// WriteSockets replaces the socket units in dir (layout.SystemdRunDir) by those
// that doc asks for. Files of other names are left alone. The caller makes
// systemd read them: init by starting it, updated by a daemon-reload.
func WriteSockets(dir string, doc *config.Document) error {
	files, wants := Sockets(doc)
	wantsDir := filepath.Join(dir, "sockets.target.wants")
	if err := os.MkdirAll(wantsDir, 0o755); err != nil {
		return fmt.Errorf("units: %w", err)
	}
	for _, l := range listeners(doc) {
		name := l.name + ".socket"
		for _, p := range []string{filepath.Join(wantsDir, name), filepath.Join(dir, name)} {
			if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("units: %w", err)
			}
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("units: %w", err)
		}
	}
	for _, name := range wants {
		if err := os.Symlink("../"+name, filepath.Join(wantsDir, name)); err != nil {
			return fmt.Errorf("units: %w", err)
		}
	}
	return nil
}
