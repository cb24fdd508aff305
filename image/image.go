// Package image builds the box's one file and everything around it.
//
// [Build] runs the declared steps in order (debian, userland, root, inspect,
// squashfs, initramfs, uki, disk, manifest; the work is done in packages of their own below
// this one) and leaves in the output folder:
//
//	pforte.efi           the signed unified kernel image: the firmware
//	pforte.unsigned.efi  the same before signing, bit-identical for the same inputs
//	pforte.img           a disk to boot in a virtual machine, or to copy on a real one
//	manifest.json        CycloneDX: what went in, and the expected PCR 11
//	root/                the root file system, unpacked, for tests
//
// It needs no root: packages are unpacked, not installed, and owners are set while
// packing. It needs Go, apt and dpkg-deb on the host, and nothing else: mksquashfs
// is Debian 13's own, run out of its package.
//
// The same source tree, debian.lock, options and Go toolchain give the same unsigned image in
// every folder and on every host. The signature and the disk's identifiers differ
// each time.
//
// Every key comes through a crypto.Signer. Only a development build ([DevKeys])
// makes throw-away keys; it says VARIANT_ID=dev in os-release.
package image

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gitlab.opencode.de/pforte/pforte/image/debian"
	"gitlab.opencode.de/pforte/pforte/image/initramfs"
	"gitlab.opencode.de/pforte/pforte/image/root"
	"gitlab.opencode.de/pforte/pforte/image/uki"
	"gitlab.opencode.de/pforte/pforte/image/userland"
)

// MaxUKI is the largest image, in bytes, that Build lets pass. Firmware reads it
// whole into memory and hashes it twice; three of them must fit on the ESP.
const MaxUKI = 64 << 20

// Variants of an image.
const (
	Dev     = "dev"
	Release = "release"
)

// DefaultVersion is used where nobody names one.
const DefaultVersion = "0.1.0"

//go:embed debian.lock
var lockFile []byte

// Options says what to build. Zero values stand for what the comment says.
type Options struct {
	Source   string // folder of this source tree; "" searches upwards from the working folder
	OutDir   string // "" means Source/build
	CacheDir string // "" means pforte in the user's cache folder
	Version  string // digits, letters, dots, hyphens; "" means DefaultVersion
	Epoch    uint32 // rollback epoch: a box that ran a higher one refuses this image
	Variant  string // Dev or Release; "" means Dev
	Overlay  string // folder laid over the root; Dev only
	Mirror   string // "ARCHIVE[,SECURITY]"; "" asks the host's apt configuration
	Locked   bool   // refuse packages that differ from debian.lock
	Update   bool   // take the newest packages and rewrite debian.lock
	DataSize int64  // bytes of the disk's data partition; 0 means disk.DefaultDataSize

	Trust Trust
	// SecureBootSigner (RSA) signs the image, SecureBootCert is its certificate.
	SecureBootSigner crypto.Signer
	SecureBootCert   *x509.Certificate
	// PCRSigner (RSA) signs the policy under which secrets of the data volume open.
	PCRSigner crypto.Signer

	Progress io.Writer // nil means silent
}

// Trust is what the box believes in from the start. All are public.
type Trust struct {
	OwnerKey   []byte // PEM, PKIX: signs configurations
	VendorRoot []byte // TUF root metadata of the vendor's releases
	OwnerRoot  []byte // TUF root metadata of the owner's consent
	// SecureBoot holds the signed updates of the firmware's key variables by file
	// name (secureboot.Updates.Files).
	SecureBoot map[string][]byte
}

// Part is one piece of the image and its size in bytes in the image.
type Part struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// Result says where everything lies and what it is.
type Result struct {
	UKI         string `json:"uki"`
	UnsignedUKI string `json:"unsignedUKI"`
	Disk        string `json:"disk"`
	Manifest    string `json:"manifest"`
	Root        string `json:"root"` // unpacked root file system
	Version     string `json:"version"`
	Variant     string `json:"variant"`
	Epoch       uint32 `json:"epoch"`
	Size        int64  `json:"size"`   // of the signed image
	SHA256      string `json:"sha256"` // of the signed image
	Unsigned    string `json:"unsignedSHA256"`
	Parts       []Part `json:"parts"`
	// PCR11 is the expected value, in hex, by the boot phases that were passed.
	PCR11 map[string]string `json:"pcr11"`
	// Changes are differences of the packages from debian.lock.
	Changes []string `json:"changes,omitempty"`
}

// builder carries the results from step to step.
type builder struct {
	Options
	progress *progress
	work     string // folder for what lies between
	set      *debian.Set
	programs *userland.Programs
	tree     *root.Tree
	modules  []initramfs.Module
	initrd   []byte
	parts    uki.Parts
	unsigned []byte
	result   Result
}

type step struct {
	name string
	// run does the step and says in a few words what came out.
	run func(context.Context) (string, error)
}

// Build makes an image. The output folder's earlier results are replaced.
func Build(ctx context.Context, o Options) (*Result, error) {
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	if err := b.checkKeys(); err != nil {
		return nil, err
	}
	err = b.runSteps(ctx, append(b.treeSteps(),
		step{"squashfs", b.stepSquash},
		step{"initramfs", b.stepInitramfs},
		step{"uki", b.stepUKI},
		step{"disk", b.stepDisk},
		step{"manifest", b.stepManifest},
	))
	if err != nil {
		return nil, err
	}
	return &b.result, nil
}

// Staged is the root file system as a folder, and the packages that it was made
// from. The set also has the programs that tests call (Set.Command).
type Staged struct {
	Root string
	Set  *debian.Set
	Tree *root.Tree
}

// Stage makes the root file system only, in OutDir/root. It needs no keys; Trust
// may be empty.
func Stage(ctx context.Context, o Options) (*Staged, error) {
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	if err := b.runSteps(ctx, b.treeSteps()); err != nil {
		return nil, err
	}
	return &Staged{b.result.Root, b.set, b.tree}, nil
}

// Packages brings the Debian packages alone, for tests that run one of Debian
// 13's own programs (systemd-measure, systemd-analyze).
func Packages(ctx context.Context, o Options) (*debian.Set, error) {
	b, err := newBuilder(o)
	if err != nil {
		return nil, err
	}
	return b.set, b.runSteps(ctx, []step{{"debian", b.stepDebian}})
}

func (b *builder) treeSteps() []step {
	return []step{{"prepare", b.stepPrepare}, {"debian", b.stepDebian}, {"userland", b.stepUserland}, {"root", b.stepRoot}, {"inspect", b.stepInspect}}
}

func (b *builder) runSteps(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		done := b.progress.start(s.name)
		detail, err := s.run(ctx)
		done(detail, err)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

func newBuilder(o Options) (*builder, error) {
	if err := o.defaults(); err != nil {
		return nil, err
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	b := &builder{Options: o, progress: newProgress(o.Progress), work: filepath.Join(o.OutDir, "work")}
	b.result = Result{
		Version: o.Version, Variant: o.Variant, Epoch: o.Epoch,
		Root: filepath.Join(o.OutDir, "root"), PCR11: map[string]string{},
	}
	return b, nil
}

// stepPrepare throws away what an earlier build left between its steps.
func (b *builder) stepPrepare(context.Context) (string, error) {
	err := errors.Join(os.RemoveAll(b.work), os.RemoveAll(b.result.Root), os.MkdirAll(b.work, 0o755))
	return b.OutDir, err
}

func (o *Options) defaults() error {
	if o.Source == "" {
		dir, err := findSource()
		if err != nil {
			return err
		}
		o.Source = dir
	}
	if o.OutDir == "" {
		o.OutDir = filepath.Join(o.Source, "build")
	}
	if o.CacheDir == "" {
		dir, err := CacheDir()
		if err != nil {
			return err
		}
		o.CacheDir = dir
	}
	if o.Version == "" {
		o.Version = DefaultVersion
	}
	if o.Variant == "" {
		o.Variant = Dev
	}
	for _, p := range []*string{&o.Source, &o.OutDir, &o.CacheDir} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	return nil
}

// CacheDir is where builds keep what they can use again.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w; name one with -cache", err)
	}
	return filepath.Join(dir, "pforte"), nil
}

// findSource searches the folder with our go.mod from the working folder upwards.
func findSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(mod, []byte("module "+userland.ModulePath+"\n")) {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not inside Pforte's source tree; the image is built from source")
		}
		dir = up
	}
}

func (o *Options) check() error {
	var faults []error
	if o.Variant != Dev && o.Variant != Release {
		faults = append(faults, fmt.Errorf("variant %q is neither %s nor %s", o.Variant, Dev, Release))
	}
	if o.Variant == Release && o.Overlay != "" {
		faults = append(faults, errors.New("a release takes no overlay: what ships is what the source says"))
	}
	if strings.Trim(o.Version, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-+~") != "" {
		faults = append(faults, fmt.Errorf("version %q has characters other than letters, digits and . - + ~", o.Version))
	}
	if o.Locked && o.Update {
		faults = append(faults, errors.New("-locked and -update exclude each other"))
	}
	return errors.Join(faults...)
}

// checkKeys reports every missing key at once.
func (o *Options) checkKeys() error {
	var missing []string
	for _, k := range []struct {
		name string
		here bool
	}{
		{"Secure Boot signer", o.SecureBootSigner != nil},
		{"Secure Boot certificate", o.SecureBootCert != nil},
		{"PCR signer", o.PCRSigner != nil},
		{"owner's configuration key", len(o.Trust.OwnerKey) > 0},
		{"vendor's TUF root", len(o.Trust.VendorRoot) > 0},
		{"owner's TUF root", len(o.Trust.OwnerRoot) > 0},
		{"Secure Boot variables", len(o.Trust.SecureBoot) > 0},
	} {
		if !k.here {
			missing = append(missing, k.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("missing for a %s build: %s", o.Variant, strings.Join(missing, ", "))
	}
	return nil
}
