package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/appliance/console"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// run shows the page until ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("console", flag.ContinueOnError)
	socket := flags.String("apid", layout.ApidSocket, "apid's local `socket`")
	boot := flags.String("boot", layout.BootReport, "init's report of this boot, a `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; console takes flags only", flags.Arg(0))
	}
	apid := localapi.Dial(*socket)
	screen := console.Screen{
		Out: os.Stdout,
		Ask: func(ctx context.Context) (manage.Status, error) {
			var s manage.Status
			err := apid.Call(ctx, manage.MethodStatus, nil, &s)
			return s, err
		},
		Boot: readBoot(*boot),
		Log:  service.NewLogger(os.Stderr),
	}
	return screen.Run(ctx)
}

// readBoot is what init reported; nothing, if that cannot be read.
func readBoot(name string) manage.Status {
	data, err := os.ReadFile(name)
	if err != nil {
		return manage.Status{}
	}
	r, err := report.Parse(data)
	if err != nil {
		return manage.Status{}
	}
	return console.FromReport(r)
}
