package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/dmda/dmdatest"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
	"gitlab.opencode.de/pforte/pforte/internal/manage"
	"gitlab.opencode.de/pforte/pforte/internal/operator"
	"gitlab.opencode.de/pforte/pforte/qemu/vm"
)

// Box is a running machine as the world sees it: its serial line, and its
// management API at a forwarded port of localhost.
type Box struct {
	World   *World
	Machine *vm.Machine
	API     string // host:port on localhost
	Key     string // fingerprint of the management key, as the console showed it
}

// Boot starts a machine and waits until its management answers; ctx bounds the
// waiting only, the machine runs until it goes off, is cut, or the world ends.
func (w *World) Boot(ctx context.Context, m *vm.Machine) (*Box, error) {
	if err := m.Start(w.ctx); err != nil {
		return nil, err
	}
	return w.Attach(ctx, m)
}

// Attach waits until the management of a machine that was started answers.
func (w *World) Attach(ctx context.Context, m *vm.Machine) (*Box, error) {
	ready, err := m.Serial().Wait(ctx, "apid.ready", nil)
	if err != nil {
		return nil, err
	}
	api, err := w.Forward(w.ManagementNet, adminHost(), netip.AddrPortFrom(boxManagement(), layout.PortManagement))
	if err != nil {
		return nil, err
	}
	return &Box{World: w, Machine: m, API: api, Key: ready.Fields["key"]}, nil
}

// Refusal is a pforte command that did not end with exit code 0.
type Refusal struct {
	Args []string
	Code int
	Text string // standard error
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("pforte %s: exit code %d: %s", strings.Join(r.Args, " "), r.Code, strings.TrimSpace(r.Text))
}

// Pforte runs the operator's command against the box with the certificate of a
// role ("owner", "hosting", "monitor") and returns its standard output.
func (b *Box) Pforte(ctx context.Context, role string, args ...string) (string, error) {
	w := b.World
	all := append([]string{
		"--box", b.API, "--box-key", b.Key,
		"--cert", w.path(role + ".pem"), "--key", w.path(role + ".key"),
	}, args...)
	var out, errOut bytes.Buffer
	if code := operator.Run(ctx, all, &out, &errOut); code != operator.ExitDone {
		return out.String(), &Refusal{args, code, errOut.String()}
	}
	return out.String(), nil
}

// Status asks the box for its state.
func (b *Box) Status(ctx context.Context) (s manage.Status, err error) {
	out, err := b.Pforte(ctx, "monitor", "status", "--json")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("e2e: pforte status --json: %w", err)
	}
	return s, nil
}

// Certify has every key of the box certified: provider-client by the De-Mail
// provider, the others by the owner's authority.
func (b *Box) Certify(ctx context.Context) error {
	for _, purpose := range hsm.Purposes() {
		request := b.World.path(string(purpose) + ".csr")
		args := []string{"key", "csr", string(purpose), "--cn", boxName, "--dns", boxName, "-o", request}
		if _, err := b.Pforte(ctx, "owner", args...); err != nil {
			return err
		}
		csr, err := os.ReadFile(request)
		if err != nil {
			return err
		}
		var chain []byte
		if purpose == hsm.ProviderClient {
			chain, err = b.World.PKI.IssueFromCSR(csr, boxName)
		} else {
			chain, err = b.World.auth.owner.SignRequest(csr)
		}
		if err != nil {
			return err
		}
		file := b.World.path(string(purpose) + ".pem")
		if err := os.WriteFile(file, chain, 0o644); err != nil {
			return err
		}
		if _, err := b.Pforte(ctx, "owner", "key", "install", string(purpose), file); err != nil {
			return err
		}
	}
	return nil
}

// Push lets the provider push a De-Mail to the box.
func (b *Box) Push(ctx context.Context, d dmdatest.DeMail) (dmdatest.Composed, error) {
	return b.World.Provider.Push(ctx, boxPush(), d)
}

// boxPush is where the box takes De-Mails from the provider.
func boxPush() string { return netip.AddrPortFrom(boxProvider(), layout.PortProvider).String() }
