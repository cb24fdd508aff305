package keyclient

import (
	"context"
	"fmt"

	"gitlab.opencode.de/pforte/pforte/hsm"
	"gitlab.opencode.de/pforte/pforte/internal/localapi"
)

// Control talks to keyd's control socket: certificates in and out.
type Control struct {
	api *localapi.Client
}

// NewControl returns a client of the control socket at path
// (layout.KeydControlSocket). It does not connect yet.
func NewControl(socket string) *Control {
	return &Control{localapi.Dial(socket, Codes()...)}
}

// List returns the state of every key, in the order of hsm.Purposes.
func (c *Control) List(ctx context.Context) ([]Status, error) {
	var r ListResponse
	if err := c.api.Call(ctx, MethodList, nil, &r); err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return r.Keys, nil
}

// CSR returns a certificate request (PKCS #10, PEM) for the key of purpose p,
// signed by it.
func (c *Control) CSR(ctx context.Context, p hsm.Purpose, subject Subject) ([]byte, error) {
	var r CSRResponse
	if err := c.api.Call(ctx, MethodCSR, CSRRequest{p, subject}, &r); err != nil {
		return nil, fmt.Errorf("certificate request for %s: %w", p, err)
	}
	return []byte(r.PEM), nil
}

// Install replaces the certificate of purpose p by a PEM chain, the key's own
// certificate first. A chain for another key is hsm.ErrCertificateMismatch; one
// that cannot serve the purpose is hsm.ErrBadCertificate, with every fault.
// Then the old one stays.
func (c *Control) Install(ctx context.Context, p hsm.Purpose, chain []byte) (Status, error) {
	var r Status
	if err := c.api.Call(ctx, MethodInstall, InstallRequest{p, string(chain)}, &r); err != nil {
		return Status{}, fmt.Errorf("install certificate of %s: %w", p, err)
	}
	return r, nil
}
