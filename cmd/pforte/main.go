// Command pforte is the operator's command: noun, then verb.
//
//	pforte status --box pforte-1.example:8443
//	pforte config check FILE
//
// `pforte help` lists the nouns, and `pforte NOUN VERB --help` has an example.
// Everything else is in package internal/operator.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"gitlab.opencode.de/pforte/pforte/internal/operator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(operator.Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
