package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"gitlab.opencode.de/pforte/pforte/qemu/e2e"
	"gitlab.opencode.de/pforte/pforte/qemu/host"
)

// errTold is an error that the story has printed already.
var errTold = errors.New("the story failed")

// run is setup, or the story: to its end with ONCE=1 or without a terminal at
// standard input, else until Ctrl-C.
func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "setup":
		return host.Setup(ctx, os.Stderr)
	case len(args) > 0:
		return fmt.Errorf("unknown argument %q; there is only setup", args[0])
	}
	story := e2e.Story{Out: "build", Print: os.Stdout, Stay: os.Getenv("ONCE") != "1" && terminal(os.Stdin)}
	if err := story.Run(ctx); err != nil {
		return errTold
	}
	return nil
}

// terminal reports whether a person can press Ctrl-C.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && !isNull(f)
}

// isNull recognises /dev/null, which is a character device, too.
func isNull(f *os.File) bool {
	null, err := os.Stat(os.DevNull)
	if err != nil {
		return false
	}
	info, err := f.Stat()
	return err == nil && os.SameFile(null, info)
}
