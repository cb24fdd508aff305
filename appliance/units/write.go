package units

import (
	"errors"
	"fmt"
	"io"
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

// maxUnit bounds a unit file that ReadSockets reads, in bytes.
const maxUnit = 64 << 10

// ReadSockets returns the socket units that WriteSockets left in dir, by file name.
func ReadSockets(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name := range DynamicSockets() {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("units: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(f, maxUnit))
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("units: %w", err)
		}
		files[name] = data
	}
	return files, nil
}

// DynamicSockets are the names of all socket units that a configuration can ask
// for, each with the service that it belongs to.
func DynamicSockets() map[string]string {
	out := map[string]string{}
	for _, l := range listeners(&config.Document{}) {
		out[l.name+".socket"] = l.service
	}
	return out
}
