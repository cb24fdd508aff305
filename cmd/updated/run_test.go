package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/firmware"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// TestRefusals: updated does not start on half of what it needs.
func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"no sockets":       {nil, "FileDescriptorName=updated"},
		"unknown flag":     {[]string{"-listen", ":1"}, "flag provided but not defined"},
		"unknown argument": {[]string{"start"}, "takes flags only"},
		"gate too short":   {[]string{"-gate", "1s"}, "-gate 1s: allowed are 20s to 4m0s"},
		"gate too long":    {[]string{"-gate", "1h"}, "-gate 1h0m0s: allowed are 20s to 4m0s"},
	} {
		if err := run(t.Context(), tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// TestNetworkThatIsNotUpYet does not fail a configuration; a netd that is not
// there does.
func TestNetworkThatIsNotUpYet(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	me := localapi.Peer{UID: 7}
	server, err := localapi.NewServer([]localapi.Method{{Name: methodReload, Allow: []localapi.Caller{localapi.UID(me.UID)},
		Handler: localapi.Typed(func(context.Context, localapi.Peer, localapi.None) (localapi.None, error) {
			return localapi.None{}, errors.New("link t0 is missing")
		})}}, localapi.Options{PeerOf: func(net.Conn) (localapi.Peer, error) { return me, nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- server.Run(ctx, listener) }()
	answered := reload(localapi.Dial(socket), "netd.service")
	if err := answered(ctx); err == nil || !strings.Contains(err.Error(), "link t0 is missing") {
		t.Errorf("%v", err)
	}
	if err := untilNetdManages(answered, slog.New(slog.DiscardHandler))(ctx); err != nil {
		t.Errorf("%v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	silent := func(context.Context) error { return errors.New("systemd: restart netd.service: job failed") }
	if err := untilNetdManages(silent, slog.New(slog.DiscardHandler))(t.Context()); err == nil {
		t.Error("a netd that cannot be restarted passed")
	}
}

// TestNoFirmwareVariables: each use fails with the reason, reading finds nothing.
func TestNoFirmwareVariables(t *testing.T) {
	why := errors.New("varfs not available")
	v := noVars{why}
	if order, err := firmware.BootOrder(v); err != nil || len(order) != 0 {
		t.Errorf("%v, %v", order, err)
	}
	if _, _, err := v.Get(firmware.Global("BootNext")); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	if err := v.Set(firmware.Global("BootNext"), 7, nil); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

func TestLockedBoxRunsNoRelay(t *testing.T) {
	if configured(report.Report{Locked: &report.Fault{}})() {
		t.Error("a locked box is to carry mail")
	}
}
