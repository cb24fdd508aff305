package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const tpmWait = 10 * time.Second

// startTPM runs swtpm on the machine's TPM state until QEMU hangs up. Absolute
// paths throughout: QEMU's CMD_INIT fails on relative ones.
func (m *Machine) startTPM(ctx context.Context) error {
	log, err := os.Create(m.path("swtpm.log"))
	if err != nil {
		return fmt.Errorf("vm: start TPM: %w", err)
	}
	cmd := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2", "--terminate",
		"--tpmstate", "dir="+m.path("tpm"),
		"--ctrl", "type=unixio,path="+m.path("tpm.sock"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("vm: start TPM: %w; install the Debian package swtpm", err), log.Close())
	}
	m.mu.Lock()
	m.swtpm = cmd
	m.mu.Unlock()
	deadline := time.Now().Add(tpmWait)
	for {
		_, err := os.Stat(m.path("tpm.sock"))
		if err == nil {
			return log.Close() // the child has its own descriptor
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			m.stopTPM()
			return errors.Join(fmt.Errorf("vm: start TPM: its control socket did not appear: %w", err), log.Close())
		}
		select {
		case <-ctx.Done():
			m.stopTPM()
			return errors.Join(ctx.Err(), log.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// ownGroup keeps a child out of the terminal's process group: Ctrl-C is for
// whoever runs the machine, who then switches it off in good order.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// stopTPM kills swtpm and waits for it; its state is on disk after every command.
func (m *Machine) stopTPM() {
	m.mu.Lock()
	cmd := m.swtpm
	m.swtpm = nil
	m.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}
