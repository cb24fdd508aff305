package main

import (
	"context"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/config/configcmd"
)

// Exit codes of the command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// run carries out one command line and gives its exit code and error.
func run(ctx context.Context, args []string) (int, error) {
	root := &cobra.Command{
		Use:           "pforte",
		Short:         "look after De-Mail gateways",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(configcmd.Command())
	begun := false
	mark(root, &begun)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitDone, nil
	case !begun:
		return exitUsage, err
	}
	return exitFailed, err
}

// mark notes when a command's own work begins: whatever fails before that is
// wrong use.
func mark(c *cobra.Command, begun *bool) {
	if work := c.RunE; work != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*begun = true
			return work(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		mark(sub, begun)
	}
}
