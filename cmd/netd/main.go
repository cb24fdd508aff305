// Command netd keeps the box's network and packet filter as the configuration
// says (appliance/netd). It runs as its own user with CAP_NET_ADMIN and no other
// power; its control socket comes from systemd (FileDescriptorName=netd). SIGHUP
// makes it read the configuration anew.
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
		fmt.Fprintln(os.Stderr, "netd:", err)
		os.Exit(1)
	}
}
