package boot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	// maxOutput bounds what is kept of a program's output, in bytes.
	maxOutput = 4 << 10
	// killWait is how long a program may take to die after its time is up.
	killWait = 5 * time.Second
)

// programs runs programs of the root image, one at a time, and keeps the
// watchdog quiet meanwhile. It is a volume.Tools.
type programs struct {
	watchdog *watchdog
}

// Run runs a program by its absolute path. Its environment is fixed: no locale,
// and device-mapper does not wait for udev, which the box does not have. The
// error of a program that fails is an *exec.ExitError with the end of its output.
func (p programs) Run(ctx context.Context, stdin []byte, program string, args ...string) error {
	stop := p.watchdog.during()
	defer stop()
	var output tail
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"LANG=C", "DM_DISABLE_UDEV=1", "PATH=/usr/sbin:/usr/bin"}
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout = &output
	cmd.Stderr = &output
	cmd.WaitDelay = killWait
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("%s %s: %w (%v)", filepath.Base(program), first(args), context.Cause(ctx), err)
		}
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(program), first(args), err, output.text())
	}
	return nil
}

// Sync returns when everything written to a device is on its medium.
func (p programs) Sync(device string) error {
	stop := p.watchdog.during()
	defer stop()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// tail keeps the last maxOutput bytes written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if n := len(t.kept); n > maxOutput {
		t.kept = append(t.kept[:0], t.kept[n-maxOutput:]...)
	}
	return len(p), nil
}

// text is what was kept, in one line.
func (t *tail) text() string {
	return strings.Join(strings.Fields(string(t.kept)), " ")
}
