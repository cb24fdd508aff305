package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gitlab.opencode.de/pforte/pforte/hsm/keyd"
	"gitlab.opencode.de/pforte/pforte/hsm/tpm"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("keyd", flag.ContinueOnError)
	device := flags.String("tpm", tpm.DefaultDevice, "TPM 2.0 `device`")
	state := flags.String("state", filepath.Join(layout.StateDir, "keyd"), "state `folder`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; keyd takes flags only", flags.Arg(0))
	}
	sockets, err := service.Sockets()
	if err != nil {
		return err
	}
	defer sockets.Close()
	signer, err := sockets.One("keyd-sign")
	if err != nil {
		return err
	}
	control, err := sockets.One("keyd-control")
	if err != nil {
		return err
	}
	locked, err := exists(layout.LockedMark)
	if err != nil {
		return err
	}
	s, err := keyd.New(keyd.Options{
		Open:       func(ctx context.Context) (keyd.Keys, error) { return open(ctx, *device, *state) },
		Dir:        *state,
		Locked:     locked,
		Log:        service.NewLogger(os.Stderr),
		Milestones: os.Stdout,
	})
	if err != nil {
		return err
	}
	return service.Run(ctx,
		service.Watchdog(s.Healthy),
		func(ctx context.Context) error { return s.Run(ctx, signer, control) },
	)
}

// open opens the TPM's keys. The device stays open as long as the process lives.
func open(ctx context.Context, device, state string) (keyd.Keys, error) {
	dev, err := tpm.OpenDevice(device)
	if err != nil {
		return nil, err
	}
	keys, err := tpm.Open(ctx, dev, filepath.Join(state, "tpm"))
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	return keys, nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
