package boot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/units"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/durable"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

// prepareServices leaves what the services find: the listening sockets that the
// configuration asks for, the TPM in keyd's hands (there is no udev to do it),
// and a machine id that stays, so that the journal is one.
func (b *box) prepareServices(context.Context) error {
	if err := os.Chown(tpmDevice, layout.UIDKeyd, layout.UIDKeyd); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("give the TPM to keyd: %w", err)
	}
	if b.report.Locked == nil {
		if err := keepMachineID(layout.MachineID, "/etc/machine-id"); err != nil {
			return err
		}
	}
	if b.report.ConfigFile == "" {
		return nil
	}
	doc, err := b.configuration()
	if err != nil { // it was readable when it was accepted: the box runs without it, and says so
		b.mark("boot.fault", "line", 0, "text", err)
		b.report.ConfigFile = ""
		return nil
	}
	return units.WriteSockets(layout.SystemdRunDir, doc)
}

// configuration opens the envelope that the services start with.
func (b *box) configuration() (*config.Document, error) {
	owner, err := config.LoadOwnerKey(layout.OwnerKey)
	if err != nil {
		return nil, err
	}
	envelope, err := readBounded(b.report.ConfigFile, maxSeed)
	if err != nil {
		return nil, err
	}
	return config.Open(envelope, owner)
}

// keepMachineID makes the box's machine id (machine-id(5): 32 hex digits) at
// the first boot and shows it at target.
func keepMachineID(kept, target string) error {
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails, see crypto/rand
		if err := durable.WriteFile(kept, []byte(hex.EncodeToString(id[:])+"\n"), 0o444); err != nil {
			return fmt.Errorf("machine id: %w", err)
		}
	}
	if err := unix.Mount(kept, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("machine id: mount %s on %s: %w", kept, target, err)
	}
	return nil
}
