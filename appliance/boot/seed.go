package boot

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"gitlab.opencode.de/pforte/pforte/appliance/boot/partition"
	"gitlab.opencode.de/pforte/pforte/appliance/boot/report"
	"gitlab.opencode.de/pforte/pforte/internal/config"
	"gitlab.opencode.de/pforte/pforte/internal/layout"
)

const (
	// maxSeed bounds a seed in bytes: the envelope around the largest document.
	maxSeed = 48 << 20
	// seedWait is how long a box without any configuration waits for a seed
	// volume; stickWait is for one that has a configuration, while a USB stick
	// is there that the kernel may still be looking at.
	seedWait  = 10 * time.Second
	stickWait = 3 * time.Second
	// seedMount is where the seed volume is mounted while it is read.
	seedMount = layout.RunDir + "/seed"
)

// store is where the box keeps its configuration.
type store interface {
	Put(envelope []byte) (*config.Document, error)
	Current() (*config.Document, error)
}

// memoryStore takes one configuration for this boot only: that of a locked box,
// which needs it to bring up the management network.
type memoryStore struct {
	owner crypto.PublicKey
	path  string
}

// Put keeps the envelope if the owner signed it and it has no fault.
func (s memoryStore) Put(envelope []byte) (*config.Document, error) {
	doc, err := config.Open(envelope, s.owner)
	if err != nil {
		return nil, err
	}
	return doc, os.WriteFile(s.path, envelope, 0o644)
}

// Current is always none.
func (memoryStore) Current() (*config.Document, error) { return nil, config.ErrNone }

// readSeed looks for a volume labelled layout.SeedVolume and takes its
// configuration, if the owner signed it, it has no fault, and it is newer. The
// seed is foreign until then; whatever is wrong with it, the boot goes on.
func (b *box) readSeed(ctx context.Context) error {
	owner, err := config.LoadOwnerKey(layout.OwnerKey)
	if err != nil {
		return err
	}
	var kept store = config.NewStore(layout.ConfigDir, owner)
	b.report.ConfigFile = layout.ConfigFile
	if b.report.Locked != nil {
		kept = memoryStore{owner: owner, path: layout.LockedConfig}
		b.report.ConfigFile = layout.LockedConfig
	}
	var serial uint64
	switch current, err := kept.Current(); {
	case err == nil:
		serial = current.Serial
	case !errors.Is(err, config.ErrNone):
		b.mark("boot.fault", "line", 0, "text", err)
	}
	envelope, device, err := fetchSeed(ctx, sysBlock{"/sys/class/block", "/dev"}, b.seedPatience(serial))
	b.report.Seed = judgeSeed(kept, owner, serial, envelope, err)
	b.report.Seed.Device = device
	if b.report.Seed.Serial == 0 {
		b.report.ConfigFile = ""
	}
	b.showSeed()
	return nil
}

// judgeSeed puts envelope into the store, if there is one, and says what came
// of it. serial is that of the configuration so far.
func judgeSeed(kept store, owner crypto.PublicKey, serial uint64, envelope []byte, err error) report.Seed {
	if err == nil && envelope == nil {
		return report.Seed{Verdict: report.Kept, Serial: serial}
	}
	var doc *config.Document
	if err == nil {
		doc, err = config.Open(envelope, owner)
	}
	if err == nil && doc.Serial == serial {
		return report.Seed{Verdict: report.Kept, Serial: serial, Reason: "the seed is already in use"}
	}
	if err == nil {
		doc, err = kept.Put(envelope)
	}
	if err == nil {
		return report.Seed{Verdict: report.Accepted, Serial: doc.Serial}
	}
	seed := report.Seed{Verdict: report.Refused, Serial: serial}
	var faults config.Faults
	if !errors.As(err, &faults) {
		seed.Reason = err.Error()
		return seed
	}
	seed.Reason = fmt.Sprintf("%d faults", len(faults))
	for _, f := range faults {
		seed.Faults = append(seed.Faults, report.SeedFault{Line: f.Line, Text: f.String()})
	}
	return seed
}

// showSeed prints the verdict and every fault.
func (b *box) showSeed() {
	s := b.report.Seed
	for _, f := range s.Faults {
		b.mark("boot.fault", "line", f.Line, "text", f.Text)
	}
	b.mark("boot.seed", "serial", s.Serial, "verdict", s.Verdict, "faults", len(s.Faults),
		"device", s.Device, "reason", s.Reason, "uptime", uptime())
	if s.Verdict == report.Refused {
		fmt.Fprintf(b.console, "\nThe configuration on the seed volume was refused: %s. The box keeps what it had (serial %d).\n"+
			"Die Konfiguration auf dem Datenträger wurde abgelehnt: %s. Die Box behält die bisherige (Nummer %d).\n\n",
			s.Reason, s.Serial, s.Reason, s.Serial)
	}
}

// seedPatience is how long to wait for a seed volume.
func (b *box) seedPatience(serial uint64) time.Duration {
	switch {
	case serial == 0:
		return seedWait
	case usbStorage("/sys/bus/usb/devices"):
		return stickWait
	}
	return 0
}

// usbStorage reports whether a mass storage device is plugged in (USB class 8).
func usbStorage(dir string) bool {
	classes, err := filepath.Glob(filepath.Join(dir, "*", "bInterfaceClass"))
	if err != nil {
		return false
	}
	for _, path := range classes {
		if class, err := os.ReadFile(path); err == nil && string(class) == "08\n" {
			return true
		}
	}
	return false
}

// fetchSeed finds the seed volume and reads the configuration on it. Without a
// volume it returns nothing, and no error.
func fetchSeed(ctx context.Context, block sysBlock, patience time.Duration) (envelope []byte, device string, err error) {
	await(ctx, patience, func() bool {
		device, err = block.labelled(layout.SeedVolume)
		return err != nil || device != ""
	})
	if err != nil || device == "" {
		return nil, "", err
	}
	const safe = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := mount(mountPoint{device, seedMount, "vfat", safe, ""}); err != nil {
		return nil, device, err
	}
	defer func() { err = errors.Join(err, unmount(seedMount)) }()
	envelope, err = readBounded(filepath.Join(seedMount, layout.SeedConfig), maxSeed)
	return envelope, device, err
}

// labelled finds the first FAT volume with the label, or "".
func (s sysBlock) labelled(label string) (string, error) {
	devices, err := s.list()
	if err != nil {
		return "", err
	}
	for _, d := range devices {
		if got, err := fatLabel(d.path); err == nil && got == label {
			return d.path, nil
		}
	}
	return "", nil
}

func fatLabel(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return partition.FATLabel(f)
}

func unmount(path string) error {
	if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return os.Remove(path)
}

// readBounded reads a regular file of at most max bytes.
func readBounded(path string, max int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%s: more than %d bytes", path, max)
	}
	return data, nil
}
