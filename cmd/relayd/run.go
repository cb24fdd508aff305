package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/hsm/keyclient"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/relay/daemon"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("relayd", flag.ContinueOnError)
	state := flags.String("state", filepath.Join(layout.StateDir, "relayd"), "state `folder`")
	settings := flags.String("config", layout.ConfigDir, "`folder` of the accepted configuration")
	owner := flags.String("owner", layout.OwnerKey, "owner's public key, a PEM `file`")
	keyd := flags.String("keyd", layout.KeydSignSocket, "signer `socket`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; relayd takes flags only", flags.Arg(0))
	}
	key, err := config.LoadOwnerKey(*owner)
	if err != nil {
		return err
	}
	options, err := sockets()
	if err != nil {
		return err
	}
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	keys := keyclient.New(*keyd)
	options.Config = config.NewStore(*settings, key).Current
	options.Dir = *state
	options.ServerCertificate = keys.Source(hsm.TenantServer).Get
	options.ClientCertificate = keys.Source(hsm.ProviderClient).Get
	options.Reload = reload
	options.Ready, options.Status = service.Ready, service.Status
	options.Log, options.Marks = service.NewLogger(os.Stderr), os.Stdout
	d, err := daemon.New(options)
	if err != nil {
		return err
	}
	return service.Run(ctx, service.Watchdog(d.Healthy), d.Run)
}

// sockets takes over what systemd opened. A port that the configuration does not
// use has no socket; without any there is nothing to do.
func sockets() (daemon.Options, error) {
	set, err := service.Sockets()
	if err != nil {
		return daemon.Options{}, err
	}
	o := daemon.Options{StartTLS: set["smtp-25"], Implicit: set["smtp-465"], Provider: set["smtp-1465"]}
	if o.Control, err = set.One("relayd"); err != nil {
		return o, err
	}
	if len(o.StartTLS)+len(o.Implicit)+len(o.Provider) == 0 {
		return o, fmt.Errorf("no SMTP socket came from systemd: the socket units smtp-25, smtp-465 and smtp-1465 must name this service")
	}
	return o, nil
}
