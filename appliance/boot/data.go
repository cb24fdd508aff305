package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/volume"
	"gitlab.opencode.de/pforte/pforte/hsm/seal"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	// diskWait bounds the wait for the boot disk; server controllers take long
	// to find theirs.
	diskWait = 30 * time.Second
	// lockedSize bounds /var of a locked box, which is in memory.
	lockedSize = "size=10%,mode=0755"
)

// findDisk finds the disk that the box booted from.
func (b *box) findDisk(ctx context.Context) error {
	block := sysBlock{"/sys/class/block", "/dev"}
	var err error
	await(ctx, diskWait, func() bool {
		b.disk, err = block.find(b.firmware.Partition)
		return !errors.Is(err, errNoDisk)
	})
	if err != nil {
		b.lock(err)
		return nil
	}
	b.report.Disk, b.report.ESP, b.report.Data = "/dev/"+b.disk.name, b.disk.esp.path, b.disk.data.path
	return nil
}

// openVolume opens the data volume, unless there is a reason not to.
func (b *box) openVolume(ctx context.Context) error {
	if b.report.Locked != nil {
		return nil
	}
	formatted, err := b.openData(ctx)
	if err != nil {
		b.lock(err)
		return nil
	}
	if b.report.Formatted = formatted; formatted {
		b.mark("boot.formatted", "device", b.disk.data.path, "uptime", uptime())
	}
	b.mark("boot.unlocked", "by", "tpm", "uptime", uptime())
	return nil
}

func (b *box) openData(ctx context.Context) (formatted bool, err error) {
	f, err := os.OpenFile(b.disk.data.path, os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	scratch := filepath.Join(layout.RunDir, "volume")
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return false, err
	}
	defer os.RemoveAll(scratch)
	return volume.Volume{
		Partition: f,
		Path:      b.disk.data.path,
		Size:      b.disk.data.size * sectorSize,
		Scratch:   scratch,
		Tools:     programs{b.watchdog},
		Keeper:    keeper{b.tpm},
	}.Open(ctx)
}

// keeper lets the TPM keep the key of the data volume for this boot state.
type keeper struct{ tpm transport.TPM }

func (k keeper) Seal(key []byte) ([]byte, error) {
	blob, err := seal.Seal(k.tpm, key, seal.BootState{})
	if err != nil {
		return nil, err
	}
	return blob.Marshal()
}

func (k keeper) Unseal(data []byte) ([]byte, error) {
	blob, err := seal.Parse(data)
	if err != nil {
		return nil, err
	}
	return seal.Unseal(k.tpm, blob)
}

// varFolder is a folder that the services find on /var.
type varFolder struct {
	path string
	mode os.FileMode
	uid  int // and gid
}

func varFolders() []varFolder {
	return []varFolder{
		{"/var/cache", 0o755, 0},
		{"/var/lib", 0o755, 0},
		{"/var/log", 0o755, 0},
		{"/var/log/journal", 0o755, 0}, // its presence makes the journal persistent
		{"/var/tmp", 0o777 | os.ModeSticky, 0},
		{layout.StateDir, 0o755, 0},
		{layout.ConfigDir, 0o755, 0},
		{layout.StateDir + "/netd", 0o700, layout.UIDNetd},
		{layout.StateDir + "/keyd", 0o700, layout.UIDKeyd},
		{layout.StateDir + "/relayd", 0o700, layout.UIDRelayd},
		{layout.StateDir + "/updated", 0o700, layout.UIDUpdated},
		{layout.StateDir + "/apid", 0o700, layout.UIDApid},
	}
}

// mountVar mounts the data volume, or memory in a locked box, and makes the
// services' folders.
//
// A file system that finds a fault in itself turns read-only, so that the relay
// sees a sick disk and refuses mail instead of losing it.
func (b *box) mountVar(context.Context) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if b.report.Locked == nil {
		err := mount(mountPoint{volume.Mapped, layout.VarDir, "ext4", safe, "errors=remount-ro,barrier=1"})
		if err != nil {
			b.lock(fmt.Errorf("%w: %w", errMount, err))
		}
	}
	if b.report.Locked != nil {
		if err := mount(mountPoint{"tmpfs", layout.VarDir, "tmpfs", safe, lockedSize}); err != nil {
			return err
		}
	}
	if err := makeFolders(varFolders()); err != nil {
		return err
	}
	return makeLinks(map[string]string{"/var/run": "../run", "/var/lock": "../run/lock"})
}

// makeFolders makes what is missing and puts mode and owner right.
func makeFolders(folders []varFolder) error {
	for _, f := range folders {
		if err := os.Mkdir(f.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(f.path, f.mode); err != nil {
			return err
		}
		if err := os.Lchown(f.path, f.uid, f.uid); err != nil {
			return err
		}
	}
	return nil
}

// makeLinks makes the symbolic links (path → target) that are missing.
func makeLinks(links map[string]string) error {
	for path, target := range links {
		if err := os.Symlink(target, path); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
