// Command relayd carries mail between the tenants' mail servers and the De-Mail
// provider (internal/relay). It runs as its own user without capabilities; its
// ports and its control socket come from systemd (FileDescriptorName= smtp-25,
// smtp-465, smtp-1465 and relayd), its keys stay in keyd. SIGHUP makes it read the
// configuration anew.
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
		fmt.Fprintln(os.Stderr, "relayd:", err)
		os.Exit(1)
	}
}
