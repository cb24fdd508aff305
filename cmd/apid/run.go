package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("apid", flag.ContinueOnError)
	bootFile := flags.String("boot", layout.BootReport, "init's report of this boot, a `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; apid takes flags only", flags.Arg(0))
	}
	sockets, err := service.Sockets()
	if err != nil {
		return err
	}
	defer sockets.Close()
	local, err := sockets.One("apid")
	if err != nil {
		return err
	}
	boot, err := readReport(*bootFile)
	if err != nil {
		return err
	}
	s, err := apid.New(apid.Options{
		HTTPS:      sockets["apid-https"],
		Local:      local,
		Boot:       boot,
		Log:        service.NewLogger(os.Stderr),
		Milestones: os.Stdout,
	})
	if err != nil {
		return err
	}
	return service.Run(ctx, service.Watchdog(func(context.Context) error { return nil }), s.Run)
}

func readReport(name string) (report.Report, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return report.Report{}, err
	}
	return report.Parse(data)
}
