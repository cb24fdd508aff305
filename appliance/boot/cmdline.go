package boot

import (
	"fmt"
	"os"
	"strings"
)

// maxCmdline is more than any kernel takes, in bytes.
const maxCmdline = 64 << 10

// checkCmdline compares the kernel's command line with the signed one. They
// can differ although Secure Boot is on: systemd-stub appends what it finds in
// SMBIOS ("io.systemd.stub.kernel-cmdline-extra"), which whoever runs the
// machine may write, and systemd would obey it. Such a boot ends here.
func checkCmdline(signedPath, bootedPath string) error {
	signed, err := readBounded(signedPath, maxCmdline)
	if err != nil {
		return fmt.Errorf("signed command line: %w", err)
	}
	booted, err := os.ReadFile(bootedPath) // the kernel's own file has no size
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	if want, got := strings.TrimSpace(string(signed)), strings.TrimSpace(string(booted)); got != want {
		return fmt.Errorf("the kernel command line is not the signed one; somebody added %q", added(want, got))
	}
	return nil
}

// added is what got has beyond want, for the message.
func added(want, got string) string {
	if rest, ok := strings.CutPrefix(got, want); ok {
		return strings.TrimSpace(rest)
	}
	return got
}
