// Command vmrun shows the box at work on a developer's machine: it builds the
// image, boots it in QEMU with a De-Mail provider and two tenants, and tells
// what happens. "vmrun setup" installs what building and testing need.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, errTold) {
			fmt.Fprintln(os.Stderr, "vmrun:", err)
		}
		os.Exit(1)
	}
}
