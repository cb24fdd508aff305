package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
)

// world is what every subcommand shares.
type world struct {
	dir    string
	domain string
	hosts  []string
	token  string
	begun  bool // a subcommand's own work has begun: what failed before was wrong use
}

// Exit codes of the command.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

// run carries out the command line and gives the exit code.
func run(ctx context.Context, args []string, out io.Writer) (int, error) {
	w := &world{}
	root := w.rootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	err := root.ExecuteContext(ctx)
	var refused *dmdatest.Refusal
	switch {
	case err == nil:
		return exitDone, nil
	case errors.As(err, &refused):
		return exitRefused, err
	case !w.begun:
		return exitUsage, err
	}
	return exitFailed, err
}

func (w *world) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "dmdasim",
		Short:         "A simulated De-Mail provider",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	f := root.PersistentFlags()
	f.StringVar(&w.dir, "dir", "", "folder of the provider's keys (default: dmdasim in the user's cache folder)")
	f.StringVar(&w.domain, "domain", "provider.de-mail.example", "the provider's own De-Mail domain")
	f.StringSliceVar(&w.hosts, "host", []string{"localhost", "127.0.0.1", "::1"}, "more names of the server, for its certificate when the keys are made")
	f.StringVar(&w.token, "token", "gateway", "name of the gateway's token, in its client certificate")
	root.AddCommand(w.serveCommand(), w.issueCommand(), w.pushCommand())
	return root
}

// work notes that the command line was right, then does do.
func (w *world) work(do func(ctx context.Context, out io.Writer) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		w.begun = true
		return do(c.Context(), c.OutOrStdout())
	}
}

// tokenFile is the name of the files with the token's certificate and key.
func (w *world) tokenFile() string { return "token-" + w.token }

// pki loads or makes the provider's keys.
func (w *world) pki(out io.Writer) (*dmdatest.PKI, error) {
	if w.token == "" || strings.ContainsAny(w.token, "/\\") {
		return nil, fmt.Errorf("token %q: not a name; choose another with --token", w.token)
	}
	if w.dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find the cache folder: %w; name a folder with --dir", err)
		}
		w.dir = filepath.Join(cache, "pforte", "dmdasim")
	}
	dir, err := filepath.Abs(w.dir)
	if err != nil {
		return nil, fmt.Errorf("find the folder of keys: %w", err)
	}
	w.dir = dir
	pki, isNew, err := dmdatest.LoadOrNewPKI(dir, dmdatest.PKIOptions{Hosts: append([]string{w.domain}, w.hosts...)})
	if err == nil && isNew {
		fmt.Fprintf(out, "made the provider's authority and keys in %s\n", dir)
	}
	return pki, err
}
