// Command pforte is the operator's command: noun, then verb.
//
//	pforte config check FILE
//	pforte config sign FILE --key KEY -o OUT
//
// `pforte help` lists the nouns, and `pforte NOUN VERB --help` has an example.
// Exit codes: 0 done, 1 refused or failed, 2 wrong use.
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
	defer stop()
	code, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pforte:", err)
	}
	os.Exit(code)
}
