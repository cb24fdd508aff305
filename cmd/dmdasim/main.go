// Command dmdasim is a simulated De-Mail provider for a developer's desk: the
// provider of internal/dmda/dmdatest on a port of this machine.
//
//	dmdasim serve                     takes mail on 127.0.0.1:1465, tells what arrives, and with
//	                                  --gateway sends confirmations and notifications back
//	dmdasim issue --csr FILE          answers a gateway's certificate request
//	dmdasim push --gateway HOST:PORT  sends a De-Mail to a gateway
//
// The provider's authority and keys lie in a folder (--dir), are made at first use
// and stay. They are software keys for play; nothing of this goes on a box.
//
// Exit codes: 0 done, 1 failed, 2 wrong use, 3 the gateway refused what was pushed.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code, err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dmdasim:", err)
	}
	os.Exit(code)
}
