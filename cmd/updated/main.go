// Command updated keeps the box's releases and its configuration (package
// appliance/update): it alone writes the EFI system partition, the firmware's
// boot entries and the accepted configuration, and asks systemd to restart what
// a new configuration concerns. It gets its control socket from systemd
// (FileDescriptorName=updated).
package main

import (
	"fmt"
	"os"

	"gitlab.opencode.de/pforte/pforte/internal/service"
)

func main() {
	ctx, stop := service.Context()
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "updated:", err)
		os.Exit(1)
	}
}
