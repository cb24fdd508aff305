// Command keyd holds the private keys of the box: it alone opens the TPM, and
// signs for those whom hsm/keyd allows. It is a binary of its own, so that
// nothing else is linked to the keys, and gets its two sockets from systemd
// (FileDescriptorName= keyd-sign and keyd-control).
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
		fmt.Fprintln(os.Stderr, "keyd:", err)
		os.Exit(1)
	}
}
