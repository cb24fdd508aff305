package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"gitlab.opencode.de/pforte/pforte/qemu/peers"
)

//go:embed aiosmtpd.py
var aiosmtpdScript string

// python is a peer that runs on the host, as any user.
type python struct {
	cmd  *exec.Cmd
	life io.Closer
}

// Stop ends it.
func (p *python) Stop() {
	p.life.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// aiosmtpd runs Debian's python3-aiosmtpd.
func aiosmtpd(ctx context.Context, dir string, w peers.Wiring) (stopper, error) {
	if _, err := os.Stat("/usr/lib/python3/dist-packages/aiosmtpd"); err != nil {
		return nil, fmt.Errorf("%w: python3-aiosmtpd; run `make setup`", peers.ErrMissing)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	text, err := peers.EncodePEM(w.Cert)
	if err != nil {
		return nil, err
	}
	script, own, clients := filepath.Join(dir, "server.py"), filepath.Join(dir, "own.pem"), filepath.Join(dir, "clients.pem")
	if err := errors.Join(os.WriteFile(script, []byte(aiosmtpdScript), 0o600), os.WriteFile(own, []byte(text), 0o600), os.WriteFile(clients, []byte(w.ClientCA), 0o600)); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &python{cmd: exec.Command("/usr/bin/python3", script, own, clients, fmt.Sprint(w.Plain), fmt.Sprint(w.StartTLS), fmt.Sprint(w.Implicit), fmt.Sprint(w.Next))}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if p.life, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for _, port := range []int{w.Plain, w.StartTLS, w.Implicit} {
		if err := listening(ctx, port); err != nil {
			p.Stop()
			return nil, err
		}
	}
	return p, nil
}

// listening waits until somebody takes connections on a port.
func listening(ctx context.Context, port int) error {
	limit := time.Now().Add(20 * time.Second)
	for {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return c.Close()
		}
		if ctx.Err() != nil || time.Now().After(limit) {
			return fmt.Errorf("nobody listens: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
