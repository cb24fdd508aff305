package e2e

import (
	"context"
	"fmt"

	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// Teller is told how a story goes on: a heading in a few words, then details.
type Teller func(heading, format string, args ...any)

// silent tells nobody.
func silent(string, string, ...any) {}

// Provision brings a factory-new machine into service, the way a technician
// and the owner do: power on with the seed volume plugged in, keys enrolled,
// data volume made, network up, keys certified, relay ready.
func (w *World) Provision(ctx context.Context, m *vm.Machine, tell Teller) (*Box, error) {
	if tell == nil {
		tell = silent
	}
	if err := m.Start(w.ctx); err != nil { // it runs as long as the world, not as this waits
		return nil, err
	}
	serial := m.Serial()
	enrolled, err := serial.Wait(ctx, "boot.enrolled", nil)
	if err != nil {
		return nil, err
	}
	tell("firmware", "in setup mode: our Secure Boot keys are enrolled (%.1f s after power-on), the box restarts", enrolled.At.Seconds())
	secure, err := serial.Wait(ctx, "boot.secureboot", func(k vm.Mark) bool { return k.Fields["on"] == "true" })
	if err != nil {
		return nil, err
	}
	tell("firmware verified", "Secure Boot is on, the kernel's lockdown is %s", secure.Fields["lockdown"])
	unlocked, err := serial.Wait(ctx, "boot.unlocked", nil)
	if err != nil {
		return nil, err
	}
	tell("data volume unlocked", "by the %s, formatted and sealed at this first boot", unlocked.Fields["by"])
	if _, err := serial.Wait(ctx, "boot.seed", func(k vm.Mark) bool { return k.Fields["verdict"] == "accepted" }); err != nil {
		return nil, err
	}
	up, err := serial.Wait(ctx, "netd.up", nil)
	if err != nil {
		return nil, err
	}
	tell("network up", "%s interfaces, configuration %s from the owner's seed volume", up.Fields["interfaces"], up.Fields["serial"])
	keys, err := serial.Wait(ctx, "keyd.ready", nil)
	if err != nil {
		return nil, err
	}
	if keys.Fields["keys"] == "0" {
		return nil, fmt.Errorf("keyd has no keys: %s", keys.Fields["why"])
	}
	box, err := w.Attach(ctx, m)
	if err != nil {
		return nil, err
	}
	tell("keys in the TPM", "%s of them; the management key is %s", keys.Fields["keys"], box.Key)
	if err := box.Certify(ctx); err != nil {
		return nil, err
	}
	tell("certificates issued", "provider-client by the De-Mail provider, tenant-server and management-server by the owner")
	if _, err := serial.Wait(ctx, "relayd.ready", nil); err != nil {
		return nil, err
	}
	tell("relay ready", "")
	return box, nil
}
