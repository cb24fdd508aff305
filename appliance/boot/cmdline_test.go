package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckCmdline(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	signed := write("signed", "console=tty0 quiet")
	tests := []struct{ name, booted, want string }{
		{"same", "console=tty0 quiet\n", ""},
		{"appended", "console=tty0 quiet systemd.unit=rescue.target\n", `"systemd.unit=rescue.target"`},
		{"replaced", "init=/bin/sh\n", `"init=/bin/sh"`},
		{"shortened", "console=tty0\n", "not the signed one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := checkCmdline(signed, write("booted", tt.booted))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("checkCmdline = %v, want %q", err, tt.want)
			}
		})
	}
	if err := checkCmdline(filepath.Join(dir, "none"), signed); err == nil {
		t.Error("an image without its signed command line was accepted")
	}
}
