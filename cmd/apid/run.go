package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"gitlab.opencode.de/pforte/pforte/appliance/apid"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/service"
)

// maxSeed bounds the configuration of a locked box, in bytes.
const maxSeed = 2 * config.MaxSize

// run starts the service and returns when ctx ends.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("apid", flag.ContinueOnError)
	bootFile := flags.String("boot", layout.BootReport, "init's report of this boot, a `file`")
	state := flags.String("state", filepath.Join(layout.StateDir, "apid"), "state `folder`")
	owner := flags.String("owner", layout.OwnerKey, "the owner's public key, a `file`")
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
	log := service.NewLogger(os.Stderr)
	s, err := apid.New(apid.Options{
		HTTPS:      sockets["apid-https"],
		Local:      local,
		Config:     func() (*config.Document, error) { return configuration(*owner, boot.Locked != nil) },
		Boot:       boot,
		AuditDir:   filepath.Join(*state, "audit"),
		Log:        log,
		Milestones: os.Stdout,
	})
	if err != nil {
		return err
	}
	return service.Run(ctx, service.Watchdog(s.Healthy), s.Run,
		func(ctx context.Context) error { return reloads(ctx, s, log) })
}

// readReport reads init's report. Without one apid does not know whether the box
// is locked, and must not guess.
func readReport(name string) (report.Report, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return report.Report{}, fmt.Errorf("read init's report: %w", err)
	}
	return report.Parse(data)
}

// configuration opens what is in force: the accepted configuration, or on a
// locked box the one that init took from the seed volume.
func configuration(ownerFile string, locked bool) (*config.Document, error) {
	owner, err := config.LoadOwnerKey(ownerFile)
	if err != nil {
		return nil, err
	}
	if !locked {
		return config.NewStore(layout.ConfigDir, owner).Current()
	}
	f, err := os.Open(layout.LockedConfig)
	if errors.Is(err, os.ErrNotExist) {
		return nil, config.ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("read the seed's configuration: %w", err)
	}
	defer f.Close()
	envelope, err := io.ReadAll(io.LimitReader(f, maxSeed))
	if err != nil {
		return nil, fmt.Errorf("read the seed's configuration: %w", err)
	}
	return config.Open(envelope, owner)
}

// reloads reads the configuration again at each SIGHUP.
func reloads(ctx context.Context, s *apid.Service, log *slog.Logger) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		if err := s.Reload(); err != nil {
			log.Error("configuration is not read again; the old one stays in force", "error", err)
			continue
		}
		log.Info("configuration read again")
	}
}
