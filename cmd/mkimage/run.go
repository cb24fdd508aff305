package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gitlab.opencode.de/pforte/pforte/image"
	"gitlab.opencode.de/pforte/pforte/image/devkeys"
	"gitlab.opencode.de/pforte/pforte/image/secureboot"
)

var errUsage = errors.New("wrong usage")

const usage = `mkimage builds the firmware image of a Pforte box.

  mkimage [flags]                     a development image in build/, with throw-away keys
  mkimage -update                     the same with the newest Debian packages; rewrites debian.lock
  mkimage -variant release -locked -version 1.4.0 -epoch 3 -trust DIR \
          -secureboot-key db.key -secureboot-cert db.crt -pcr-key pcr.key

Files of a release: -trust names a folder with owner.pem, vendor-root.json,
owner-root.json, PK.auth, KEK.auth, db.auth. Keys are PKCS #8 in PEM; package image
takes any crypto.Signer, so that keys in hardware need only another command.

Exit codes: 0 built, 1 failed, 2 wrong usage.

Flags:
`

// keyFiles are the flags that only a release build uses.
type keyFiles struct {
	trust, secureBootKey, secureBootCert, pcrKey string
}

func run(ctx context.Context, args []string, stdout, stderr *os.File) error {
	var o image.Options
	var keys keyFiles
	var asJSON bool
	var epoch uint
	f := flag.NewFlagSet("mkimage", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, usage); f.PrintDefaults() }
	f.StringVar(&o.OutDir, "out", "", "output `folder` (default build/ in the source tree)")
	f.StringVar(&o.CacheDir, "cache", "", "cache `folder` (default pforte in the user's cache folder)")
	f.StringVar(&o.Version, "version", image.DefaultVersion, "`version` of the image")
	f.UintVar(&epoch, "epoch", 0, "rollback `epoch`: boxes refuse images of a lower one")
	f.StringVar(&o.Variant, "variant", image.Dev, "dev or release")
	f.StringVar(&o.Overlay, "overlay", "", "`folder` laid over the root file system (dev only)")
	f.BoolVar(&o.Locked, "locked", false, "refuse packages that differ from debian.lock")
	f.BoolVar(&o.Update, "update", false, "take the newest packages and rewrite debian.lock")
	f.StringVar(&o.Mirror, "mirror", "", "Debian `archive[,security archive]` (default: the host's own)")
	f.BoolVar(&asJSON, "json", false, "print the result as JSON")
	f.StringVar(&keys.trust, "trust", "", "`folder` with what the box trusts (release only)")
	f.StringVar(&keys.secureBootKey, "secureboot-key", "", "PEM `file` (release only)")
	f.StringVar(&keys.secureBootCert, "secureboot-cert", "", "PEM `file` (release only)")
	f.StringVar(&keys.pcrKey, "pcr-key", "", "PEM `file` (release only)")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	if f.NArg() > 0 || uint64(epoch) > 1<<32-1 {
		f.Usage()
		return errUsage
	}
	o.Epoch, o.Progress = uint32(epoch), stderr
	if err := keys.fill(&o); err != nil {
		return err
	}
	result, err := image.Build(ctx, o)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(result)
	}
	return report(stdout, result)
}

func report(w io.Writer, r *image.Result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nPforte %s (%s, epoch %d)\n", r.Version, r.Variant, r.Epoch)
	fmt.Fprintf(&b, "image     %s\n          %.1f MiB of at most %d MiB, sha256 %s\n", r.UKI, float64(r.Size)/(1<<20), image.MaxUKI>>20, r.SHA256)
	for _, p := range r.Parts {
		fmt.Fprintf(&b, "          %6.1f MiB  %s\n", float64(p.Size)/(1<<20), p.Name)
	}
	fmt.Fprintf(&b, "unsigned  sha256 %s\n", r.Unsigned)
	fmt.Fprintf(&b, "disk      %s\nmanifest  %s\n", r.Disk, r.Manifest)
	_, err := io.WriteString(w, b.String())
	return err
}

// fill sets the options' keys: throw-away ones for dev, the named files for a release.
func (k keyFiles) fill(o *image.Options) error {
	if o.Variant != image.Release {
		if k != (keyFiles{}) {
			return errors.New("keys are named for a release only; add -variant release")
		}
		dir := o.CacheDir
		if dir == "" {
			var err error
			if dir, err = image.CacheDir(); err != nil {
				return err
			}
		}
		set, err := devkeys.Open(filepath.Join(dir, image.DevKeysDir))
		if err != nil {
			return err
		}
		return o.DevKeys(set)
	}
	var err error
	if o.SecureBootSigner, err = readKey("-secureboot-key", k.secureBootKey); err != nil {
		return err
	}
	if o.PCRSigner, err = readKey("-pcr-key", k.pcrKey); err != nil {
		return err
	}
	if o.SecureBootCert, err = readCertificate(k.secureBootCert); err != nil {
		return err
	}
	o.Trust, err = readTrust(k.trust)
	return err
}

func readKey(flagName, file string) (crypto.Signer, error) {
	if file == "" {
		return nil, fmt.Errorf("a release needs %s", flagName)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := devkeys.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

func readCertificate(file string) (*x509.Certificate, error) {
	if file == "" {
		return nil, errors.New("a release needs -secureboot-cert")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no PEM block CERTIFICATE", file)
	}
	return x509.ParseCertificate(block.Bytes)
}

func readTrust(dir string) (t image.Trust, err error) {
	if dir == "" {
		return t, errors.New("a release needs -trust")
	}
	for name, to := range map[string]*[]byte{"owner.pem": &t.OwnerKey, "vendor-root.json": &t.VendorRoot, "owner-root.json": &t.OwnerRoot} {
		if *to, err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return t, err
		}
	}
	t.SecureBoot = map[string][]byte{}
	for name := range (&secureboot.Updates{}).Files() {
		if t.SecureBoot[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			return t, err
		}
	}
	return t, nil
}
