package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"gitlab.opencode.de/pforte/pforte/appliance/firewall"
	"gitlab.opencode.de/pforte/pforte/appliance/netconf"
	"gitlab.opencode.de/pforte/pforte/appliance/netd"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	source := netd.DefaultSource()
	flags := flag.NewFlagSet("netd", flag.ContinueOnError)
	flags.StringVar(&source.ConfigDir, "config", source.ConfigDir, "`folder` of the accepted configuration")
	flags.StringVar(&source.OwnerKey, "key", source.OwnerKey, "the owner's public key, a PEM `file`")
	resolver := flags.String("resolver", layout.ResolvConf, "list of name servers, a `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; netd takes flags only", flags.Arg(0))
	}
	sockets, err := service.Sockets()
	if err != nil {
		return err
	}
	defer sockets.Close()
	control, err := sockets.One("netd")
	if err != nil {
		return err
	}
	kernel, err := netconf.Open()
	if err != nil {
		return err
	}
	defer kernel.Close()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	d := netd.New(netd.Options{
		Load:       source.Load,
		Network:    kernel,
		Filter:     firewall.Apply,
		Watch:      netconf.Watch,
		Resolver:   *resolver,
		Control:    control,
		Reload:     reload,
		Log:        service.NewLogger(os.Stderr),
		Milestones: os.Stdout,
	})
	return service.Run(ctx, service.Watchdog(d.Healthy), d.Run)
}
