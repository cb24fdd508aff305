// Command apid is the box's management API: HTTPS with client certificates on
// the management network, and the console's local socket. It gets its listeners
// from systemd (FileDescriptorName= apid and apid-https).
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
		fmt.Fprintln(os.Stderr, "apid:", err)
		os.Exit(1)
	}
}
